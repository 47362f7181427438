//! `terrace record` and `Admin.RecordReads`: the reads of a running server as a trace, which `terrace simulate` reads.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Stdio},
};

use redis::Commands;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use terrace::{
    grpc::client::{AdminClient, CacheClient},
    proto::{GetManyRequest, GetRequest, RecordReadsRequest, RecordReadsResponse, RecordedOutcome, SetRequest},
};
use tonic::{Code, Streaming};

use crate::support::{
    command::{printed, run, terrace},
    eventually,
    grpc::{block_on, connect},
    node::{over_none, over_redis},
    resp::connection,
};

/// A `terrace record` that has connected and created its file.
fn record(server: &str, output: &Path, args: &[&str]) -> Child {
    let mut command = terrace(&["record", "--server", server, "--for", "1h", "--format", "json"]);
    let child = command.arg("--output").arg(output).args(args).stderr(Stdio::piped()).spawn().expect("it starts");
    eventually("it records", || output.exists());
    child
}

/// Waits until the trace has this number of reads, interrupts the recording, and returns the counts that it prints.
fn finish(child: Child, output: &Path, reads: usize) -> Value {
    eventually("all reads are in the trace", || lines(output).len() >= reads);
    signal(&child, Signal::INT);
    counts(child)
}

fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process");
    kill_process(pid, signal).expect("it lives");
}

fn counts(child: Child) -> Value {
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", printed(&output));
    serde_json::from_slice(&output.stderr).expect("one JSON object")
}

/// Returns the complete lines of a trace, without the header.
fn lines(trace: &Path) -> Vec<String> {
    let text = fs::read_to_string(trace).expect("a trace");
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().skip(1).map(str::to_owned).collect()
}

/// Returns the number of lines by key, size and the presence of a TTL.
fn tally(trace: &Path) -> HashMap<(String, String, bool), usize> {
    let mut tally = HashMap::new();
    for line in lines(trace) {
        let fields: Vec<&str> = line.split(',').collect();
        let key = (fields[1].to_owned(), fields[2].to_owned(), !fields[3].is_empty());
        *tally.entry(key).or_default() += 1;
    }
    tally
}

#[test]
fn reads_of_both_ports_become_a_trace_that_simulate_reads() {
    let (world, dir) = (over_redis(), tempfile::tempdir().unwrap());
    let trace = dir.path().join("trace.csv");
    let mut client = connection(world.node.resp());
    client.set::<_, _, ()>("a,b%", "12345").unwrap();
    client.set_ex::<_, _, ()>("with-ttl", "123", 1_000).unwrap();
    let child = record(world.node.grpc(), &trace, &["--sample", "1/1", "--plain-keys"]);
    for _ in 0..2 {
        assert_eq!(client.get::<_, String>("a,b%").unwrap(), "12345");
    }
    let both: Vec<Option<String>> = client.mget(&["with-ttl", "nowhere"]).unwrap();
    assert_eq!(both[0].as_deref(), Some("123"));
    block_on(async {
        let mut client = CacheClient::new(connect(world.node.grpc()).await);
        client.get(GetRequest { key: "with-ttl".into(), ..Default::default() }).await.unwrap();
        let keys = vec!["a,b%".into(), "with-ttl".into()];
        client.get_many(GetManyRequest { keys, ..Default::default() }).await.unwrap();
    });
    let counts = finish(child, &trace, 6);
    assert_eq!((&counts["reads"], &counts["keys"], &counts["absent"]), (&6.into(), &2.into(), &1.into()));
    assert_eq!((&counts["lost"], &counts["one_in"]), (&0.into(), &1.into()));
    let wanted =
        [(("a%2Cb%25".to_owned(), "5".to_owned(), false), 3), (("with-ttl".to_owned(), "3".to_owned(), true), 3)];
    assert_eq!(tally(&trace), HashMap::from(wanted));
    assert_eq!(fs::metadata(&trace).unwrap().permissions().mode() & 0o777, 0o600);
    let simulated = run(terrace(&["simulate", "--entries", "10", "--format", "json", "--ttl", "recorded"]).arg(&trace));
    let simulated: Value = serde_json::from_str(&simulated).unwrap();
    assert_eq!((&simulated["requests"], &simulated["misses"]), (&6.into(), &2.into()), "{simulated}");
}

