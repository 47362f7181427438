//! Latency of other clients while one client takes memory and does not read.
//!
//! `cargo bench --bench hostile_clients [-- --seconds N]` (default 5 s for each phase)
//!
//! A server process with the default byte budget serves Gets of 100 B and of 64 KiB over gRPC and RESP, first alone and
//! then during each attack. The output has the p99 of each phase. Goal: at most 50 ms.
//!
//! Each attack runs in a process of its own with the lowest CPU priority, as on another machine: the bench measures what
//! the server does for other clients, and not how the attacker, the server and the other client share the CPU.

#[path = "../tests/support/mod.rs"]
#[expect(unreachable_pub, reason = "shared with the tests, which use all of it")]
mod support;

use std::{
    io::Write,
    net::TcpStream,
    process::{Child, Command},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use hdrhistogram::Histogram;
use prost::Message;
use support::{grpc::connect, process::Process, resp::request};
use terrace::{
    grpc::client::CacheClient,
    proto::{GetRequest, SetRequest},
};
use tokio::time::{Instant, sleep};

/// Size of the value that attackers read.
const LARGE: usize = 1 << 20;
/// Number of connections of an attack.
const CONNECTIONS: usize = 32;
/// Pause between two calls of the other client, so that the bench measures the wait and not the load.
const PAUSE: Duration = Duration::from_millis(1);

fn get(key: &str) -> GetRequest {
    GetRequest { key: key.to_owned().into(), options: None }
}

/// Calls on both ports for this time; returns their latencies in microseconds, and the number of failed calls.
async fn others(server: &Process, span: Duration) -> (Histogram<u64>, u64) {
    let mut histogram = Histogram::new(3).expect("three digits");
    let mut failed = 0;
    let mut grpc = CacheClient::new(connect(&server.grpc).await);
    let client = redis::Client::open(format!("redis://{}", server.resp)).expect("an address");
    let mut resp = client.get_multiplexed_async_connection().await.expect("the server accepts");
    let ends = Instant::now() + span;
    while Instant::now() < ends {
        for key in ["small", "medium"] {
            let begun = Instant::now();
            let read = grpc.get(get(key)).await;
            failed += u64::from(read.is_err());
            histogram.saturating_record(begun.elapsed().as_micros() as u64);
            let begun = Instant::now();
            let read: redis::RedisResult<Vec<u8>> = redis::cmd("GET").arg(key).query_async(&mut resp).await;
            failed += u64::from(read.is_err());
            histogram.saturating_record(begun.elapsed().as_micros() as u64);
        }
        sleep(PAUSE).await;
    }
    (histogram, failed)
}

/// An attack: its name, and the code of its process.
struct Attack {
    name: &'static str,
    /// Receives the gRPC and the RESP address of the server; never returns.
    run: fn(&str, &str),
}

const ATTACKS: [Attack; 3] = [
    Attack { name: "unread gRPC answers", run: |grpc, _| unread_answers(grpc) },
    Attack { name: "unread RESP replies", run: |_, resp| unread_replies(resp, &gets()) },
    Attack { name: "queued transactions", run: |_, resp| unread_replies(resp, &queued()) },
];

impl Attack {
    fn start(&self, server: &Process) -> Attacker {
        let program = std::env::current_exe().expect("a path");
        let mut command = Command::new("nice");
        command.args(["-n", "19"]).arg(program).args(["--attack", self.name, &server.grpc, &server.resp]);
        Attacker(command.spawn().expect("nice is installed"))
    }
}

/// The process of an attack.
struct Attacker(Child);

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends gRPC Gets whose answers have no window.
fn unread_answers(address: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let each = |_| async {
            loop {
                // A connection that was reset is opened again.
                if unread_connection(address).await.is_none() {
                    sleep(PAUSE).await;
                }
            }
        };
        futures_util::future::join_all((0..CONNECTIONS).map(each)).await
    });
}

/// Sends Gets over one connection until it is lost; `None` if the server does not accept it.
async fn unread_connection(address: &str) -> Option<()> {
    let stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = h2::client::Builder::new().initial_window_size(0).handshake(stream).await.ok()?;
    let connection = tokio::spawn(async move { drop(connection.await) });
    let message = {
        let mut frame = BytesMut::new();
        let get = get("large");
        frame.put_u8(0);
        frame.put_u32(get.encoded_len() as u32);
        get.encode(&mut frame).expect("room");
        frame.freeze()
    };
    let mut answers = Vec::new();
    loop {
        let request = http::Request::post(format!("http://{address}/terrace.v1.Cache/Get"));
        let request = request.header("content-type", "application/grpc").body(()).expect("a request");
        // Waits until the server permits a further stream. A clone of the sender would not wait.
        let Ok(ready) = sender.ready().await else { break };
        sender = ready;
        let Ok((answer, mut body)) = sender.send_request(request, false) else { break };
        if body.send_data(Bytes::clone(&message), true).is_err() {
            break;
        }
        answers.push(answer);
    }
    connection.abort();
    Some(())
}

/// Sends RESP commands and does not read their replies.
fn unread_replies(address: &str, commands: &[u8]) {
    loop {
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS {
            let Ok(mut stream) = TcpStream::connect(address) else { break };
            stream.set_write_timeout(Some(Duration::from_millis(50))).expect("a time-out can be set");
            // The server stops reading, or resets the connection.
            let _sent = stream.write_all(commands);
            open.push(stream);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn gets() -> Vec<u8> {
    (0..100).flat_map(|_| request("GET large")).collect()
}

fn queued() -> Vec<u8> {
    let mut queued = request("MULTI");
    for _ in 0..30 {
        queued.extend(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${LARGE}\r\n").into_bytes());
        queued.resize(queued.len() + LARGE, b'x');
        queued.extend(b"\r\n");
    }
    queued
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    if let [_, mode, name, grpc, resp] = &words[..]
        && mode == "--attack"
    {
        let attack = ATTACKS.iter().find(|attack| attack.name == name).expect("an attack");
        return (attack.run)(grpc, resp);
    }
    let mut after = words.into_iter().skip_while(|word| word != "--seconds").skip(1);
    let seconds = after.next().map_or(5, |text| text.parse().expect("--seconds needs a number"));
    let data = tempfile::tempdir().expect("a directory");
    let server = Process::start(data.path(), &["--l2", "none"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut client = CacheClient::new(connect(&server.grpc).await);
        for (key, size) in [("small", 100), ("medium", 64 << 10), ("large", LARGE)] {
            let set =
                SetRequest { key: key.to_owned().into(), value: vec![b'v'; size].into(), ..SetRequest::default() };
            client.set(set).await.expect("the value is stored");
        }
    });
    println!("{:<28} {:>8} {:>10} {:>10} {:>8}", "attack", "calls", "p50", "p99", "failed");
    for attack in std::iter::once(None).chain(ATTACKS.iter().map(Some)) {
        let attacker = attack.map(|attack| attack.start(&server));
        let (histogram, failed) = runtime.block_on(others(&server, Duration::from_secs(seconds)));
        drop(attacker);
        let name = attack.map_or("none", |attack| attack.name);
        let ms = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        println!("{name:<28} {:>8} {:>7.2} ms {:>7.2} ms {failed:>8}", histogram.len(), ms(0.5), ms(0.99));
    }
    server.stop();
}
