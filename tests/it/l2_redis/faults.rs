//! What callers receive while Redis refuses commands, is slow, is full, is unavailable, or has returned.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use terrace::{
    error::Kind,
    l2::{Applied, Backend, Op, State, Tunables, redis::Redis},
};

use super::{PATIENT, SHORT, VALUE_MAX, apply, connected, over, put, read, settings, start, until, value};
use crate::support::{backend::key, redis::RedisServer};

#[tokio::test]
async fn the_url_says_which_database_and_who_asks() {
    let server = RedisServer::start();
    server.run("ACL SETUSER bob on >pw%42 ~* +@all");
    let tunables = || Tunables::new(PATIENT, VALUE_MAX);
    let url = format!("redis://bob:pw%2542@127.0.0.1:{}/3", server.port());
    let backend = over(&url, tunables());
    until("the backend is up", || backend.state() == State::Up).await;
    apply(&backend, "k", put("v")).await.unwrap();
    assert!(server.ask::<String>(&[b"INFO", b"keyspace"]).contains("db3:keys=1"));
    let clients: String = server.ask(&[b"CLIENT", b"LIST"]);
    assert_eq!(clients.matches("name=terrace").count(), 2, "{clients}");
    let url = format!("redis+unix://{}?db=3", server.socket().display());
    let local = over(&url, tunables());
    until("the backend is up", || local.state() == State::Up).await;
    assert_eq!(read(&local, "k").await, Ok(Some(value("v"))));
}

#[tokio::test]
async fn what_redis_refuses_at_connect_is_told_by_name() {
    let server = RedisServer::start_with(&["--requirepass", "right", "--databases", "2"]);
    for (url, kind, text) in [
        (server.url(), Kind::NoAccess, "NOAUTH"),
        (server.url().replace("//", "//:wrong-one@"), Kind::NoAccess, "WRONGPASS"),
        (server.url().replace("//", "//:right@") + "/7", Kind::Unsupported, "database 7"),
    ] {
        let backend = over(&url, Tunables::new(PATIENT, VALUE_MAX));
        until("the refusal is known", || matches!(backend.state(), State::Down(_))).await;
        let error = read(&backend, "k").await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(text), "{error}");
        assert!(!error.message().contains("wrong-one"), "{error}");
        assert!(matches!(backend.state(), State::Down(why) if why == error.message()));
    }
}

#[tokio::test]
async fn a_user_without_rights_is_told_so_per_command() {
    let server = RedisServer::start();
    server.run("ACL SETUSER reader on nopass ~* +get +select +client|setname");
    let url = server.url().replace("//", "//reader:any@");
    let backend = over(&url, Tunables::new(PATIENT, VALUE_MAX));
    until("the backend is up", || backend.state() == State::Up).await;
    assert_eq!(read(&backend, "k").await, Ok(None));
    let error = apply(&backend, "k", put("v")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NoAccess);
    assert!(error.message().contains("NOPERM"), "{error}");
}

#[tokio::test]
async fn a_stopped_redis_costs_a_deadline_and_no_more() {
    let server = RedisServer::start();
    let backend = connected(&server, SHORT).await;
    apply(&backend, "k", put("before")).await.unwrap();
    server.pause();
    let begun = tokio::time::Instant::now();
    assert_eq!(read(&backend, "k").await.unwrap_err().kind(), Kind::DeadlineExceeded);
    assert!(begun.elapsed() >= SHORT.read);
    let begun = tokio::time::Instant::now();
    assert_eq!(apply(&backend, "k", put("during")).await.unwrap_err().kind(), Kind::Unknown);
    assert!(begun.elapsed() >= SHORT.write);
    // Connections without answers are closed; from then on no call waits.
    until("the stopped Redis is known", || {
        let _call = futures_util::FutureExt::now_or_never(backend.get(&[key("k")], false));
        matches!(backend.state(), State::Down(_))
    })
    .await;
    let error = read(&backend, "k").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.retry_delay().is_some());
    server.resume();
    until("it is up again", || backend.state() == State::Up).await;
    assert!(read(&backend, "k").await.is_ok());
}

#[tokio::test]
async fn a_killed_redis_is_unavailable_at_once_and_back_without_a_restart() {
    let mut server = RedisServer::start();
    let backend = connected(&server, PATIENT).await;
    apply(&backend, "k", put("old")).await.unwrap();
    server.kill();
    until("the loss is known", || matches!(backend.state(), State::Down(_))).await;
    for _ in 0..100 {
        let error = read(&backend, "k").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        assert!(error.retry_delay().is_some());
        assert_eq!(apply(&backend, "k", put("x")).await.unwrap_err().kind(), Kind::Unavailable);
    }
    server.restart();
    until("it is up again", || backend.state() == State::Up).await;
    assert_eq!(read(&backend, "k").await, Ok(None));
    // The new server lacks the scripts of the old one.
    let op = Op::Append { suffix: Bytes::from_static(b"x"), life_if_new: None, length_max: 9 };
    assert_eq!(apply(&backend, "k", op).await, Ok(Applied::Length(1)));
}

#[tokio::test]
async fn a_redis_that_comes_later_is_found() {
    let mut server = RedisServer::start();
    server.kill();
    let backend = start(&server, PATIENT);
    assert_eq!(backend.state(), State::Connecting);
    assert_eq!(read(&backend, "k").await.unwrap_err().kind(), Kind::Unavailable);
    until("the failure is known", || matches!(backend.state(), State::Down(_))).await;
    server.restart();
    until("it is up", || backend.state() == State::Up).await;
    assert_eq!(read(&backend, "k").await, Ok(None));
}

