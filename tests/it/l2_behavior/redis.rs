//! Redis as a subject of the behavior suite, and as the reference for decimal sums.

use std::sync::Arc;

use terrace::l2::{
    Backend, State,
    op::decimal,
    redis::{Redis, RedisSettings, TlsFiles, url::RedisUrl},
};

use super::{Subject, Time};
use crate::support::{PATIENCE, backend::tunables, redis::RedisServer};

/// An empty redis-server and a backend that is connected to it.
pub(crate) async fn start() -> Subject {
    let server = RedisServer::start();
    let url = RedisUrl::parse(&server.url()).expect("a URL");
    let backend =
        Arc::new(Redis::new(&RedisSettings::new(url, TlsFiles::default()).expect("settings"), tunables()).backend());
    let up = async {
        while backend.state() != State::Up {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, up).await.is_ok(), "redis-server is reached");
    Subject::new(backend, Time::Real, server)
}

fn digits(random: &mut fastrand::Rng, most: usize) -> String {
    (0..random.usize(1..=most)).map(|_| random.digit(10)).collect()
}

fn number(random: &mut fastrand::Rng) -> String {
    let sign = ["", "", "-", "+"][random.usize(..4)];
    let fraction = if random.bool() { format!(".{}", digits(random, 22)) } else { String::new() };
    let exponent = match random.u8(..6) {
        0 => format!("e{}", random.i32(-40..40)),
        1 => format!("E{}", random.i32(-5_100..5_100)),
        _ => String::new(),
    };
    format!("{sign}{}{fraction}{exponent}", digits(random, 22))
}

/// Sums equal those of Redis to the last digit, and so do refusals.
#[test]
fn decimal_sums_equal_those_of_redis() {
    let server = RedisServer::start();
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..5_000 {
        let (head, delta) = (number(&mut random), number(&mut random));
        server.ask::<()>(&[b"SET", b"n", head.as_bytes()]);
        let theirs: ::redis::RedisResult<Vec<u8>> = server.try_ask(&[b"INCRBYFLOAT", b"n", delta.as_bytes()]);
        let ours = decimal::add(head.as_bytes(), delta.as_bytes()).map_err(|error| error.message().to_owned());
        assert_eq!(ours.is_ok(), theirs.is_ok(), "{head} + {delta}: {ours:?}, {theirs:?} (seed {seed}, round {round})");
        if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
            assert_eq!(ours, theirs, "{head} + {delta} (seed {seed}, round {round})");
        }
    }
}
