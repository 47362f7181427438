//! Client certificates of attackers, of removed users and during rotations, on ports that require a certificate.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    process::{Command, Stdio},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use terrace::{config::TlsMode, proto::WatchRequest, tls::Version};
use tokio_rustls::rustls::ClientConfig;

use super::{Files, ask, grpc_stream};
use crate::support::{
    certificates::{Authority, Identity, connect, presented},
    command::{Killed, has},
    eventually,
    grpc::block_on,
    terrace::Terrace,
};

const URI: &str = "spiffe://prod/ns/orders/sa/api";
const USERS: &str = r#"
[[role]]
name = "orders"
keys = [{ prefix = "orders:", allow = ["read", "write"] }]
allow = ["inspect", "watch"]

[[user]]
name = "orders"
roles = ["orders"]
certs = ["uri:spiffe://prod/ns/orders/sa/api"]

[[user]]
name = "other"
roles = ["orders"]
certs = ["uri:spiffe://prod/other"]
"#;

fn guarded(files: &Files) -> Terrace {
    let mut config = files.config(TlsMode::Mutual);
    // OpenSSL can request a renegotiation in TLS 1.2.
    config.tls.min_version = Version::V12;
    fs::write(files.path("users.toml"), USERS).unwrap();
    config.auth.file = Some(files.path("users.toml"));
    Terrace::start(config)
}

/// Address, a request and the beginning of its answer, for each port.
fn requests(server: &Terrace) -> [(String, &'static str, &'static str); 3] {
    [
        (server.resp().to_owned(), "ACL WHOAMI\r\nQUIT\r\n", "$6\r\norders\r\n+OK\r\n"),
        (server.http().to_owned(), "GET /api/stats HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n", "HTTP/1.1 200"),
        // The preface of HTTP/2 and a GOAWAY of the client.
        (
            server.grpc().to_owned(),
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0\0\0\u{8}\u{7}\0\0\0\0\0\0\0\0\0\0\0\0",
            "\0\0",
        ),
    ]
}

#[test]
fn certificates_that_prove_nothing_are_refused_on_every_port() {
    let files = Files::new();
    let server = guarded(&files);
    let failed = || server.node.tls.all().map(|endpoint| endpoint.failed_handshakes.load(Relaxed)).iter().sum::<u64>();
    for (name, identity) in [
        ("none", None),
        ("expired", Some(files.authority.issue_until(Some(URI), 2020))),
        ("of another authority with the same name", Some(Authority::new().issue(Some(URI)))),
        ("self-signed", Some(Identity::self_signed(URI))),
    ] {
        let client = files.authority.client(identity.as_ref(), &[]);
        for (address, request, _) in requests(&server) {
            let before = failed();
            let answer = ask(&address, &client, request);
            assert!(answer.is_err(), "{name}: {address}: {answer:?}");
            // A failure is counted after the client has read the alert.
            eventually("the failed handshake is counted", || failed() == before + 1);
        }
    }
    let right = files.authority.client(Some(&files.authority.issue(Some(URI))), &[]);
    for (address, request, begin) in requests(&server) {
        let answer = ask(&address, &right, request).unwrap();
        assert!(answer.starts_with(begin), "{address}: {answer:?}");
    }
    // A valid certificate of nobody.
    let nobody = files.authority.client(Some(&files.authority.issue(Some("spiffe://prod/nobody"))), &[]);
    assert!(ask(server.resp(), &nobody, "PING\r\nQUIT\r\n").unwrap().starts_with("-NOAUTH"));
    let (address, request, _) = &requests(&server)[1];
    assert!(ask(address, &nobody, request).unwrap().starts_with("HTTP/1.1 401"));
}

/// A Watch stream, read as bytes.
struct Watching {
    body: Incoming,
    received: Vec<u8>,
}

impl Watching {
    async fn open(server: &Terrace, client: Arc<ClientConfig>) -> Self {
        let stream = grpc_stream(server.grpc(), client).await.unwrap();
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        let message = WatchRequest::default().encode_to_vec();
        let mut body = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
        body.extend(message);
        let request = ::http::Request::post("https://localhost/terrace.v1.Invalidation/Watch");
        let request = request.header("content-type", "application/grpc").header("te", "trailers");
        let body = http_body_util::Full::<bytes::Bytes>::new(body.into());
        let answer = sender.send_request(request.body(body).unwrap()).await.unwrap();
        assert!(answer.headers().get("grpc-status").is_none(), "{:?}", answer.headers());
        // The first message reports that the stream has begun.
        let mut body = answer.into_body();
        body.frame().await.expect("a message").unwrap();
        Self { body, received: Vec::new() }
    }

    /// Waits for a change of a key.
    async fn sees(&mut self, key: &str) {
        while memchr::memmem::find(&self.received, key.as_bytes()).is_none() {
            let frame = self.body.frame().await.expect("the stream goes on").unwrap();
            self.received.extend(frame.into_data().expect("no trailers"));
        }
    }

    /// Waits for the end of the stream and returns its status.
    async fn status(mut self) -> String {
        loop {
            let frame = self.body.frame().await.expect("trailers").unwrap();
            if let Ok(trailers) = frame.into_trailers() {
                return trailers["grpc-status"].to_str().unwrap().to_owned();
            }
        }
    }
}

