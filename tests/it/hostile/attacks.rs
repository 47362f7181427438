//! Clients that take memory and do not read.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{StreamExt, future::join_all, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use prost::Message;
use terrace::{
    grpc::client::CacheClient,
    proto::{GetManyRequest, Operation, PipelineRequest, operation},
};
use tonic::Code;

use super::{
    Victim,
    victim::{LARGE, get, repeatedly},
};
use crate::support::{
    grpc::{connect, raw_request},
    resp::request,
};

/// A gRPC message with its prefix.
fn framed(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut frame).unwrap();
    frame.freeze()
}

/// Opens a connection whose streams have no window, sends `calls` calls with this message, and returns everything that
/// keeps the connection open.
async fn unread(address: &str, path: &str, message: Bytes, calls: usize) -> impl Sized + use<> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (sender, connection) = h2::client::Builder::new().initial_window_size(0).handshake(stream).await.unwrap();
    let connection = tokio::spawn(async move {
        // The server may reset the connection.
        let _ended = connection.await;
    });
    let mut answers = Vec::new();
    for _ in 0..calls {
        let request = http::Request::post(format!("http://{address}{path}")).header("content-type", "application/grpc");
        let Ok(mut ready) = sender.clone().ready().await else { break };
        let Ok((answer, mut body)) = ready.send_request(request.body(()).unwrap(), false) else { break };
        // Fails once the connection is reset.
        let _sent = body.send_data(message.clone(), true);
        answers.push(answer);
    }
    (sender, connection, answers)
}

async fn a_while() {
    tokio::time::sleep(Duration::from_secs(2)).await;
}

#[test]
fn unread_answers_of_unary_calls() {
    repeatedly(|| {
        let victim = Victim::start("none");
        victim.attack(async {
            let message = framed(&get("large"));
            let address = victim.grpc();
            let _open = join_all((0..8).map(|_| unread(address, "/terrace.v1.Cache/Get", message.clone(), 200))).await;
            a_while().await;
        });
        victim.check(8);
    });
}

#[test]
fn unread_answers_of_large_batches() {
    repeatedly(|| {
        let victim = Victim::start("none");
        victim.attack(async {
            let many = GetManyRequest { keys: vec!["large".into(); 15], options: None };
            let operation = |id| Operation { id, operation: Some(operation::Operation::Get(get("large"))), context: 0 };
            let pipeline = PipelineRequest { operations: (0..1_000).map(operation).collect() };
            let (many, pipeline, address) = (framed(&many), framed(&pipeline), victim.grpc());
            let _open = join_all((0..8).map(|_| unread(address, "/terrace.v1.Cache/GetMany", many.clone(), 50))).await;
            let _more =
                join_all((0..8).map(|_| unread(address, "/terrace.v1.Cache/Pipeline", pipeline.clone(), 20))).await;
            a_while().await;
        });
        victim.check(16);
    });
}

#[test]
fn unfinished_messages() {
    repeatedly(|| {
        let victim = Victim::start("none");
        victim.attack(async {
            let address = victim.grpc();
            let calls = (0..60).map(|number| async move {
                let path = if number % 2 == 0 { "/terrace.v1.Cache/Pipeline" } else { "/terrace.v1.Cache/Set" };
                // 15 MiB that are declared, and one byte less that is sent.
                let head = Bytes::from_static(&[0, 0, 0xf0, 0, 0]);
                let parts = std::iter::once(head).chain((0..239).map(|_| Bytes::from_static(&[0; 64 * 1024])));
                let frames = stream::iter(parts.map(|part| Ok::<_, std::io::Error>(Frame::data(part))));
                let body = StreamBody::new(frames.chain(stream::pending()));
                let mut channel = connect(address).await;
                // The connection may be reset: then there is no status.
                let call = async move { raw_request(&mut channel, path, "application/grpc", body).await.code() };
                match tokio::spawn(call).await {
                    Ok(code) => assert!([Code::DeadlineExceeded, Code::ResourceExhausted].contains(&code), "{code:?}"),
                    Err(reset) => assert!(reset.is_panic()),
                }
            });
            join_all(calls).await;
        });
        victim.check(60);
    });
}

/// Opens RESP connections, sends `bytes` on each as far as the server accepts them, and reads nothing.
async fn unread_resp(address: &str, connections: usize, bytes: Vec<u8>) -> Vec<TcpStream> {
    let address = address.to_owned();
    let sending = tokio::task::spawn_blocking(move || {
        let each = |_| {
            let mut stream = TcpStream::connect(&address).unwrap();
            stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
            // The server stops reading, or resets the connection.
            let _sent = stream.write_all(&bytes);
            stream
        };
        (0..connections).map(each).collect()
    });
    sending.await.unwrap()
}

fn resp_set(key: &str, length: usize) -> Vec<u8> {
    let mut bytes = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${length}\r\n", key.len()).into_bytes();
    bytes.resize(bytes.len() + length, b'x');
    bytes.extend(b"\r\n");
    bytes
}

