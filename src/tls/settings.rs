//! TLS settings of one port.

use std::path::PathBuf;

/// Oldest accepted version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// TLS 1.2.
    V12,
    /// TLS 1.3.
    V13,
}

/// A file, with the setting that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// Key of the setting, such as `grpc.tls_cert_file`.
    pub setting: &'static str,
    /// Path of the file.
    pub path: PathBuf,
}

/// Certificates of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clients {
    /// Not requested.
    Ignored,
    /// Requested; verified against these authorities if the client sends one.
    Optional(NamedFile),
    /// Required and verified against these authorities.
    Required(NamedFile),
}

/// Settings of a port with TLS. All files are in PEM format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Certificate of the server, followed by its intermediate certificates.
    pub certificate: NamedFile,
    /// Private key of the certificate.
    pub key: NamedFile,
    /// Certificates of clients.
    pub clients: Clients,
    /// Oldest accepted version.
    pub min_version: Version,
}

impl Settings {
    /// Returns the file of the authorities that verify clients, if any.
    pub(super) fn client_authorities(&self) -> Option<&NamedFile> {
        match &self.clients {
            Clients::Ignored => None,
            Clients::Optional(file) | Clients::Required(file) => Some(file),
        }
    }

    /// Returns all files.
    pub(super) fn files(&self) -> impl Iterator<Item = &NamedFile> {
        [&self.certificate, &self.key].into_iter().chain(self.client_authorities())
    }
}