#[test]
fn a_read_that_misses_has_the_size_of_the_value_that_is_written_next_where_l1_is_the_store() {
    let (world, dir) = (over_none(), tempfile::tempdir().unwrap());
    let trace = dir.path().join("trace.csv");
    let mut client = connection(world.node.resp());
    let child = record(world.node.grpc(), &trace, &["--sample", "1/1", "--plain-keys"]);
    let read = |client: &mut redis::Connection, key: &str| client.get::<_, Option<String>>(key).unwrap();
    assert_eq!(read(&mut client, "k"), None);
    assert_eq!(read(&mut client, "never"), None);
    client.set::<_, _, ()>("k", "1234567").unwrap();
    client.set::<_, _, ()>("unread", "1").unwrap();
    assert_eq!(read(&mut client, "k").as_deref(), Some("1234567"));
    let counts = finish(child, &trace, 2);
    assert_eq!((&counts["reads"], &counts["absent"]), (&2.into(), &1.into()));
    assert_eq!(tally(&trace), HashMap::from([(("k".to_owned(), "7".to_owned(), false), 2)]));
}

#[test]
fn keys_are_hashed_and_files_are_kept_unless_the_flags_say_otherwise() {
    let (world, dir) = (over_none(), tempfile::tempdir().unwrap());
    let (trace, plain) = (dir.path().join("trace.csv.zst"), dir.path().join("plain.csv"));
    let key = "session:secret-token-of-a-user";
    let mut client = connection(world.node.resp());
    client.set::<_, _, ()>(key, "1").unwrap();
    fs::write(&trace, "precious").unwrap();
    let mut again = terrace(&["record", "--server", world.node.grpc(), "--for", "10ms", "--output"]);
    let refused = again.arg(&trace).output().unwrap();
    assert!(!refused.status.success());
    assert!(printed(&refused).contains("the file exists; use --force to replace it"), "{}", printed(&refused));
    assert_eq!(fs::read_to_string(&trace).unwrap(), "precious");
    fs::remove_file(&trace).unwrap();
    // The header and one read have more than 64 bytes, so the recording ends with the first read.
    let limits = ["--sample", "1/1", "--max-size", "64"];
    let mut child = record(world.node.grpc(), &trace, &limits);
    eventually("it has its size", || {
        client.get::<_, String>(key).unwrap();
        child.try_wait().unwrap().is_some()
    });
    assert!(counts(child)["bytes"].as_u64() >= Some(64));
    fs::write(&plain, "precious").unwrap();
    run(terrace(&["record", "--server", world.node.grpc(), "--for", "10ms", "--force", "--output"]).arg(&plain));
    assert_eq!(fs::metadata(&plain).unwrap().permissions().mode() & 0o777, 0o600);
    fs::remove_file(&plain).unwrap();
    let child = record(world.node.grpc(), &plain, &["--sample", "1/1"]);
    client.get::<_, String>(key).unwrap();
    finish(child, &plain, 1);
    let text = String::from_utf8(zstd::decode_all(&fs::read(&trace).unwrap()[..]).unwrap()).unwrap();
    assert!(text.starts_with("timestamp_seconds,key,size,ttl,caller,sample=1/1\n"), "{text}");
    assert!(!text.contains("session"), "{text}");
    let hash = text.lines().nth(1).and_then(|line| line.split(',').nth(1)).unwrap();
    assert!(hash.len() == key.len() && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hash}");
    assert!(!lines(&plain)[0].contains(hash), "each recording has its own hash");
}

#[test]
fn a_recording_ends_by_itself_and_with_the_server() {
    let (world, dir) = (over_none(), tempfile::tempdir().unwrap());
    let (first, second) = (dir.path().join("1.csv"), dir.path().join("2.csv"));
    let ended = run(terrace(&["record", "--server", world.node.grpc(), "--for", "10ms", "--output"]).arg(&first));
    assert!(ended.contains("0 reads of 0 keys in ") && ended.contains("a sample of 1/8 of the keys"), "{ended}");
    let child = record(world.node.grpc(), &second, &[]);
    drop(world);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(printed(&output).contains("the server is stopping"), "{}", printed(&output));
    assert_eq!(lines(&second), Vec::<String>::new());
}

