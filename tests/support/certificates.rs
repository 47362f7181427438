//! Certificates made at run time, and clients with TLS.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

use super::PATIENCE;

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, in PEM format.
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
        // The name differs from that of the certificates: a certificate with the name of its issuer counts as
        // self-signed.
        parameters.distinguished_name.push(DnType::CommonName, "authority");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = parameters.self_signed(&key).expect("an authority").pem();
        Self { issuer: Issuer::new(parameters, key), pem }
    }

    /// A certificate of this machine, or of a client with this URI.
    pub fn issue(&self, uri: Option<&str>) -> Identity {
        self.issue_until(uri, 2100)
    }

    /// A certificate that expires at the start of a year.
    pub fn issue_until(&self, uri: Option<&str>, year: i32) -> Identity {
        self.issue_with(uri, |parameters| parameters.not_after = date_time_ymd(year, 1, 1))
    }

    /// A certificate that expires at this time in seconds since 1970.
    pub fn issue_until_second(&self, second: u64) -> Identity {
        let until = date_time_ymd(1970, 1, 1) + Duration::from_secs(second);
        self.issue_with(None, |parameters| parameters.not_after = until)
    }

    fn issue_with(&self, uri: Option<&str>, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut parameters = CertificateParams::new(names).expect("names");
        parameters.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().expect("a URI"))));
        parameters.distinguished_name.push(DnType::CommonName, "terrace");
        parameters.not_before = date_time_ymd(2000, 1, 1);
        change(&mut parameters);
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Identity { certificate, key: key.serialize_pem() }
    }

    /// The certificate of the authority in PEM format.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes the certificate of the authority to `ca.pem`.
    pub fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join("ca.pem");
        fs::write(&path, &self.pem).expect("a file");
        path
    }

    /// The configuration of a client that trusts this authority.
    pub fn client(&self, identity: Option<&Identity>, protocols: &[&str]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("PEM")).expect("an authority");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS")
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).expect("PEM")];
                let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("PEM");
                builder.with_client_auth_cert(chain, key).expect("a pair")
            }
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

impl Identity {
    /// A certificate that no authority has signed, of a client with this URI.
    pub fn self_signed(uri: &str) -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
        parameters.subject_alt_names.push(SanType::URI(uri.try_into().expect("a URI")));
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.self_signed(&key).expect("a certificate").pem();
        Self { certificate, key: key.serialize_pem() }
    }

    /// Replaces `NAME.crt` and `NAME.key` in a folder and returns their paths.
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let paths = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
        fs::write(&paths.0, &self.certificate).expect("a file");
        fs::write(&paths.1, &self.key).expect("a file");
        paths
    }

    /// The certificate as it is sent.
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("PEM")
    }
}

/// A blocking connection with TLS.
pub type TlsConnection = StreamOwned<ClientConnection, TcpStream>;

/// Connects and completes the handshake.
pub fn connect(address: &str, config: &Arc<ClientConfig>) -> std::io::Result<TlsConnection> {
    let mut tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from("localhost").expect("a name");
    let mut session = ClientConnection::new(Arc::clone(config), name).expect("a client");
    while session.is_handshaking() {
        session.complete_io(&mut tcp)?;
    }
    Ok(StreamOwned::new(session, tcp))
}

/// The certificate that a server presents to new connections.
pub fn presented(address: &str, config: &Arc<ClientConfig>) -> CertificateDer<'static> {
    let connection = connect(address, config).expect("a handshake");
    connection.conn.peer_certificates().expect("a certificate")[0].clone().into_owned()
}
