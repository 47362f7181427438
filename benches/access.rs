//! Cost of access control: `cargo bench --bench access -- [rounds]` (default 11).
//!
//! * **may**: one permission check by the number of prefixes of a role. Goal: at most 15 ns for a RESP GET, 60 ns for a gRPC
//!   Get with the check of the identity.
//! * **current**: the check of each call that the identity is current. Yardstick: an atomic load and a comparison.
//! * **login**: a login with a token. Yardstick: SHA-256 of the token alone.
//!
//! The output shows medians in nanoseconds: ours | yardstick | ratio.

#[path = "support/figures.rs"]
mod figures;

use std::{hint::black_box, sync::atomic::AtomicU64, sync::atomic::Ordering::Acquire};

use figures::median;
use terrace::{
    access::{Access, AccessSettings, Peer, SecretHash, Verbs},
    clock::{Clock, stopwatch_ns},
    socket::Protocol,
};

/// Calls per measurement.
const CALLS: u64 = 200_000;
const TOKEN: &[u8] = b"VGhpcyBpcyBhIHRva2VuIG9mIDQzIGNoYXJhY3RlcnMu";

fn users(prefixes: usize) -> String {
    let keys: Vec<String> = (0..prefixes)
        .map(|number| format!("{{ prefix = \"service-{number}:\", allow = [\"read\", \"write\"] }}"))
        .collect();
    let hash = SecretHash::of(TOKEN).to_text();
    format!(
        "[[role]]\nname = \"r\"\nkeys = [{}]\n[[user]]\nname = \"u\"\nroles = [\"r\"]\nsecrets = [\"{hash}\"]\n",
        keys.join(", ")
    )
}

/// Median duration of a call in nanoseconds.
fn median_ns(rounds: usize, mut call: impl FnMut()) -> f64 {
    median((0..rounds).map(|_| {
        let begun = stopwatch_ns();
        (0..CALLS).for_each(|_| call());
        (stopwatch_ns() - begun) as f64 / CALLS as f64
    }))
}

fn row(name: &str, ours: f64, yardstick: f64) {
    println!("{name:<28} {ours:>8.1} | {yardstick:>8.1} | {:>6.2}", ours / yardstick);
}

fn main() {
    let rounds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(11);
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("users.toml");
    let peer = Peer { address: "127.0.0.1:1", is_local: true, is_private: true };
    println!("{:<28} {:>8} | {:>8} | ratio", "", "ours ns", "yardst.");
    for prefixes in [1, 9] {
        std::fs::write(&file, users(prefixes)).expect("a file");
        let settings = AccessSettings { file: Some(file.clone()), ..AccessSettings::default() };
        let access = Access::new(settings, Clock::real()).expect("valid users");
        let identity = access.log_in(None, TOKEN, Protocol::Grpc, peer).expect("a user");
        let key = format!("service-{}:0123456789", prefixes - 1);
        let prefix = format!("service-{}:", prefixes - 1);
        let compared = median_ns(rounds, || {
            black_box(black_box(key.as_bytes()).starts_with(black_box(prefix.as_bytes())));
        });
        let principal = identity.principal();
        let may = median_ns(rounds, || {
            black_box(black_box(principal).may(Verbs::READ, black_box(key.as_bytes())));
        });
        row(&format!("may, {prefixes} prefixes"), may, compared);
        if prefixes == 1 {
            let generation = AtomicU64::new(1);
            let loaded = median_ns(rounds, || {
                black_box(black_box(&generation).load(Acquire) == 1);
            });
            row(
                "current",
                median_ns(rounds, || {
                    black_box(access.is_current(black_box(&identity)));
                }),
                loaded,
            );
            let hashed = median_ns(rounds, || {
                black_box(SecretHash::of(black_box(TOKEN)));
            });
            let login = median_ns(rounds, || {
                black_box(access.log_in(None, black_box(TOKEN), Protocol::Grpc, peer).is_ok());
            });
            row("login", login, hashed);
        }
    }
}
