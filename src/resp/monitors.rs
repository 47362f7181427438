//! MONITOR: shows the commands of all clients to monitoring clients. The mailbox closes a monitoring client that does
//! not read.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

use super::{client_state::Client, frame::Args};
use crate::{budget::Account, clock::UnixMs};

/// All monitoring clients.
#[derive(Debug, Default)]
pub(super) struct Monitors {
    count: AtomicUsize,
    watchers: Mutex<Vec<Arc<Client>>>,
}

impl Monitors {
    /// Returns `true` if there are monitoring clients.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.count.load(Relaxed) > 0
    }

    pub(super) fn add(&self, client: &Arc<Client>) {
        let mut watchers = self.watchers.lock();
        watchers.push(Arc::clone(client));
        self.count.store(watchers.len(), Relaxed);
    }

    pub(super) fn remove(&self, client: u64) {
        let mut watchers = self.watchers.lock();
        watchers.retain(|watcher| watcher.id != client);
        self.count.store(watchers.len(), Relaxed);
    }

    /// Sends a request to all clients in MONITOR, without secrets. `name` is the command's name in the table.
    pub(super) fn show(
        &self,
        name: &str,
        args: Args<'_>,
        db: u8,
        client: &Client,
        now: UnixMs,
        account: &Arc<Account>,
    ) {
        // All monitoring clients share the line.
        let line = account.held_bytes(line(name, args, db, client, now).into());
        let watchers = self.watchers.lock().clone();
        for watcher in watchers {
            watcher.mailbox.post(line.clone());
        }
    }
}

fn line(name: &str, args: Args<'_>, db: u8, client: &Client, now: UnixMs) -> String {
    let (seconds, micros) = (now.0 / 1000, now.0 % 1000 * 1000);
    let mut line = format!("+{seconds}.{micros:06} [{db} {}]", client.address);
    for (at, arg) in args.iter().enumerate() {
        line.push(' ');
        if is_secret(name, args, at) {
            line.push_str("\"(redacted)\"");
        } else {
            quote(arg, &mut line);
        }
    }
    line.push_str("\r\n");
    line
}

/// Returns `true` for a password: an argument of AUTH, or of the AUTH option of HELLO.
pub(super) fn is_secret(name: &str, args: Args<'_>, at: usize) -> bool {
    let follows_auth = || (1..=2).any(|back| at > back && args.at(at - back).eq_ignore_ascii_case(b"auth"));
    match name {
        "auth" => at > 0,
        "hello" => at > 2 && follows_auth(),
        _ => false,
    }
}

/// Appends bytes in double quotes; bytes other than printable ASCII are escaped.
pub(super) fn quote(bytes: &[u8], out: &mut String) {
    out.push('"');
    for &byte in bytes {
        match byte {
            b'\\' | b'"' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            0x07 => out.push_str("\\a"),
            0x08 => out.push_str("\\b"),
            b' '..=b'~' => out.push(char::from(byte)),
            // Writing to a String cannot fail.
            other => drop(write!(out, "\\x{other:02x}")),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::frame::Owned;

    #[test]
    fn bytes_are_quoted_as_redis_does() {
        let mut out = String::new();
        quote(b"a \"b\"\\\n\r\t\x07\x08\x00\xff", &mut out);
        assert_eq!(out, r#""a \"b\"\\\n\r\t\a\b\x00\xff""#);
    }

    #[test]
    fn no_password_is_shown() {
        for (request, shown) in [
            ("auth secret", "auth *"),
            ("auth me secret", "auth * *"),
            ("hello 3 auth me secret setname x", "hello 3 auth * * setname x"),
            ("hello 3 setname x auth me secret", "hello 3 setname x auth * *"),
            ("get auth", "get auth"),
        ] {
            let request = Owned::new(request.split(' ').map(str::as_bytes));
            let args = request.args();
            let name = std::str::from_utf8(request.args().at(0)).unwrap();
            let word = |at| if is_secret(name, args, at) { "*".into() } else { String::from_utf8_lossy(args.at(at)) };
            let got: Vec<_> = (0..args.len()).map(word).collect();
            assert_eq!(got.join(" "), shown);
        }
    }
}
