//! TLS to Redis: trusted certificate authorities and the client certificate.

use std::{fmt, io, path::Path, sync::Arc};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};

use crate::tls::pem;

/// Files for TLS, all in PEM format.
#[derive(Debug, Clone, Copy, Default)]
pub struct TlsFiles<'a> {
    /// Trusted certificate authorities; `None` = those of this machine.
    pub authorities: Option<&'a Path>,
    /// Client certificate chain and its private key, if Redis requires a client certificate.
    pub identity: Option<(&'a Path, &'a Path)>,
}

/// Opens TLS connections.
#[derive(Clone)]
pub(crate) struct Tls(TlsConnector);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// The faulty file and the reason, for operators.
    pub(crate) fn new(files: TlsFiles<'_>) -> Result<Self, String> {
        let roots = match files.authorities {
            Some(path) => pem::authorities_in(path)?,
            None => authorities_of_this_machine()?,
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot be initialized: {error}"))?
            .with_root_certificates(roots);
        let config = match files.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let (chain, key_der) = (pem::certificates_in(certificate)?, pem::private_key_in(key)?);
                builder.with_client_auth_cert(chain, key_der).map_err(|error| {
                    format!(
                        "certificate {} and private key {} cannot be used: {error}",
                        certificate.display(),
                        key.display()
                    )
                })?
            }
        };
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Performs the TLS handshake; the certificate must be valid for `host`.
    pub(crate) async fn wrap(&self, host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        self.0.connect(name, stream).await
    }
}

fn authorities_of_this_machine() -> Result<RootCertStore, String> {
    let roots = pem::authorities_of_this_machine();
    if roots.is_empty() {
        let message =
            "the system has no trusted certificate authorities; set l2.tls_ca_file to a PEM file with those of Redis";
        return Err(message.to_owned());
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_pem_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, "not a certificate").unwrap();
        for wrong in [path, dir.path().join("missing.pem")] {
            let error = Tls::new(TlsFiles { authorities: Some(&wrong), identity: None }).unwrap_err();
            assert!(error.contains(&wrong.display().to_string()), "{error}");
        }
    }
}
