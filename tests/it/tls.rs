//! TLS of the three ports: modes, the identity of clients, reloads, and clients that speak the wrong protocol.

mod commands;
mod files;
mod identity;
mod large_values;
mod mutual;
mod plaintext;

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use hyper_util::rt::{TokioExecutor, TokioIo};
use terrace::{
    clock::Clock,
    config::{Config, TlsMode},
    socket::{PeerCertificate, Socket},
    tls::{Clients, Endpoint, Endpoints, NamedFile, Settings, Version},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned, pki_types::ServerName},
};

use crate::support::{
    PATIENCE,
    certificates::{Authority, Identity, connect},
    command::printed,
    eventually,
    grpc::block_on,
    http,
    terrace::{Terrace, config},
};

/// A folder with an authority (`ca.pem`) and a certificate of the server (`server.crt`, `server.key`).
struct Files {
    folder: tempfile::TempDir,
    authority: Authority,
    server: Identity,
}

impl Files {
    fn new() -> Self {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        authority.write(folder.path());
        let server = authority.issue(None);
        server.write(folder.path(), "server");
        Self { folder, authority, server }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A configuration with a TLS mode for all ports.
    fn config(&self, mode: TlsMode) -> Config {
        let mut config = config();
        config.tls.mode = mode;
        config.tls.cert_file = Some(self.path("server.crt"));
        config.tls.key_file = Some(self.path("server.key"));
        if matches!(mode, TlsMode::Mutual | TlsMode::Optional) {
            config.tls.client_ca_file = Some(self.path("ca.pem"));
        }
        config
    }

    /// A client without a certificate.
    fn client(&self) -> Arc<ClientConfig> {
        self.authority.client(None, &[])
    }

    /// Runs redis-cli with TLS.
    fn redis_cli(&self, server: &Terrace, args: &[&str]) -> Output {
        let port = server.resp().rsplit_once(':').unwrap().1;
        let mut command = Command::new("redis-cli");
        command.args(["-h", "localhost", "-p", port, "--tls", "--cacert"]).arg(self.path("ca.pem")).args(args);
        command.output().unwrap()
    }

    /// Runs curl for a path of the HTTP port.
    fn curl(&self, server: &Terrace, path: &str, args: &[&str]) -> Output {
        let port = server.http().rsplit_once(':').unwrap().1;
        let url = format!("https://localhost:{port}{path}");
        Command::new("curl").args(["-sS", "--cacert"]).arg(self.path("ca.pem")).args(args).arg(url).output().unwrap()
    }

    /// Flags with which redis-cli and curl send the certificate `NAME.crt`.
    fn identity(&self, name: &str) -> [String; 4] {
        let file = |end: &str| self.path(&format!("{name}.{end}")).display().to_string();
        ["--cert".to_owned(), file("crt"), "--key".to_owned(), file("key")]
    }
}

/// Connects to a gRPC port with TLS.
async fn grpc_stream(address: &str, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    TlsConnector::from(config).connect(ServerName::try_from("localhost").unwrap(), tcp).await
}

/// Status code of the HTTP/2 answer to an empty call.
async fn call(stream: TlsStream<TcpStream>) -> Result<http_body_util::Full<bytes::Bytes>, hyper::Error> {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = ::http::Request::post("https://localhost/grpc.health.v1.Health/Check")
        .header("content-type", "application/grpc")
        .body(http_body_util::Full::<bytes::Bytes>::new(vec![0; 5].into()))
        .unwrap();
    let answer = sender.send_request(request).await?;
    assert_eq!(answer.status(), 200);
    Ok(http_body_util::Full::default())
}

fn ask(address: &str, client: &Arc<ClientConfig>, request: &str) -> std::io::Result<String> {
    let mut connection = connect(address, client)?;
    connection.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    // The end without the closing message of TLS is an error.
    connection.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn all_ports_serve_by_tls_and_close_with_the_closing_message() {
    let files = Files::new();
    let mut config = files.config(TlsMode::On);
    config.http.health_addr = Some("127.0.0.1:0".into());
    config.server.workers = 2;
    let server = Terrace::start(config);
    for _ in 0..4 {
        assert_eq!(printed(&files.redis_cli(&server, &["SET", "k", "v"])), "OK\n");
        assert_eq!(printed(&files.redis_cli(&server, &["GET", "k"])), "v\n");
    }
    assert_eq!(printed(&files.curl(&server, "/healthz", &[])), "ok\n");
    let metrics = printed(&files.curl(&server, "/metrics", &[]));
    for port in ["grpc", "resp", "http"] {
        let line = format!("terrace_tls_not_after_seconds{{port=\"{port}\"}} 4102444800\n");
        assert!(metrics.contains(&line), "{line} is missing in {metrics}");
    }
    block_on(async {
        let stream = grpc_stream(server.grpc(), files.authority.client(None, &["h2"])).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        call(stream).await.unwrap();
        let stream = grpc_stream(server.grpc(), files.client()).await.unwrap();
        call(stream).await.expect("a client without ALPN");
        let error = grpc_stream(server.grpc(), files.authority.client(None, &["http/1.1"])).await.unwrap_err();
        assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    });
    assert_eq!(ask(server.resp(), &files.client(), "PING\r\nQUIT\r\n").unwrap(), "+PONG\r\n+OK\r\n");
    let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert!(ask(server.http(), &files.client(), request).unwrap().ends_with("\r\n\r\nok\n"));
    let health = server.node.addresses.get().unwrap().health.clone().unwrap();
    assert_eq!(http::get(&health, "/healthz"), (200, "ok\n".to_owned()));
}

#[test]
fn a_drain_ends_tls_connections_with_the_closing_message() {
    let files = Files::new();
    let mut server = Terrace::start(files.config(TlsMode::On));
    let mut connection = connect(server.resp(), &files.client()).unwrap();
    connection.write_all(b"PING\r\n").unwrap();
    let mut reply = [0; 7];
    connection.read_exact(&mut reply).unwrap();
    server.begin_stop();
    assert_eq!(connection.read(&mut reply).unwrap(), 0);
}

#[test]
fn ports_without_tls_and_unix_sockets_stay_plain() {
    let files = Files::new();
    let mut config = files.config(TlsMode::On);
    let path = files.path("resp.sock");
    config.resp.addr = format!("unix:{}", path.display());
    config.http.tls_mode = Some(TlsMode::Off);
    let server = Terrace::start(config);
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"PING\r\n").unwrap();
    let mut reply = [0; 7];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"+PONG\r\n");
    assert_eq!(http::get(server.http(), "/healthz"), (200, "ok\n".to_owned()));
    let samples = http::samples(server.http());
    assert!(samples.contains_key("terrace_tls_not_after_seconds{port=\"grpc\"}"));
    assert!(!samples.contains_key("terrace_tls_not_after_seconds{port=\"http\"}"));
    block_on(async { call(grpc_stream(server.grpc(), files.client()).await.unwrap()).await }).unwrap();
}