#[tokio::test]
async fn a_lost_connection_leaves_writes_unknown_and_reads_unavailable() {
    let mut server = RedisServer::start();
    let backend = Arc::new(connected(&server, PATIENT).await);
    // The first call reads the log of bans.
    assert_eq!(read(&backend, "k").await, Ok(None));
    server.pause();
    let reading = tokio::spawn({
        let backend = Arc::clone(&backend);
        async move { read(&backend, "k").await }
    });
    let writing = tokio::spawn({
        let backend = Arc::clone(&backend);
        async move { apply(&backend, "k", put("v")).await }
    });
    // Both are queued now, and are sent when their connections run next.
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    server.kill();
    assert_eq!(reading.await.unwrap().unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(writing.await.unwrap().unwrap_err().kind(), Kind::Unknown);
}

#[tokio::test]
async fn the_queue_is_bounded_and_what_waits_in_it_too_long_is_never_sent() {
    let server = RedisServer::start();
    let mut settings = settings(&server.url());
    settings.connections = 1;
    // Ten increments: without invalidation links, a node removes the load lease of the key before each write.
    settings.queue_limit = 20;
    let backend = Redis::new(&settings, Tunables::new(SHORT, VALUE_MAX)).backend();
    until("the backend is up", || backend.state() == State::Up).await;
    server.run("SET n 0");
    read(&backend, "n").await.expect("a read");
    server.pause();
    let increment = || apply(&backend, "n", Op::Increment { delta: 1, life_if_new: None });
    // Together they exceed the queue limit: the first ten wait, the others are refused at once.
    let results = futures_util::future::join_all((0..50).map(|_| increment())).await;
    let count =
        |kind: Kind| results.iter().filter(|result| matches!(result, Err(error) if error.kind() == kind)).count();
    assert_eq!((count(Kind::Unknown), count(Kind::Overloaded)), (10, 40), "{results:?}");
    // Single writes until the limit of pipelines in flight is reached; later writes wait in the queue and are withdrawn.
    let mut sent = 10;
    loop {
        let error = increment().await.unwrap_err();
        if error.kind() == Kind::Unavailable {
            break;
        }
        assert_eq!(error.kind(), Kind::Unknown, "{error}");
        sent += 1;
    }
    server.resume();
    let number = || server.ask::<i64>(&[b"GET", b"n"]);
    until("what was sent has run", || number() == sent).await;
    until("it is up again", || backend.state() == State::Up).await;
    assert_eq!(increment().await, Ok(Applied::Number(sent + 1)));
}

#[tokio::test]
async fn what_is_asked_together_goes_as_one_pipeline() {
    let server = RedisServer::start();
    let backend = connected(&server, PATIENT).await;
    let mut observer = server.connect();
    let mut reads = || {
        let info: String = ::redis::cmd("INFO").arg("stats").query(&mut observer).expect("INFO answers");
        let line = info.lines().find_map(|line| line.strip_prefix("total_reads_processed:")).expect("a count");
        line.parse::<u64>().expect("a number")
    };
    let before = reads();
    let asked = futures_util::future::join_all((0..64).map(|_| read(&backend, "k"))).await;
    assert!(asked.iter().all(|found| *found == Ok(None)));
    // The query of the observer is one read as well.
    let took = reads() - before - 1;
    assert!((1..=2).contains(&took), "{took} reads for 64 questions");
}

#[tokio::test]
async fn a_server_that_is_full_says_so_and_is_tried_again() {
    let server = RedisServer::start();
    let mut held = server.connect();
    let mut limit = |clients: u32| {
        let mut command = ::redis::cmd("CONFIG");
        command.arg("SET").arg("maxclients").arg(clients).exec(&mut held).expect("CONFIG SET is allowed");
    };
    limit(1);
    let backend = start(&server, PATIENT);
    // Redis closes without reading, so that sometimes its answer is lost in a broken pipe.
    let says = |state| matches!(state, State::Down(why) if why.contains("max number of clients"));
    until("the refusal is told", || says(backend.state())).await;
    assert_eq!(read(&backend, "k").await.unwrap_err().kind(), Kind::Unavailable);
    limit(1000);
    until("it is up", || backend.state() == State::Up).await;
}

/// An acknowledged write was executed, `Unavailable` was not, and `Unknown` may have been.
#[tokio::test]
async fn results_of_writes_are_honest_while_connections_are_cut() {
    let server = RedisServer::start();
    let backend = Arc::new(connected(&server, PATIENT).await);
    let done = Arc::new(AtomicBool::new(false));
    let mut callers = Vec::new();
    for _ in 0..32 {
        let (backend, done) = (Arc::clone(&backend), Arc::clone(&done));
        callers.push(tokio::spawn(async move {
            let (mut acknowledged, mut unknown) = (0, 0);
            while !done.load(Relaxed) {
                match apply(&backend, "n", Op::Increment { delta: 1, life_if_new: None }).await {
                    Ok(_) => acknowledged += 1,
                    Err(error) if error.kind() == Kind::Unknown => unknown += 1,
                    Err(error) => {
                        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            }
            (acknowledged, unknown)
        }));
    }
    let number = || server.ask::<Option<i64>>(&[b"GET", b"n"]).unwrap_or(0);
    for _ in 0..20 {
        let before = number();
        until("writes go on", || number() > before).await;
        server.run("CLIENT KILL TYPE normal");
    }
    done.store(true, Relaxed);
    let (mut acknowledged, mut unknown) = (0, 0);
    for caller in callers {
        let (acked, lost) = caller.await.expect("a caller ends");
        acknowledged += acked;
        unknown += lost;
    }
    let number = number();
    println!("{acknowledged} acknowledged, {unknown} unknown, {number} happened");
    assert!((acknowledged..=acknowledged + unknown).contains(&number));
    assert!(unknown > 0 && acknowledged > unknown, "connections were cut with writes under way");
}
