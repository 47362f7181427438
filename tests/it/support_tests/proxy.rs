//! The fault proxy injects the configured faults into the selected connections only.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::Duration,
};

use tokio::time::Instant;

use crate::support::{
    PATIENCE, eventually,
    proxy::{CHUNK_BYTES, Cut, FaultProxy, Faults, Link, QUEUE_CHUNKS, Who},
};

/// A target that echoes its input, and a proxy to it.
fn echo() -> FaultProxy {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    // The thread ends with the process; each connection ends with its client.
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let (mut from, mut to) = (&stream, &stream);
                std::io::copy(&mut from, &mut to)
            });
        }
    });
    FaultProxy::start(port)
}

fn connect(proxy: &FaultProxy) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).expect("the proxy accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
    stream
}

fn say(mut stream: &TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).expect("it takes bytes");
}

fn hear(mut stream: &TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).expect("it answers");
    bytes
}

/// Returns whether no bytes have arrived so far.
fn is_silent(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket can be non-blocking");
    let heard = stream.read(&mut [0]);
    stream.set_nonblocking(false).expect("and blocking again");
    heard.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

/// A data connection, and one that the proxy classifies as an invalidation link.
fn pair(proxy: &FaultProxy) -> (TcpStream, TcpStream) {
    let (data, link) = (connect(proxy), connect(proxy));
    say(&data, b"*1\r\n$4\r\nPING\r\n");
    hear(&data, 14);
    // In pieces, as a network may deliver them.
    say(&link, b"*2\r\n$5\r\nHEL");
    hear(&link, 11);
    say(&link, b"LO\r\n$1\r\n3\r\n");
    hear(&link, 11);
    assert_eq!(proxy.connections().iter().filter(|(_, is)| *is == Link::Invalidation).count(), 1);
    (data, link)
}

#[test]
fn a_held_link_loses_nothing_while_others_go_on() {
    let proxy = echo();
    let (data, link) = pair(&proxy);
    for (who, held, free) in [(Link::Invalidation, &link, &data), (Link::Data, &data, &link)] {
        proxy.set(Who::Link(who), Faults::held());
        say(held, b"one");
        say(held, b"two");
        for _ in 0..10 {
            say(free, b"ping");
            hear(free, 4);
        }
        assert!(is_silent(held));
        proxy.heal();
        assert_eq!(hear(held, 6), b"onetwo");
    }
    let (id, _) = proxy.connections()[0];
    proxy.set(Who::One(id), Faults::held());
    let later = connect(&proxy);
    for free in [&link, &later] {
        say(free, b"ping");
        hear(free, 4);
    }
    say(&data, b"held");
    assert!(is_silent(&data));
}

#[test]
fn a_late_link_keeps_its_order_and_later_connections_are_late_as_well() {
    const LATE: Duration = Duration::from_millis(50);
    let proxy = echo();
    proxy.set(Who::All, Faults::late(LATE, LATE));
    let stream = connect(&proxy);
    let begun = Instant::now();
    for piece in 0..20_u8 {
        say(&stream, &[piece; 100]);
    }
    let expected: Vec<u8> = (0..20).flat_map(|piece| [piece; 100]).collect();
    assert_eq!(hear(&stream, expected.len()), expected);
    assert!(begun.elapsed() >= 2 * LATE, "late both ways: {:?}", begun.elapsed());
}

#[test]
fn a_throttled_link_is_as_slow_as_told() {
    let proxy = echo();
    proxy.set(Who::All, Faults::throttled(10_000));
    let stream = connect(&proxy);
    let begun = Instant::now();
    say(&stream, &[1; 3000]);
    hear(&stream, 3000);
    assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
}

#[test]
fn a_cut_link_is_seen_to_end() {
    let proxy = echo();
    for (how, is_reset) in [(Cut::Fin, false), (Cut::Rst, true)] {
        let (mut data, link) = pair(&proxy);
        proxy.cut(Who::Link(Link::Data), how);
        let end = data.read(&mut [0]);
        assert_eq!(end.is_err(), is_reset, "{how:?} {end:?}");
        say(&link, b"lives");
        assert_eq!(hear(&link, 5), b"lives");
        proxy.cut(Who::All, how);
        eventually("all are gone", || proxy.connections().is_empty());
    }
    proxy.refuse(true);
    let refused = connect(&proxy).read(&mut [0]);
    assert!(refused.is_err(), "{refused:?}");
    proxy.heal();
    let stream = connect(&proxy);
    say(&stream, b"again");
    assert_eq!(hear(&stream, 5), b"again");
}

#[test]
fn a_half_open_link_takes_everything_and_stays_so() {
    let proxy = echo();
    let stream = connect(&proxy);
    say(&stream, b"before");
    hear(&stream, 6);
    proxy.set(Who::All, Faults::half_open());
    say(&stream, b"lost");
    let other = connect(&proxy);
    say(&other, &[0; 1 << 20]);
    eventually("all of it is lost", || proxy.swallowed() == 4 + (1 << 20));
    assert!(is_silent(&stream) && is_silent(&other));
    proxy.heal();
    let healthy = connect(&proxy);
    say(&healthy, b"fresh");
    assert_eq!(hear(&healthy, 5), b"fresh");
    drop((stream, other));
    eventually("their clients gave them up", || proxy.connections().len() == 1);
}

#[test]
fn what_waits_in_the_proxy_is_bounded() {
    let proxy = echo();
    proxy.set(Who::All, Faults::held());
    let mut stream = connect(&proxy);
    stream.set_nonblocking(true).expect("a socket can be non-blocking");
    let (piece, mut taken, mut rests) = ([0; 64 << 10], 0, 0);
    // Writes until neither the proxy nor the socket buffers accept more.
    eventually("the proxy pushes back", || {
        match stream.write(&piece) {
            Ok(count) => (taken, rests) = (taken + count, 0),
            Err(_full) => rests += 1,
        }
        rests > 100
    });
    let queued = CHUNK_BYTES * QUEUE_CHUNKS;
    assert!(taken >= queued && taken < queued + (32 << 20), "{taken} bytes");
}

#[test]
fn a_target_that_is_gone_ends_its_connections() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let proxy = FaultProxy::start(listener.local_addr().expect("bound").port());
    let mut stream = connect(&proxy);
    drop(listener.accept().expect("the proxy connects"));
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    drop(listener);
    assert!(connect(&proxy).read(&mut [0]).is_err(), "nobody listens behind it");
}