#[test]
fn mutual_requires_a_certificate_and_optional_verifies_the_one_that_is_sent() {
    let files = Files::new();
    files.authority.issue(Some("spiffe://prod/orders")).write(files.folder.path(), "client");
    Authority::new().issue(None).write(files.folder.path(), "stranger");
    let words = |name: &str| files.identity(name);
    for (mode, is_served_without) in [(TlsMode::Mutual, false), (TlsMode::Optional, true)] {
        let server = Terrace::start(files.config(mode));
        for (identity, is_served) in
            [(None, is_served_without), (Some(words("client")), true), (Some(words("stranger")), false)]
        {
            let flags: Vec<&str> = identity.iter().flatten().map(String::as_str).collect();
            let about = format!("{mode:?} {flags:?}");
            let failed = || [&server.node.tls.resp, &server.node.tls.http].map(|of| of.failed_handshakes.load(Relaxed));
            let expected = failed().map(|before| before + u64::from(!is_served));
            let ping = printed(&files.redis_cli(&server, &[&flags[..], &["PING"]].concat()));
            assert_eq!(ping == "PONG\n", is_served, "{about}: {ping}");
            let health = printed(&files.curl(&server, "/healthz", &flags));
            assert_eq!(health == "ok\n", is_served, "{about}: {health}");
            // A failure is counted after the client has read the alert.
            eventually("failed handshakes are counted", || failed() == expected);
        }
        let client = files.authority.issue(None);
        block_on(async {
            let with = files.authority.client(Some(&client), &["h2"]);
            call(grpc_stream(server.grpc(), with).await.unwrap()).await.unwrap();
            // TLS 1.3: the client learns of the refusal after its handshake.
            let without = grpc_stream(server.grpc(), files.authority.client(None, &["h2"])).await.unwrap();
            assert_eq!(call(without).await.is_ok(), is_served_without, "{mode:?}");
        });
    }
}

#[test]
fn old_versions_are_refused_unless_they_are_permitted() {
    let files = Files::new();
    let mut config = files.config(TlsMode::On);
    let old = |config: &Config| {
        let server = Terrace::start(config.clone());
        printed(&files.curl(&server, "/healthz", &["--tls-max", "1.2"]))
    };
    let refused = old(&config);
    assert!(refused.contains("version"), "{refused}");
    config.tls.min_version = Version::V12;
    assert_eq!(old(&config), "ok\n");
}

