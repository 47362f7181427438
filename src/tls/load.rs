//! Builds the TLS configuration of a port from its files.

use std::sync::Arc;

use tokio_rustls::rustls::{
    ServerConfig, SupportedProtocolVersion,
    crypto::ring,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};

use super::{
    certificate, pem,
    settings::{Clients, Settings, Version},
};
use crate::{clock::Clock, socket::Protocol};

/// TLS configuration of a port.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) config: Arc<ServerConfig>,
    /// End of the validity of the server's certificate, in seconds since 1970.
    pub(super) not_after: u64,
}

/// Versions with TLS 1.2.
const FROM_12: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];
/// Versions without TLS 1.2.
const FROM_13: &[&SupportedProtocolVersion] = &[&TLS13];

/// Reads the files of a port and checks them.
///
/// # Errors
/// The setting of the faulty file, its path and the reason.
pub(super) fn load(port: Protocol, settings: &Settings) -> Result<Loaded, String> {
    let provider = Arc::new(ring::default_provider());
    let (certificate, key) = (&settings.certificate, &settings.key);
    let chain = pem::certificates_in(&certificate.path).map_err(|why| format!("{}: {why}", certificate.setting))?;
    let private_key = pem::private_key_in(&key.path).map_err(|why| format!("{}: {why}", key.setting))?;
    let not_after = check_validity(settings, &chain[0])?;
    let versions = match settings.min_version {
        Version::V12 => FROM_12,
        Version::V13 => FROM_13,
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| format!("TLS cannot be initialized: {error}"))?;
    let builder = match verifier(settings, &provider)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, private_key).map_err(|error| {
        let (certificate_path, key_path) = (certificate.path.display(), key.path.display());
        format!("{}: certificate {certificate_path} and private key {key_path} cannot be used: {error}", key.setting)
    })?;
    // Not kept across reloads: a ticket would restore a certificate that the new authorities may not accept.
    config.ticketer = ring::Ticketer::new().map_err(|error| format!("TLS cannot be initialized: {error}"))?;
    config.alpn_protocols = match port {
        Protocol::Grpc => vec![b"h2".to_vec()],
        Protocol::Http => vec![b"http/1.1".to_vec()],
        Protocol::Resp => Vec::new(),
    };
    Ok(Loaded { config: Arc::new(config), not_after })
}

/// Returns the end of the validity of the server's certificate.
fn check_validity(
    settings: &Settings,
    certificate: &tokio_rustls::rustls::pki_types::CertificateDer<'_>,
) -> Result<u64, String> {
    let file = &settings.certificate;
    let wrong = |why: String| format!("{}: {}: {why}", file.setting, file.path.display());
    let not_after = certificate::read(certificate)
        .map_err(|error| wrong(format!("the first certificate is invalid: {error}")))?
        .not_after;
    let now = Clock::real().unix().0 / 1000;
    if not_after < now {
        return Err(wrong(format!("the certificate expired {} s ago", now - not_after)));
    }
    Ok(not_after)
}

fn verifier(
    settings: &Settings,
    provider: &Arc<tokio_rustls::rustls::crypto::CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    let Some(file) = settings.client_authorities() else { return Ok(None) };
    let wrong = |why: String| format!("{}: {why}", file.setting);
    let roots = Arc::new(pem::authorities_in(&file.path).map_err(wrong)?);
    let builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider));
    let builder = match settings.clients {
        Clients::Optional(_) => builder.allow_unauthenticated(),
        Clients::Required(_) | Clients::Ignored => builder,
    };
    let verifier = builder.build().map_err(|error| wrong(format!("{}: {error}", file.path.display())))?;
    Ok(Some(verifier))
}
