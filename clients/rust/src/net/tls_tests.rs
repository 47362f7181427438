//! Tests of TLS against real listeners.

use std::{fs, net::SocketAddr, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, server::WebPkiClientVerifier},
};

use super::*;
use crate::net::stream::connect;

const LIMIT: Duration = Duration::from_secs(60);

/// A certificate authority in a folder.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        Self::named("authority")
    }

    fn named(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = parameters.self_signed(&key).unwrap().pem();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), &pem).unwrap();
        Self { issuer: Issuer::new(parameters, key), pem, folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes `NAME.pem` and `NAME.key`, a certificate for these hosts.
    fn issue(&self, name: &str, hosts: &[&str]) -> (PathBuf, PathBuf) {
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut parameters = CertificateParams::new(hosts).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let paths = (self.file(&format!("{name}.pem")), self.file(&format!("{name}.key")));
        fs::write(&paths.0, certificate.pem()).unwrap();
        fs::write(&paths.1, key.serialize_pem()).unwrap();
        paths
    }

    /// Returns a server with a new certificate for these hosts; `clients` are authorities of client certificates.
    fn server(&self, hosts: &[&str], clients: Option<&Self>, protocol: Option<&[u8]>) -> ServerConfig {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let roots = Arc::new(authorities(certificates_in(&clients.file("ca.pem")).unwrap(), &"").unwrap());
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
        };
        let (certificate, key) = self.issue("server", hosts);
        let chain = certificates_in(&certificate).unwrap();
        let mut config = builder.with_single_cert(chain, key_in(&key).unwrap()).unwrap();
        config.alpn_protocols = protocol.map(<[u8]>::to_vec).into_iter().collect();
        config
    }
}

/// Accepts one connection. Completes with the client's certificate, after one byte in each direction.
async fn serve(config: ServerConfig) -> (Address, JoinHandle<io::Result<Option<CertificateDer<'static>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string().parse().unwrap();
    let served = tokio::spawn(async move {
        let mut stream = TlsAcceptor::from(Arc::new(config)).accept(listener.accept().await?.0).await?;
        let certificate = stream.get_ref().1.peer_certificates().map(|chain| chain[0].clone().into_owned());
        let byte = stream.read_u8().await?;
        stream.write_u8(byte + 1).await?;
        stream.flush().await?;
        Ok(certificate)
    });
    (address, served)
}

/// Connects and exchanges one byte in each direction.
async fn exchange(address: &Address, tls: &Tls) -> Result<(), String> {
    let mut stream = connect(address, Some(tls), LIMIT).await.map_err(|error| error.to_string())?;
    assert!(stream.has_tls());
    let exchanged = async {
        stream.write_u8(1).await?;
        stream.flush().await?;
        stream.read_u8().await
    };
    assert_eq!(exchanged.await.map_err(|error| error.to_string())?, 2);
    Ok(())
}

/// Connects to a new server with a certificate for these hosts.
async fn try_hosts(authority: &Authority, hosts: &[&str], tls: &Tls) -> Result<(), String> {
    let (address, _served) = serve(authority.server(hosts, None, Some(HTTP2))).await;
    exchange(&address, tls).await.map_err(|why| why.replace(&address.name(), "ADDRESS"))
}

fn rejected(why: &str) -> Result<(), String> {
    Err(format!("cannot connect to ADDRESS: the certificate of the server was rejected: {why}"))
}

#[tokio::test]
async fn certificates_of_trusted_authorities_are_accepted() {
    let (ours, other) = (Authority::new(), Authority::new());
    let hosts = &["127.0.0.1"];
    assert_eq!(try_hosts(&ours, hosts, &Tls::authorities(ours.file("ca.pem"))).await, Ok(()));
    assert_eq!(try_hosts(&ours, hosts, &Tls::authorities_pem(&ours.pem)).await, Ok(()));
    assert_eq!(try_hosts(&ours, hosts, &Tls::authorities_pem(ours.pem.clone() + &other.pem)).await, Ok(()));
    let replaced = rejected("a trusted authority has the name of its issuer, but another key");
    assert_eq!(try_hosts(&ours, hosts, &Tls::authorities_pem(&other.pem)).await, replaced);
    let unknown = rejected("no trusted authority has signed it");
    assert_eq!(try_hosts(&ours, hosts, &Tls::authorities_pem(Authority::named("another").pem)).await, unknown);
}