#[test]
fn unread_replies_of_pipelines() {
    repeatedly(|| {
        let victim = Victim::start("none");
        victim.attack(async {
            let gets: Vec<u8> = (0..200).flat_map(|_| request("GET large")).collect();
            let _open = unread_resp(victim.resp(), 30, gets).await;
            let mgets: Vec<u8> = (0..20).flat_map(|_| request("MGET large large large large large large")).collect();
            let _more = unread_resp(victim.resp(), 10, mgets).await;
            a_while().await;
        });
        victim.check(40);
    });
}

#[test]
fn queued_transactions() {
    repeatedly(|| {
        let victim = Victim::start("none");
        victim.attack(async {
            let mut bytes = request("MULTI");
            (0..40).for_each(|_| bytes.extend(resp_set("k", LARGE)));
            let _open = unread_resp(victim.resp(), 12, bytes).await;
            a_while().await;
        });
        victim.check(12);
    });
}

#[test]
fn subscribers_that_do_not_read() {
    repeatedly(|| {
        let victim = Victim::start("none");
        victim.attack(async {
            let subscribers = unread_resp(victim.resp(), 60, request("SUBSCRIBE c")).await;
            let address = victim.resp().to_owned();
            let publish = move || {
                let mut publisher = TcpStream::connect(address).unwrap();
                publisher.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                let length = 7 << 20;
                let mut message = format!("*3\r\n$7\r\nPUBLISH\r\n$1\r\nc\r\n${length}\r\n").into_bytes();
                message.resize(message.len() + length, b'x');
                message.extend(b"\r\n");
                for _ in 0..20 {
                    publisher.write_all(&message).unwrap();
                    let mut reply = [0; 1];
                    publisher.read_exact(&mut reply).unwrap();
                    assert_eq!(&reply, b":");
                    while reply != *b"\n" {
                        publisher.read_exact(&mut reply).unwrap();
                    }
                }
            };
            tokio::task::spawn_blocking(publish).await.unwrap();
            a_while().await;
            drop(subscribers);
        });
        victim.check(61);
    });
}

#[test]
fn names_in_the_slow_log() {
    repeatedly(|| {
        let victim = Victim::start("none");
        victim.attack(async {
            let mut bytes = request("CONFIG SET slowlog-log-slower-than 0");
            bytes.extend(request("CONFIG SET slowlog-max-len 100000"));
            let mut name = format!("*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n${}\r\n", 7 << 20).into_bytes();
            name.resize(name.len() + (7 << 20), b'n');
            bytes.extend(name);
            bytes.extend(b"\r\n");
            (0..200_000).for_each(|_| bytes.extend(request("PING")));
            let _open = unread_resp(victim.resp(), 4, bytes).await;
            a_while().await;
        });
        victim.check(4);
    });
}

#[test]
fn large_values_of_the_embedded_store() {
    repeatedly(|| {
        let victim = Victim::start_with("embedded", 24);
        let keys: Vec<String> = (0..24).map(|number| format!("huge:{number}")).collect();
        victim.attack(async {
            let many = GetManyRequest {
                keys: keys.iter().cycle().take(250).map(|key| key.clone().into()).collect(),
                options: None,
            };
            let calls = (0..8).map(|_| async {
                let mut client = CacheClient::new(connect(victim.grpc()).await).max_decoding_message_size(32 << 20);
                // Some values do not fit into the response; the call may find no room in time. A busy machine may read so
                // slowly that the connection is reset (UNKNOWN).
                match client.get_many(many.clone()).await {
                    Ok(response) => assert_eq!(response.into_inner().results.len(), 250),
                    Err(status) => {
                        let expected = [Code::DeadlineExceeded, Code::ResourceExhausted, Code::Unknown];
                        assert!(expected.contains(&status.code()), "{status}")
                    }
                }
            });
            join_all(calls).await;
            let gets: Vec<u8> = keys.iter().flat_map(|key| request(&format!("GET {key}"))).collect();
            let _open = unread_resp(victim.resp(), 20, gets).await;
            a_while().await;
        });
        victim.check(30);
    });
}

#[test]
fn large_values_of_redis() {
    repeatedly(|| {
        let redis = crate::support::redis::RedisServer::start();
        let victim = Victim::start_with(&redis.url(), 40);
        let keys: Vec<String> = (0..40).map(|number| format!("huge:{number}")).collect();
        victim.attack(async {
            let gets: Vec<u8> = keys.iter().flat_map(|key| request(&format!("GET {key}"))).collect();
            let _open = unread_resp(victim.resp(), 20, gets).await;
            let address = victim.grpc();
            let _more =
                join_all(keys.iter().map(|key| unread(address, "/terrace.v1.Cache/Get", framed(&get(key)), 4))).await;
            a_while().await;
        });
        victim.check(61);
    });
}