#[test]
fn a_removed_user_loses_its_certified_connections_and_streams() {
    let files = Files::new();
    let server = guarded(&files);
    let (removed, kept) = (files.authority.issue(Some(URI)), files.authority.issue(Some("spiffe://prod/other")));
    let client = |identity: &Identity, protocols: &[&str]| files.authority.client(Some(identity), protocols);
    let mut idle = connect(server.resp(), &client(&removed, &[])).unwrap();
    let mut other = connect(server.resp(), &client(&kept, &[])).unwrap();
    block_on(async {
        let mut ends = Watching::open(&server, client(&removed, &["h2"])).await;
        let mut goes_on = Watching::open(&server, client(&kept, &["h2"])).await;
        let set = |stream: &mut dyn Write, key: &str| stream.write_all(format!("SET {key} v\r\n").as_bytes()).unwrap();
        set(&mut other, "orders:first");
        ends.sees("orders:first").await;
        goes_on.sees("orders:first").await;
        fs::write(files.path("users.toml"), USERS.replace(URI, "spiffe://prod/replaced")).unwrap();
        assert_eq!(ends.status().await, "16");
        set(&mut other, "orders:second");
        goes_on.sees("orders:second").await;
    });
    // The server ends the connection like one of a killed client. A time-out would be another error.
    let end = idle.read(&mut [0; 1]).map_err(|error| error.kind());
    assert!(matches!(end, Ok(0) | Err(ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset)), "{end:?}");
    // The certificate is still valid.
    assert!(ask(server.resp(), &client(&removed, &[]), "PING\r\nQUIT\r\n").unwrap().starts_with("-NOAUTH"));
    let (address, request, _) = &requests(&server)[1];
    assert!(ask(address, &client(&removed, &[]), request).unwrap().starts_with("HTTP/1.1 401"));
    let new = files.authority.issue(Some("spiffe://prod/replaced"));
    assert_eq!(ask(server.resp(), &client(&new, &[]), "ACL WHOAMI\r\nQUIT\r\n").unwrap(), "$6\r\norders\r\n+OK\r\n");
}

/// The certificate of the server and the authority of the clients change while connections are open.
#[test]
fn a_rotation_ends_no_stream_and_no_ticket_of_the_old_authority_is_accepted() {
    let files = Files::new();
    let server = guarded(&files);
    let old = files.authority.client(Some(&files.authority.issue(Some(URI))), &[]);
    let mut open = connect(server.resp(), &old).unwrap();
    let mut talk = |command: &str, reply: &str| {
        open.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let mut read = vec![0; reply.len()];
        open.read_exact(&mut read).unwrap();
        assert_eq!(String::from_utf8_lossy(&read), reply);
    };
    // The tickets of the session arrive with the first answer.
    talk("PING", "+PONG\r\n");
    assert!(ask(server.resp(), &old, "PING\r\nQUIT\r\n").unwrap().starts_with("+PONG"));
    let next = Authority::new();
    block_on(async {
        let watcher = files.authority.client(Some(&files.authority.issue(Some(URI))), &["h2"]);
        let mut watching = Watching::open(&server, watcher).await;
        talk("SET orders:1 v", "+OK\r\n");
        watching.sees("orders:1").await;
        fs::write(files.path("ca.pem"), next.pem()).unwrap();
        // Clients trust the authority of the server, and have certificates of the other one.
        let new = files.authority.client(Some(&next.issue(Some(URI))), &[]);
        eventually("the server requires certificates of the new authority", || {
            ask(server.resp(), &new, "PING\r\nQUIT\r\n").is_ok_and(|answer| answer.starts_with("+PONG"))
        });
        let certificate = files.authority.issue_until(None, 2050);
        certificate.write(files.folder.path(), "server");
        eventually("the server presents its new certificate", || presented(server.resp(), &new) == certificate.der());
        assert!(ask(server.resp(), &old, "PING\r\nQUIT\r\n").is_err(), "a ticket of the old authority");
        let stolen = files.authority.client(Some(&files.authority.issue(Some(URI))), &[]);
        assert!(ask(server.resp(), &stolen, "PING\r\nQUIT\r\n").is_err(), "a certificate of the old authority");
        talk("SET orders:2 v", "+OK\r\n");
        watching.sees("orders:2").await;
    });
}

/// A renegotiation could change the identity of a connection. TLS 1.3 has none.
#[test]
fn renegotiation_is_refused_and_harms_nobody() {
    if !has("openssl") {
        return;
    }
    let files = Files::new();
    let server = guarded(&files);
    let identity = files.authority.issue(Some(URI));
    let (certificate, key) = identity.write(files.folder.path(), "client");
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", server.resp(), "-tls1_2", "-CAfile"]).arg(files.path("ca.pem"));
    command.arg("-cert").arg(certificate).arg("-key").arg(key);
    let mut child =
        Killed(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let (mut input, mut output) = (child.0.stdin.take().unwrap(), child.0.stdout.take().unwrap());
    let mut seen = Vec::new();
    let mut until = |text: &str| {
        let mut byte = [0];
        while memchr::memmem::find(&seen, text.as_bytes()).is_none() {
            assert_eq!(output.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&seen));
            seen.push(byte[0]);
        }
    };
    input.write_all(b"PING\r\n").unwrap();
    until("+PONG");
    // A line that begins with R is a command of s_client.
    input.write_all(b"R\n").unwrap();
    let mut errors = String::new();
    child.0.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(errors.contains("RENEGOTIATING") && errors.contains("no renegotiation"), "{errors}");
    let client = files.authority.client(Some(&identity), &[]);
    assert!(ask(server.resp(), &client, "PING\r\nQUIT\r\n").unwrap().starts_with("+PONG"));
}
