//! Reads certificates and private keys from PEM files.

use std::{fmt, path::Path};

use tokio_rustls::rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::files::read_regular;

/// Maximum size of the file of a private key.
const KEY_FILE_MAX_BYTES: u64 = 64 * 1024;
/// Maximum size of a file of certificates. The bundle of all public authorities has about 220 KiB.
const CERTIFICATES_FILE_MAX_BYTES: u64 = 4 << 20;

/// Reads all certificates of a file, in the order of the file.
///
/// # Errors
/// The path and the reason.
pub fn certificates_in(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |error: &dyn fmt::Display| format!("{}: cannot read PEM certificates: {error}", path.display());
    let text = read_regular(path, CERTIFICATES_FILE_MAX_BYTES).map_err(|why| wrong(&why))?;
    let found = CertificateDer::pem_slice_iter(&text);
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| wrong(&error))?;
    if found.is_empty() { Err(wrong(&"the file contains no certificate")) } else { Ok(found) }
}

/// Reads a private key.
///
/// # Errors
/// The path and the reason.
pub fn private_key_in(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let wrong = |why: String| format!("{}: cannot read a PEM private key: {why}", path.display());
    let text = read_regular(path, KEY_FILE_MAX_BYTES).map_err(wrong)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| wrong(error.to_string()))
}

/// Reads the certificate authorities of a file.
///
/// # Errors
/// The path and the reason.
pub fn authorities_in(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates_in(path)? {
        roots
            .add(certificate)
            .map_err(|error| format!("{}: invalid certificate authority: {error}", path.display()))?;
    }
    Ok(roots)
}

/// Returns the certificate authorities that this machine trusts. The store is empty if there are none.
#[must_use]
pub fn authorities_of_this_machine() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let (_added, _ignored) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}