#[tokio::test]
async fn the_certificate_must_name_the_server() {
    let ours = Authority::new();
    let tls = Tls::authorities_pem(&ours.pem);
    let why = try_hosts(&ours, &["cache.example"], &tls).await.unwrap_err();
    assert!(why.contains("rejected: certificate not valid for name \"127.0.0.1\""), "{why}");
    assert!(why.contains("cache.example"), "{why}");
    assert_eq!(try_hosts(&ours, &["cache.example"], &tls.clone().server_name("cache.example")).await, Ok(()));
    let why = try_hosts(&ours, &["127.0.0.1"], &tls.server_name("a b")).await.unwrap_err();
    assert!(why.ends_with(": invalid TLS server name \"a b\"; expected a DNS name or an IP address"), "{why}");
}

#[tokio::test]
async fn a_resolved_node_has_the_name_that_was_resolved() {
    let ours = Authority::new();
    let tls = Tls::authorities_pem(&ours.pem);
    for (host, works) in [("fleet.example", true), ("other.example", false)] {
        let (address, _served) = serve(ours.server(&["fleet.example"], None, Some(HTTP2))).await;
        let socket: SocketAddr = address.name().parse().unwrap();
        let node = Address::Resolved { socket, host: host.into() };
        assert_eq!(exchange(&node, &tls).await.is_ok(), works, "{host}");
    }
}

#[tokio::test]
async fn a_pinned_certificate_is_accepted_under_any_name() {
    let ours = Authority::new();
    let (address, _served) = serve(ours.server(&["any.example"], None, Some(HTTP2))).await;
    let pinned = Tls::pinned(ours.file("server.pem"));
    assert_eq!(exchange(&address, &pinned).await, Ok(()));
    // The next server has another certificate of the same authority.
    let (other, _key) = ours.issue("other", &["any.example"]);
    let differs = rejected("it differs from the pinned certificate");
    assert_eq!(try_hosts(&ours, &["any.example"], &Tls::pinned(other)).await, differs);
}

#[tokio::test]
async fn the_server_sees_the_certificate_of_the_client() {
    let (ours, clients) = (Authority::new(), Authority::new());
    let tls = Tls::authorities_pem(&ours.pem);
    let (certificate, key) = clients.issue("client", &["client.example"]);
    let (address, served) = serve(ours.server(&["127.0.0.1"], Some(&clients), Some(HTTP2))).await;
    assert_eq!(exchange(&address, &tls.clone().identity(&certificate, key)).await, Ok(()));
    assert_eq!(served.await.unwrap().unwrap().as_ref(), certificates_in(&certificate).unwrap().first());
    // With TLS 1.3, the client learns about the rejection when it reads.
    let (address, _served) = serve(ours.server(&["127.0.0.1"], Some(&clients), Some(HTTP2))).await;
    let why = exchange(&address, &tls).await.unwrap_err();
    assert!(why.contains("CertificateRequired"), "{why}");
}

#[tokio::test]
async fn rotated_files_are_used_for_the_next_connection() {
    let (first, second) = (Authority::new(), Authority::new());
    let (certificate, key) = first.issue("client", &["first.example"]);
    let tls = Tls::authorities(first.file("ca.pem")).identity(&certificate, &key);
    let seen = async |server: &Authority| {
        let (address, served) = serve(server.server(&["127.0.0.1"], Some(server), Some(HTTP2))).await;
        exchange(&address, &tls).await.map(|()| served)
    };
    let before = seen(&first).await.unwrap().await.unwrap().unwrap();
    assert!(seen(&second).await.is_err());
    fs::write(first.file("ca.pem"), &second.pem).unwrap();
    let (new_certificate, new_key) = second.issue("client", &["second.example"]);
    fs::copy(new_certificate, &certificate).unwrap();
    let why = seen(&second).await.unwrap_err();
    assert!(why.contains("client.pem: invalid client certificate: "), "the key is not replaced yet: {why}");
    fs::copy(new_key, &key).unwrap();
    let after = seen(&second).await.unwrap().await.unwrap().unwrap();
    assert!(before.is_some() && after.is_some() && before != after);
}

