//! Ports that are in use, free, passed in or limited in connections; and the drain.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use terrace::{
    clock::Clock,
    server::{Passed, Server, StartError},
};

use crate::support::{
    PATIENCE, eventually,
    terrace::{Terrace, config},
};

/// Sends a request and reads until the reply ends with `until`.
fn exchange(stream: &mut TcpStream, request: &[u8], until: &[u8]) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(request).expect("it takes the request");
    let mut reply = Vec::new();
    while !reply.ends_with(until) {
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).expect("it answers");
        assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&reply));
        reply.extend_from_slice(&chunk[..read]);
    }
    reply
}

fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    matches!(stream.read(&mut [0; 64]), Ok(0) | Err(_))
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut wanted = config();
    wanted.resp.addr = taken.local_addr().expect("bound").to_string();
    match Server::bind(wanted.clone(), Vec::new(), Clock::real()) {
        Err(StartError::Port(message)) => {
            assert!(message.contains("resp") && message.contains(&wanted.resp.addr), "{message}");
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[test]
fn a_second_server_does_not_share_the_port_of_the_first() {
    let first = Terrace::start(config());
    let mut wanted = config();
    wanted.grpc.addr = first.grpc().to_owned();
    assert!(matches!(Server::bind(wanted, Vec::new(), Clock::real()), Err(StartError::Port(_))));
}

#[test]
fn other_machines_are_let_in_only_when_that_is_said() {
    let mut wanted = config();
    wanted.grpc.addr = ":0".into();
    match Server::bind(wanted.clone(), Vec::new(), Clock::real()) {
        Err(StartError::Config(message)) => assert!(message.contains("--expose"), "{message}"),
        other => panic!("{:?}", other.map(|_| ())),
    }
    wanted.server.expose = true;
    wanted.auth.anonymous = terrace::access::GuestRole::None;
    assert!(Server::bind(wanted, Vec::new(), Clock::real()).is_ok());
}

#[test]
fn a_listener_that_was_passed_in_is_shared() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let passed = Passed { resp: Some(listener.into()), ..Passed::default() };
    let server = Server::bind_with(config(), Vec::new(), Clock::real(), &passed).expect("it binds");
    drop(passed);
    let server = Terrace::run(server);
    assert_eq!(server.resp(), address.to_string());
    for _ in 0..8 {
        let mut stream = TcpStream::connect(address).expect("it accepts");
        assert_eq!(exchange(&mut stream, b"PING\r\n", b"\r\n"), b"+PONG\r\n");
    }
}

#[test]
fn connections_over_the_cap_are_told_and_counted() {
    let mut wanted = config();
    wanted.server.max_connections = 3;
    let server = Terrace::start(wanted);
    let mut open: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(server.resp()).expect("it accepts")).collect();
    for stream in &mut open {
        exchange(stream, b"PING\r\n", b"+PONG\r\n");
    }
    let mut refused = TcpStream::connect(server.resp()).expect("the kernel accepts");
    let mut words = String::new();
    refused.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    refused.read_to_string(&mut words).expect("it is told");
    assert_eq!(words, "-ERR max number of clients reached\r\n");
    drop(open.pop());
    eventually("room for one more", || {
        let mut stream = TcpStream::connect(server.resp()).expect("the kernel accepts");
        stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
        let mut reply = [0; 7];
        stream.write_all(b"PING\r\n").is_ok() && stream.read_exact(&mut reply).is_ok() && &reply == b"+PONG\r\n"
    });
}

#[test]
fn a_drain_answers_what_came_and_closes() {
    let mut server = Terrace::start(config());
    let address = server.resp().to_owned();
    let mut stream = TcpStream::connect(&address).expect("it accepts");
    exchange(&mut stream, b"SET k v\r\n", b"+OK\r\n");
    server.begin_stop();
    assert!(is_closed(&mut stream), "an idle connection stayed open");
    server.stop();
    assert!(TcpStream::connect(&address).is_err(), "the port is still open");
}
