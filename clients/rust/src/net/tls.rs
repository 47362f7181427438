//! TLS of connections to nodes.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{net::TcpStream, task::spawn_blocking};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
        WantsVerifier,
        client::{
            WantsClientCert,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    },
};

use super::{address::Address, stream::Cause};

/// Maximum size of a PEM file. The bundle of all public authorities has about 220 KiB.
const FILE_MAX_BYTES: u64 = 4 << 20;
/// ALPN protocol of gRPC.
const HTTP2: &[u8] = b"h2";

/// TLS options of a client: which servers it trusts, and its own certificate.
///
/// Files are read for each new connection, so a client uses rotated certificates without a restart.
#[derive(Clone)]
pub struct Tls {
    trust: Trust,
    identity: Option<(PathBuf, PathBuf)>,
    server_name: Option<String>,
}

/// Certificates that a client accepts.
#[derive(Clone)]
enum Trust {
    System,
    Authorities(PathBuf),
    AuthoritiesPem(Arc<[u8]>),
    Pinned(PathBuf),
}

impl Tls {
    /// Trusts the certificate authorities of the system.
    #[must_use]
    pub fn system() -> Self {
        Self::new(Trust::System)
    }

    /// Trusts the certificate authorities in a PEM file.
    #[must_use]
    pub fn authorities(path: impl Into<PathBuf>) -> Self {
        Self::new(Trust::Authorities(path.into()))
    }

    /// Trusts the certificate authorities in a PEM text.
    #[must_use]
    pub fn authorities_pem(pem: impl AsRef<[u8]>) -> Self {
        Self::new(Trust::AuthoritiesPem(pem.as_ref().into()))
    }

    /// Trusts only the first certificate of a PEM file, regardless of its names and its validity.
    #[must_use]
    pub fn pinned(path: impl Into<PathBuf>) -> Self {
        Self::new(Trust::Pinned(path.into()))
    }

    fn new(trust: Trust) -> Self {
        Self { trust, identity: None, server_name: None }
    }

    /// Sets the client's own certificate and its private key, both PEM files (mutual TLS).
    #[must_use]
    pub fn identity(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// Sets the name that the certificate of every node has to contain. By default, this is the host of the address.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Performs the handshake of a connection.
    pub(super) async fn handshake(&self, stream: TcpStream, address: &Address) -> Result<TlsStream<TcpStream>, Cause> {
        let name = self.name(address).map_err(Cause::Configuration)?;
        let tls = self.clone();
        // A path may be on a slow file system.
        let config = spawn_blocking(move || tls.config()).await;
        let config = config.map_err(|error| Cause::Configuration(error.to_string()))?.map_err(Cause::Configuration)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(cause)?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
        if is_http2 { Ok(stream) } else { Err(Cause::WithoutHttp2) }
    }

    fn name(&self, address: &Address) -> Result<ServerName<'static>, String> {
        let name = self.server_name.as_deref().or(address.host()).unwrap_or_default();
        let wrong = |_| format!("invalid TLS server name {name:?}; expected a DNS name or an IP address");
        ServerName::try_from(name.to_owned()).map_err(wrong)
    }

    /// Reads all files.
    fn config(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot be initialized: {error}"))?;
        let builder = self.trust.verifier(builder, provider)?;
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let wrong = |error| format!("{}: invalid client certificate: {error}", certificate.display());
                let (chain, key) = (certificates_in(certificate)?, key_in(key)?);
                builder.with_client_auth_cert(chain, key).map_err(wrong)?
            }
        };
        config.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(config)
    }
}

/// Shows no certificates: they are long.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trust, identity, server_name } = self;
        let (source, path) = match trust {
            Trust::System => ("system", None),
            Trust::Authorities(path) => ("authorities", Some(path)),
            Trust::AuthoritiesPem(_) => ("authorities_pem", None),
            Trust::Pinned(path) => ("pinned", Some(path)),
        };
        let mut text = f.debug_struct("Tls");
        text.field("trust", &source).field("path", &path);
        text.field("identity", identity).field("server_name", server_name).finish()
    }
}

impl Trust {
    fn verifier(
        &self,
        builder: ConfigBuilder<ClientConfig, WantsVerifier>,
        provider: Arc<CryptoProvider>,
    ) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, String> {
        let roots = match self {
            Self::System => authorities_of_the_system()?,
            Self::Authorities(path) => authorities(certificates_in(path)?, &path.display())?,
            Self::AuthoritiesPem(pem) => authorities(certificates(pem, &PEM_TEXT)?, &PEM_TEXT)?,
            Self::Pinned(path) => {
                // The file has at least one certificate.
                let certificate = certificates_in(path)?.swap_remove(0);
                let pinned = Pinned { certificate, provider };
                return Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(pinned)));
            }
        };
        Ok(builder.with_root_certificates(roots))
    }
}

/// Name of a PEM text without a file.
const PEM_TEXT: &str = "PEM of the authorities";

/// Returns the cause of a failed handshake.
fn cause(error: io::Error) -> Cause {
    let kind = error.kind();
    match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(why)) => Cause::Certificate(reason(why)),
        Some(Error::InvalidMessage(_)) => Cause::WithoutTls,
        Some(other) => Cause::Handshake(other.to_string()),
        None if kind == io::ErrorKind::UnexpectedEof || kind == io::ErrorKind::ConnectionReset => {
            Cause::ClosedHandshake
        }
        None => Cause::Handshake(error.to_string()),
    }
}

/// Returns a sentence for the frequent reasons, which rustls names with one word.
fn reason(why: &CertificateError) -> String {
    let other = why.to_string();
    let text = if matches!(why, CertificateError::UnknownIssuer) {
        "no trusted authority has signed it"
    } else if matches!(why, CertificateError::BadSignature) {
        "a trusted authority has the name of its issuer, but another key"
    } else if matches!(why, CertificateError::ApplicationVerificationFailure) {
        "it differs from the pinned certificate"
    } else {
        &other
    };
    text.to_owned()
}

/// Reads a file of limited size. Devices and pipes are rejected, because a read of them may never end.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let wrong = |why: &dyn fmt::Display| format!("{}: cannot read: {why}", path.display());
    if !std::fs::metadata(path).map_err(|error| wrong(&error))?.is_file() {
        return Err(wrong(&"not a regular file"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| wrong(&error))?;
    file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| wrong(&error))?;
    if bytes.len() as u64 > FILE_MAX_BYTES {
        return Err(wrong(&format_args!("larger than {FILE_MAX_BYTES} bytes")));
    }
    Ok(bytes)
}

fn certificates(pem: &[u8], name: &dyn fmt::Display) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| format!("{name}: invalid PEM certificates: {error}"))?;
    if found.is_empty() { Err(format!("{name}: contains no PEM certificate")) } else { Ok(found) }
}

fn certificates_in(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    certificates(&read(path)?, &path.display())
}

fn key_in(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let key = PrivateKeyDer::from_pem_slice(&read(path)?);
    key.map_err(|error| format!("{}: invalid PEM private key: {error}", path.display()))
}

fn authorities(found: Vec<CertificateDer<'static>>, name: &dyn fmt::Display) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in found {
        roots.add(certificate).map_err(|error| format!("{name}: invalid certificate authority: {error}"))?;
    }
    Ok(roots)
}

fn authorities_of_the_system() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let (added, _ignored) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        return Err("the system has no trusted certificate authorities; specify a file of authorities".to_owned());
    }
    Ok(roots)
}

/// Accepts one certificate, whatever its names are.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