/// An endpoint with the files of a folder.
fn endpoint(folder: &Path) -> Arc<Endpoint> {
    let endpoint = Endpoints::default().resp;
    let file = |name| NamedFile { setting: "tls", path: folder.join(name) };
    let settings = Settings {
        certificate: file("server.crt"),
        key: file("server.key"),
        clients: Clients::Optional(file("ca.pem")),
        min_version: Version::V13,
    };
    endpoint.install(endpoint.prepare(Some(settings)).unwrap());
    endpoint
}

/// Both ends of a new connection.
async fn pair(endpoint: &Endpoint, client: &Arc<ClientConfig>) -> (Socket, TlsStream<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let accepted = async {
        let (stream, _) = listener.accept().await.unwrap();
        let config = endpoint.config().unwrap();
        terrace::tls::handshake(endpoint, config, stream, std::future::pending()).await.unwrap()
    };
    let (accepted, connected) = tokio::join!(accepted, grpc_stream(&address, Arc::clone(client)));
    (accepted, connected.unwrap())
}

/// The certificate that the server sees of each of two connections of a client, which resumes its session.
async fn seen(endpoint: &Endpoint, client: Arc<ClientConfig>) -> [Option<Arc<PeerCertificate>>; 2] {
    let mut seen = [None, None];
    for (number, seen) in seen.iter_mut().enumerate() {
        let (mut server, mut stream) = pair(endpoint, &client).await;
        server.write_all(b"x").await.unwrap();
        // The tickets of the session precede the first byte.
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        let is_resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        assert_eq!(is_resumed, number == 1);
        *seen = server.certificate();
    }
    seen
}

#[test]
fn the_names_of_a_verified_certificate_are_known_also_in_a_resumed_session() {
    let files = Files::new();
    let endpoint = endpoint(files.folder.path());
    let client = files.authority.issue_until(Some("spiffe://prod/orders"), 2090);
    let with = block_on(seen(&endpoint, files.authority.client(Some(&client), &[])));
    let names = ["uri:spiffe://prod/orders", "dns:localhost"].map(str::to_owned).to_vec();
    let known = Some(Arc::new(PeerCertificate { names, not_after: 3_786_912_000 }));
    assert_eq!(with, [known.clone(), known]);
    assert_eq!(block_on(seen(&endpoint, files.client())), [None, None]);
}

#[test]
fn a_resumed_session_ends_with_the_certificate() {
    let files = Files::new();
    let endpoint = endpoint(files.folder.path());
    // Long enough for the first handshake.
    let second = Clock::real().unix().0 / 1000 + 2;
    let client = files.authority.client(Some(&files.authority.issue_until_second(second)), &[]);
    block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        loop {
            let server = async {
                let (stream, _) = listener.accept().await.unwrap();
                let config = endpoint.config().unwrap();
                let socket = terrace::tls::handshake(&endpoint, config, stream, std::future::pending()).await;
                match socket {
                    Some(mut socket) => socket.write_all(b"x").await.is_ok(),
                    None => false,
                }
            };
            let connected = async {
                let mut stream = grpc_stream(&address, Arc::clone(&client)).await.unwrap();
                let _end = stream.read_u8().await;
                stream.get_ref().1.handshake_kind()
            };
            let (is_served, kind) = tokio::join!(server, connected);
            if !is_served {
                assert_eq!(kind, Some(HandshakeKind::Resumed), "the client needs no new verification");
                assert!(Clock::real().unix().0 / 1000 > second);
                break;
            }
        }
    });
}

#[test]
fn requests_that_arrive_with_the_end_of_the_handshake_are_answered() {
    let files = Files::new();
    let server = Terrace::start(files.config(TlsMode::On));
    let mut session = ClientConnection::new(files.client(), ServerName::try_from("localhost").unwrap()).unwrap();
    // rustls sends these bytes together with its last message of the handshake.
    session.writer().write_all(b"PING\r\n").unwrap();
    let mut tcp = std::net::TcpStream::connect(server.resp()).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = StreamOwned::new(session, &mut tcp);
    let mut reply = [0; 7];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"+PONG\r\n");
}

#[test]
fn a_silent_client_is_closed_and_counts_as_a_connection_until_then() {
    let files = Files::new();
    let server = Terrace::start(files.config(TlsMode::On));
    let open = || server.node.connections.resp.load(Relaxed);
    let mut silent = std::net::TcpStream::connect(server.resp()).unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    eventually("the connection counts", || open() == 1);
    assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0);
    eventually("the connection counts no longer", || open() == 0);
    assert_eq!(server.node.tls.resp.failed_handshakes.load(Relaxed), 1);
    // A probe that only connects is no failure.
    drop(std::net::TcpStream::connect(server.resp()).unwrap());
    eventually("the next connection is served", || ask(server.resp(), &files.client(), "QUIT\r\n").is_ok());
    assert_eq!(server.node.tls.resp.failed_handshakes.load(Relaxed), 1);
}
