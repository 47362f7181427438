//! Names and validity of a certificate.

use std::time::Duration;

use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage};

use crate::socket::PeerCertificate;

/// Reads the names and the end of the validity of the certificate of a client or server.
///
/// # Errors
/// The certificate is malformed.
pub(super) fn read(certificate: &CertificateDer<'_>) -> Result<PeerCertificate, String> {
    let parsed = EndEntityCert::try_from(certificate).map_err(|error| error.to_string())?;
    let uris = parsed.valid_uri_names().map(|name| format!("uri:{name}"));
    let names = uris.chain(parsed.valid_dns_names().map(|name| format!("dns:{name}"))).collect();
    Ok(PeerCertificate { names, not_after: not_after(&parsed)? })
}

/// Returns the end of the validity in seconds since 1970. webpki reports it only in the error of an expired certificate:
/// every certificate has expired at the end of time.
fn not_after(certificate: &EndEntityCert<'_>) -> Result<u64, String> {
    let end_of_time = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    let verified = certificate.verify_for_usage(&[], &[], &[], end_of_time, KeyUsage::server_auth(), None, None);
    match verified {
        Err(Error::CertExpired { not_after, .. }) => Ok(not_after.as_secs()),
        Err(error) => Err(error.to_string()),
        Ok(_) => Err("the validity has no end".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType, date_time_ymd};

    use super::*;

    #[test]
    fn uris_come_before_dns_names() {
        let mut parameters = CertificateParams::new(vec!["orders.prod".to_owned(), "10.0.0.1".to_owned()]).unwrap();
        parameters.subject_alt_names.push(SanType::URI("spiffe://prod/ns/orders".try_into().unwrap()));
        parameters.not_after = date_time_ymd(2040, 1, 1);
        let certificate = parameters.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let read = read(certificate.der()).unwrap();
        assert_eq!(read.names, ["uri:spiffe://prod/ns/orders", "dns:orders.prod"]);
        assert_eq!(read.not_after, 2_208_988_800);
    }

    #[test]
    fn a_malformed_certificate_has_no_names() {
        assert!(read(&CertificateDer::from_slice(b"\x30\x03abc")).is_err());
    }
}
