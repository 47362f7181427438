//! Limits of the HTTP port: probes are answered whatever other clients do, and the page accepts only hosts that nobody
//! else can register.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::atomic::Ordering::Relaxed,
};

use socket2::{Domain, Socket, Type};
use tokio::time::Instant;

use crate::support::{
    PATIENCE, eventually,
    http::{exchange, get},
    terrace::{Terrace, config},
};

/// Connections with a place: 8 addresses of 32.
const PLACES: u64 = 256;
/// More connections than there are places and surplus places.
const ATTACKERS: u8 = 10;

/// Connects from an address of the loopback network.
fn connect_from(last: u8, server: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 9, last), 0)).into()).unwrap();
    socket.connect(&server.parse::<SocketAddr>().unwrap().into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Status of a request from an address of the loopback network.
fn status_from(last: u8, server: &str, path: &str) -> String {
    let mut stream = connect_from(last, server);
    let mut answer = String::new();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes()).unwrap();
    while !answer.contains('\n') {
        let mut bytes = [0; 64];
        let read = stream.read(&mut bytes).unwrap();
        assert!(read > 0, "closed after {answer:?}");
        answer += &String::from_utf8_lossy(&bytes[..read]);
    }
    answer[9..12].to_owned()
}

/// Opens 40 connections from each of 10 addresses, sends `bytes` on each and reads nothing; then the server answers
/// probes of an attacker's address and of another one, while no attacker has been closed for its own time limit.
fn probes_are_answered_during(attack: &str, bytes: &[u8]) {
    let server = Terrace::start(config());
    let mut attackers = Vec::new();
    for last in 1..=ATTACKERS {
        for _ in 0..40 {
            let mut stream = connect_from(last, server.http());
            stream.set_nonblocking(true).unwrap();
            // A server that does not read takes only a part.
            let _sent = stream.write(bytes);
            attackers.push(stream);
        }
    }
    let open = || server.node.connections.http.load(Relaxed);
    eventually("all places are taken", || open() >= PLACES);
    for last in [1, 200] {
        for path in ["/healthz", "/readyz"] {
            let begun = Instant::now();
            assert_eq!(status_from(last, server.http(), path), "200", "{attack}: {path} from 127.0.9.{last}");
            println!("{attack}: {path} from 127.0.9.{last} after {} ms", begun.elapsed().as_millis());
            assert!(open() >= PLACES, "{attack}: the attackers still have all places");
        }
    }
    assert_eq!(status_from(200, server.http(), "/metrics"), "503", "{attack}");
    drop(attackers);
    eventually("the port serves all paths again", || get(server.http(), "/metrics").0 == 200);
}

#[test]
fn probes_are_answered_during_attacks() {
    probes_are_answered_during("silent connections", b"");
    probes_are_answered_during("half heads", b"GET / HTTP/1.1\r\nHost: t\r\nX: ");
    let files = b"GET /vendor/uplot.js HTTP/1.1\r\nHost: t\r\n\r\n".repeat(200);
    probes_are_answered_during("files that nobody reads", &files);
    let pages = b"GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n".repeat(200);
    probes_are_answered_during("metrics that nobody reads", &pages);
}

#[test]
fn one_address_takes_32_places_and_its_probes_are_answered() {
    let server = Terrace::start(config());
    let idle: Vec<TcpStream> = (0..32).map(|_| connect_from(1, server.http())).collect();
    eventually("all are accepted", || server.node.connections.http.load(Relaxed) == 32);
    assert_eq!(status_from(1, server.http(), "/metrics"), "503");
    assert_eq!(status_from(1, server.http(), "/healthz"), "200");
    assert_eq!(status_from(2, server.http(), "/metrics"), "200", "other addresses are served");
    drop(idle);
    eventually("the places are free", || status_from(1, server.http(), "/metrics") == "200");
}

#[test]
fn a_client_that_reads_nothing_is_closed() {
    let server = Terrace::start(config());
    let mut stream = connect_from(1, server.http());
    stream.set_nonblocking(true).unwrap();
    let files = b"GET /vendor/uplot.js HTTP/1.1\r\nHost: t\r\n\r\n".repeat(2_000);
    let _sent = stream.write(&files);
    let open = || server.node.connections.http.load(Relaxed);
    eventually("it is served", || open() == 1);
    eventually("it is closed", || open() == 0);
}

#[test]
fn the_health_port_serves_only_probes() {
    let mut config = config();
    config.http.health_addr = Some("127.0.0.1:0".into());
    let server = Terrace::start(config);
    let health = server.node.addresses.get().unwrap().health.clone().unwrap();
    assert_eq!(get(&health, "/healthz"), (200, "ok\n".into()));
    assert_eq!(get(&health, "/readyz").0, 200);
    for path in ["/", "/metrics", "/api/stats", "/api/top"] {
        assert_eq!(get(&health, path).0, 404, "{path}");
    }
}

#[test]
fn the_page_refuses_names_of_others() {
    let server = Terrace::start(config());
    let ask = |host: &str, path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        exchange(server.http(), request.as_bytes())
    };
    for path in ["/", "/app.js", "/api/stats", "/api/top", "/api/learned", "/api/history", "/nowhere"] {
        let answer = ask("evil.example:7402", path);
        assert!(answer.starts_with("HTTP/1.1 421 "), "{path}: {answer}");
        assert!(
            answer.ends_with("\r\n\r\nhost \"evil.example:7402\" is not accepted; add it to http.hosts\n"),
            "{answer}"
        );
    }
    // Prometheus, Compose, Kubernetes; probes by any name.
    for (host, path) in [
        ("terrace-a:7402", "/metrics"),
        ("prometheus.example.com", "/metrics"),
        ("evil.example", "/healthz"),
        ("evil.example", "/readyz"),
        ("terrace-b:7402", "/"),
        ("terrace.prod.svc.cluster.local:7402", "/api/stats"),
        ("10.1.2.3:7402", "/api/stats"),
        ("[::1]:7402", "/"),
        ("localhost", "/"),
    ] {
        let answer = ask(host, path).to_lowercase();
        assert!(answer.starts_with("http/1.1 200 "), "{host} {path}: {answer}");
        assert!(answer.contains("\r\nx-content-type-options: nosniff\r\n"), "{host} {path}: {answer}");
    }
    // The host of the request line and each header count; a request without a host names none.
    for request in [
        "GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n",
        "GET / HTTP/1.0\r\n",
    ] {
        let answer = exchange(server.http(), format!("{request}Connection: close\r\n\r\n").as_bytes());
        assert!(answer.contains(" 421 "), "{request}: {answer}");
    }
    let mut more = config();
    more.http.hosts = vec!["evil.example".into()];
    server.reload(more);
    eventually("the name is accepted", || ask("evil.example:7402", "/").starts_with("HTTP/1.1 200 "));
}