#[tokio::test]
async fn faulty_files_are_named() {
    let ours = Authority::new();
    fs::write(ours.file("empty"), "").unwrap();
    fs::write(ours.file("large"), vec![b'\n'; 1 + FILE_MAX_BYTES as usize]).unwrap();
    fs::write(ours.file("bad"), "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").unwrap();
    for (file, why) in [
        ("missing", "cannot read: No such file or directory (os error 2)"),
        ("empty", "contains no PEM certificate"),
        ("large", "cannot read: larger than 4194304 bytes"),
        ("bad", "invalid PEM certificates: "),
        (".", "cannot read: not a regular file"),
    ] {
        for tls in [Tls::authorities(ours.file(file)), Tls::pinned(ours.file(file))] {
            let fault = try_hosts(&ours, &["127.0.0.1"], &tls).await.unwrap_err();
            let start = format!("cannot connect to ADDRESS: {}: {why}", ours.file(file).display());
            assert!(fault.starts_with(&start), "{fault}");
        }
    }
    let tls = Tls::authorities_pem("").identity(ours.file("ca.pem"), ours.file("ca.pem"));
    let fault = try_hosts(&ours, &["127.0.0.1"], &tls).await.unwrap_err();
    assert!(fault.ends_with("PEM of the authorities: contains no PEM certificate"), "{fault}");
    let tls = Tls::authorities_pem(&ours.pem).identity(ours.file("ca.pem"), ours.file("ca.pem"));
    let fault = try_hosts(&ours, &["127.0.0.1"], &tls).await.unwrap_err();
    assert!(fault.contains("ca.pem: invalid PEM private key: "), "{fault}");
}

/// Answers the first bytes of a connection.
async fn answering(answer: &'static [u8]) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string().parse().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = [0; 1 << 14];
        let _bytes = stream.read(&mut hello).await.unwrap();
        stream.write_all(answer).await.unwrap();
    });
    address
}

#[tokio::test]
async fn servers_without_tls_or_http2_are_recognized() {
    let ours = Authority::new();
    let tls = Tls::authorities_pem(&ours.pem);
    for (answer, why) in [
        // SETTINGS of HTTP/2.
        (&b"\0\0\0\x04\0\0\0\0\0"[..], Cause::WithoutTls),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Cause::WithoutTls),
        (b"", Cause::ClosedHandshake),
    ] {
        let fault = connect(&answering(answer).await, Some(&tls), LIMIT).await.unwrap_err();
        assert_eq!(fault.cause(), &why);
    }
    for protocol in [None, Some(&b"http/1.1"[..])] {
        let (address, _served) = serve(ours.server(&["127.0.0.1"], None, protocol)).await;
        let fault = connect(&address, Some(&tls), LIMIT).await.unwrap_err().to_string();
        // A server that has other protocols refuses the handshake itself.
        let expected = if protocol.is_none() { "expected ALPN protocol h2" } else { "NoApplicationProtocol" };
        assert!(fault.contains(expected), "{fault}");
    }
    let fault = connect(&"unix:/none".parse().unwrap(), Some(&tls), LIMIT).await.unwrap_err().to_string();
    assert_eq!(fault, "cannot connect to unix:/none: Unix sockets have no TLS; omit TLS for this address");
}

#[tokio::test]
async fn a_silent_server_does_not_block() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: Address = listener.local_addr().unwrap().to_string().parse().unwrap();
    let limit = Duration::from_millis(50);
    let fault = connect(&address, Some(&Tls::authorities_pem(Authority::new().pem)), limit).await.unwrap_err();
    assert_eq!(fault.to_string(), format!("cannot connect to {address}: no connection within 50ms"));
}

#[test]
fn debug_shows_sources_and_no_certificates() {
    let tls = Tls::authorities_pem("secret").identity("/c", "/k").server_name("n");
    let expected =
        r#"Tls { trust: "authorities_pem", path: None, identity: Some(("/c", "/k")), server_name: Some("n") }"#;
    assert_eq!(format!("{tls:?}"), expected);
}
