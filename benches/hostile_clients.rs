//! Latency of other clients while one client takes memory and does not read.
//!
//! `cargo bench --bench hostile_clients [-- --seconds N]` (default 5 s for each phase)
//!
//! A server process with the default byte budget serves Gets of 100 B and of 64 KiB over gRPC and RESP, first alone and
//! then during each attack. The output has the p99 of each phase. Goal: at most 50 ms.

#[path = "../tests/support/mod.rs"]
#[expect(unreachable_pub, reason = "shared with the tests, which use all of it")]
mod support;

use std::{
    io::Write,
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
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

/// Calls on both ports until `ends`; returns their latencies in microseconds, and the number of failed calls.
async fn others(server: &Process, ends: &AtomicBool) -> (Histogram<u64>, u64) {
    let mut histogram = Histogram::new(3).expect("three digits");
    let mut failed = 0;
    let mut grpc = CacheClient::new(connect(&server.grpc).await);
    let client = redis::Client::open(format!("redis://{}", server.resp)).expect("an address");
    let mut resp = client.get_multiplexed_async_connection().await.expect("the server accepts");
    while !ends.load(Relaxed) {
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

/// An attack: what each of its connections sends.
enum Attack {
    None,
    /// gRPC Gets whose answers have no window.
    UnreadAnswers,
    /// RESP commands whose replies are not read.
    Unread(Vec<u8>),
}

async fn unread_answers(address: &str) {
    let stream = tokio::net::TcpStream::connect(address).await.expect("the server accepts");
    let handshake = h2::client::Builder::new().initial_window_size(0).handshake(stream).await;
    let (sender, connection) = handshake.expect("HTTP/2");
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
        let Ok(mut ready) = sender.clone().ready().await else { break };
        let Ok((answer, mut body)) = ready.send_request(request, false) else { break };
        if body.send_data(Bytes::clone(&message), true).is_err() {
            break;
        }
        answers.push(answer);
    }
    connection.abort();
}

/// Keeps an attack going: a connection that was reset is opened again.
async fn attack(server: &Process, attack: &Attack) {
    match attack {
        Attack::None => std::future::pending().await,
        Attack::UnreadAnswers => {
            let each = |_| async {
                loop {
                    unread_answers(&server.grpc).await;
                }
            };
            let _never = futures_util::future::join_all((0..CONNECTIONS).map(each)).await;
        }
        Attack::Unread(bytes) => {
            let (address, bytes) = (server.resp.clone(), bytes.clone());
            loop {
                let (address, bytes) = (address.clone(), bytes.clone());
                let sending = tokio::task::spawn_blocking(move || {
                    let mut open = Vec::new();
                    for _ in 0..CONNECTIONS {
                        let mut stream = TcpStream::connect(&address).expect("the server accepts");
                        stream.set_write_timeout(Some(Duration::from_millis(50))).expect("a time-out can be set");
                        // The server stops reading, or resets the connection.
                        let _sent = stream.write_all(&bytes);
                        open.push(stream);
                    }
                    std::thread::sleep(Duration::from_millis(500));
                });
                sending.await.expect("no panic");
            }
        }
    }
}

fn main() {
    let mut args = std::env::args().skip_while(|arg| arg != "--seconds").skip(1);
    let seconds = args.next().map_or(5, |text| text.parse().expect("--seconds needs a number"));
    let data = tempfile::tempdir().expect("a directory");
    let server = Process::start(data.path(), &["--l2", "none"]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        let mut client = CacheClient::new(connect(&server.grpc).await);
        for (key, size) in [("small", 100), ("medium", 64 << 10), ("large", LARGE)] {
            let set =
                SetRequest { key: key.to_owned().into(), value: vec![b'v'; size].into(), ..SetRequest::default() };
            client.set(set).await.expect("the value is stored");
        }
    });
    let gets: Vec<u8> = (0..100).flat_map(|_| request("GET large")).collect();
    let mut queued = request("MULTI");
    for _ in 0..30 {
        queued.extend(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${LARGE}\r\n").into_bytes());
        queued.resize(queued.len() + LARGE, b'x');
        queued.extend(b"\r\n");
    }
    println!("{:<28} {:>8} {:>10} {:>10} {:>8}", "attack", "calls", "p50", "p99", "failed");
    for (name, kind) in [
        ("none", Attack::None),
        ("unread gRPC answers", Attack::UnreadAnswers),
        ("unread RESP replies", Attack::Unread(gets)),
        ("queued transactions", Attack::Unread(queued)),
    ] {
        let (histogram, failed) = runtime.block_on(async {
            let ends = AtomicBool::new(false);
            let timer = async {
                sleep(Duration::from_secs(seconds)).await;
                ends.store(true, Relaxed);
            };
            let measured = async { tokio::join!(others(&server, &ends), timer).0 };
            tokio::select! {
                measured = measured => measured,
                () = attack(&server, &kind) => unreachable!("an attack has no end"),
            }
        });
        let ms = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        println!("{name:<28} {:>8} {:>7.2} ms {:>7.2} ms {failed:>8}", histogram.len(), ms(0.5), ms(0.99));
    }
    server.stop();
}
