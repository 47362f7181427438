//! Many callers in several processes: one load, also if the process that loads is killed.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use terrace_client::Client;

use super::LONG;
use crate::support::{
    eventually, grpc::block_on, node::connected_node, process::command_of_test, redis::RedisServer,
    setting_from_environment,
};

/// Callers of each process.
const CALLERS: usize = 500;
/// Key that all callers read.
const KEY: &str = "hot";
/// Variable with the addresses of the node and of the origin, for a client process.
const PROCESS: &str = "TERRACE_TEST_LOADER";

/// An origin that processes load from over TCP: it records the process of each load.
struct Origin {
    address: String,
    loads: Arc<Mutex<Vec<u32>>>,
    /// Loads are answered.
    is_open: Arc<AtomicBool>,
}

impl Origin {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = Self {
            address: listener.local_addr().unwrap().to_string(),
            loads: Arc::default(),
            is_open: Arc::default(),
        };
        let (loads, is_open) = (Arc::clone(&origin.loads), Arc::clone(&origin.is_open));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (loads, is_open) = (Arc::clone(&loads), Arc::clone(&is_open));
                std::thread::spawn(move || answer(stream.unwrap(), &loads, &is_open));
            }
        });
        origin
    }
}

fn answer(mut stream: TcpStream, loads: &Mutex<Vec<u32>>, is_open: &AtomicBool) {
    let mut line = String::new();
    BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
    loads.lock().push(line.trim().parse().unwrap());
    while !is_open.load(SeqCst) {
        std::thread::sleep(Duration::from_millis(5));
    }
    // The process may have been killed.
    let _left = stream.write_all(b"value\n");
}

/// Starts a process with callers.
fn start(node: &str, origin: &str) -> Child {
    command_of_test(module_path!(), "a_process_with_callers")
        .env(PROCESS, format!("{node} {origin}"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Serves as the main function of the processes: does nothing in an ordinary run.
#[test]
fn a_process_with_callers() {
    let setting = setting_from_environment(PROCESS, String::new());
    let Some((node, origin)) = setting.split_once(' ') else { return };
    let origin = origin.to_owned();
    block_on(async {
        let client = Client::builder(node).read_timeout(LONG).write_timeout(LONG).connect_timeout(LONG);
        let client = client.connect().await.unwrap();
        let calls: Vec<_> = (0..CALLERS)
            .map(|_| {
                let origin = origin.clone();
                let load = move || async move {
                    let ask = move || -> std::io::Result<Bytes> {
                        let mut stream = TcpStream::connect(&origin)?;
                        stream.write_all(format!("{}\n", std::process::id()).as_bytes())?;
                        let mut line = String::new();
                        BufReader::new(stream).read_line(&mut line)?;
                        Ok(line.trim().to_owned().into())
                    };
                    tokio::task::spawn_blocking(ask).await.unwrap().map(Some)
                };
                let call = client.get_or_load(KEY, load).ttl(LONG).wait(LONG);
                tokio::spawn(call.into_future())
            })
            .collect();
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap().as_deref(), Some(&b"value"[..]));
        }
    });
}

#[test]
fn a_thousand_callers_in_two_processes_cause_one_load_and_two_if_the_loading_process_is_killed() {
    let redis = RedisServer::start();
    let nodes = [connected_node(&redis.url()), connected_node(&redis.url())];
    block_on(async {
        let client = Client::builder(nodes[0].grpc()).connect_timeout(LONG).connect().await.unwrap();
        // The first lease over a Redis is used only after every node knows about leases.
        while !matches!(client.get_or_lease("first").await, Ok(terrace_client::Lease::Load(grant)) if grant.can_fill())
        {
            crate::support::grpc::pause().await;
        }
        for is_killed in [false, true] {
            client.delete([KEY]).await.unwrap();
            let origin = Origin::start();
            let mut processes = nodes.each_ref().map(|node| start(node.grpc(), &origin.address));
            eventually("a process loads", || !origin.loads.lock().is_empty());
            let leader = origin.loads.lock()[0];
            if is_killed {
                processes.iter_mut().find(|process| process.id() == leader).unwrap().kill().unwrap();
                eventually("the other process loads", || origin.loads.lock().len() > 1);
            }
            origin.is_open.store(true, SeqCst);
            for mut process in processes {
                let is_victim = is_killed && process.id() == leader;
                let status = process.wait().unwrap();
                assert!(is_victim || status.success(), "{status}");
            }
            let loads = origin.loads.lock().clone();
            assert_eq!(loads.len(), 1 + usize::from(is_killed), "processes of the loads: {loads:?}");
        }
    });
}