async fn reads(grpc: &str, one_in: u32) -> Result<Streaming<RecordReadsResponse>, tonic::Status> {
    let request = RecordReadsRequest { one_in, plain_keys: true };
    let mut stream = AdminClient::new(connect(grpc).await).record_reads(request).await?.into_inner();
    // A refusal arrives as the first message.
    stream.message().await?;
    Ok(stream)
}

#[test]
fn a_sample_has_all_reads_of_its_keys() {
    const KEYS: usize = 4_000;
    let world = over_none();
    let names: Vec<String> = (0..KEYS).map(|number| format!("key:{number}")).collect();
    let mut client = connection(world.node.resp());
    let mut pipe = redis::pipe();
    for name in &names {
        pipe.set(name, "v").ignore();
    }
    pipe.exec(&mut client).unwrap();
    block_on(async {
        let mut stream = reads(world.node.grpc(), 4).await.unwrap();
        for chunk in [&names[..], &names[..]].concat().chunks(500) {
            let values: Vec<String> = client.mget(chunk).unwrap();
            assert_eq!(values.len(), chunk.len());
        }
        let mut tally: HashMap<Vec<u8>, usize> = HashMap::new();
        // An empty message says that nothing is waiting.
        while let Some(message) = stream.message().await.unwrap() {
            assert_eq!(message.lost, 0);
            if message.reads.is_empty() {
                break;
            }
            message.reads.iter().for_each(|read| *tally.entry(read.key.to_vec()).or_default() += 1);
        }
        assert!((KEYS / 8..KEYS / 2).contains(&tally.len()), "{} keys", tally.len());
        assert!(tally.values().all(|&count| count == 2), "{tally:?}");
    });
}

#[test]
fn a_client_that_does_not_read_loses_reads_and_delays_nobody() {
    const AT_ONCE: usize = 2_000;
    const ROUNDS: usize = 150;
    let world = over_none();
    let mut client = connection(world.node.resp());
    let key = "k".repeat(200);
    client.set::<_, _, ()>(&key, "v").unwrap();
    block_on(async {
        let mut stream = reads(world.node.grpc(), 1).await.unwrap();
        let keys = vec![&key; AT_ONCE];
        for _ in 0..ROUNDS {
            let values: Vec<String> = client.mget(&keys).unwrap();
            assert_eq!(values.len(), AT_ONCE, "the reads are answered");
        }
        let (mut received, mut lost) = (0, 0);
        while let Some(message) = stream.message().await.unwrap() {
            received += message.reads.iter().filter(|read| read.outcome() == RecordedOutcome::Found).count() as u64;
            lost = message.lost;
            if message.reads.is_empty() {
                break;
            }
        }
        assert!(lost > 0, "{received} received");
        assert_eq!(received + lost, (AT_ONCE * ROUNDS) as u64, "each read is received or counted as lost");
    });
}

#[test]
fn samples_and_the_number_of_calls_are_limited() {
    let world = over_none();
    block_on(async {
        let grpc = world.node.grpc();
        let refused = reads(grpc, 65_537).await.expect_err("too small");
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::InvalidArgument, "one_in is 65537; expected 1 to 65536")
        );
        let mut open = Vec::new();
        for _ in 0..4 {
            open.push(reads(grpc, 0).await.unwrap());
        }
        let refused = reads(grpc, 1).await.expect_err("too many");
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(refused.message(), "4 recordings of reads are in progress; no more are allowed");
        open.pop();
        // The server notices after a moment that a client has ended its call.
        while reads(grpc, 1).await.is_err() {
            tokio::task::yield_now().await;
        }
        let mut cache = CacheClient::new(connect(grpc).await);
        cache.set(SetRequest { key: "k".into(), value: "v".into(), ..Default::default() }).await.unwrap();
    });
}
