//! Maps all errors of Redis to [`CacheError`].

use std::time::Duration;

use ::redis::{ErrorKind, RedisError, ServerError};

use crate::error::{CacheError, Kind};

/// Retry delay after a temporary rejection (loading, failover, busy): long enough that retries add little load, and
/// short compared with the duration of these states.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Maps an error reply. Redis has not executed the command.
pub(crate) fn from_reply(error: &ServerError) -> CacheError {
    let detail = error.details().unwrap_or_default();
    match error.code() {
        "WRONGTYPE" => CacheError::new(Kind::WrongType, "Operation against a key holding the wrong kind of value"),
        "OOM" => {
            CacheError::new(Kind::OutOfMemory, "Redis is out of memory (OOM) and refused the write").refusing_writes()
        }
        "LOADING" | "READONLY" | "MASTERDOWN" | "CLUSTERDOWN" | "BUSY" | "TRYAGAIN" | "MISCONF" | "NOREPLICAS" => {
            passing(error.code(), detail)
        }
        "NOAUTH" | "NOPERM" | "WRONGPASS" | "DENIED" => no_access(error.code(), detail),
        "MOVED" | "ASK" | "CROSSSLOT" => {
            let message = "this Redis is a member of a Redis Cluster; set l2.url to redis+cluster://host:port";
            CacheError::new(Kind::Unsupported, message)
        }
        _ => from_text(error.code(), detail),
    }
}

/// Codes of temporary errors with which Redis refuses only writes. TRYAGAIN: the key moves to another primary.
const REFUSES_WRITES: [&str; 4] = ["READONLY", "NOREPLICAS", "MISCONF", "TRYAGAIN"];

fn passing(code: &str, detail: &str) -> CacheError {
    let error = CacheError::new(Kind::Unavailable, format!("Redis is temporarily unavailable: {code} {detail}"))
        .retry_after(RETRY_AFTER);
    if REFUSES_WRITES.contains(&code) { error.refusing_writes() } else { error }
}

fn no_access(code: &str, detail: &str) -> CacheError {
    CacheError::new(Kind::NoAccess, format!("Redis denied access to the user of l2.url or l2.user: {code} {detail}"))
        .refusing_writes()
}

/// Maps errors that Redis distinguishes only by their text, mostly with the code ERR.
fn from_text(code: &str, detail: &str) -> CacheError {
    let has = |text: &str| detail.contains(text);
    if has("not an integer or out of range") {
        return CacheError::new(Kind::NotANumber, "value is not an integer or out of range");
    }
    if has("would overflow") {
        return CacheError::new(Kind::Overflow, "increment or decrement would overflow");
    }
    if has("not a valid float") {
        return CacheError::new(Kind::NotANumber, "value is not a valid float");
    }
    if has("NaN or Infinity") {
        return CacheError::new(Kind::Overflow, "increment would produce NaN or Infinity");
    }
    if has("string exceeds maximum allowed size") {
        return CacheError::new(Kind::TooLarge, "the value exceeds the limit of Redis (proto-max-bulk-len)");
    }
    if has("max number of clients reached") {
        return passing(code, detail);
    }
    if has("AUTH <password> called without any password") {
        return no_access(code, "l2.url or l2.password_file has a password, but Redis has no password configured");
    }
    if has("unknown command") || has("unknown subcommand") || has("syntax error") {
        let message = format!(
            "Redis does not support a required command or option; expected version 7.0 or later: {code} {detail}"
        );
        return CacheError::new(Kind::Unsupported, message);
    }
    CacheError::new(Kind::Internal, format!("unexpected error reply of Redis: {code} {detail}"))
}

/// Maps the failure of a connection. The message never contains the password, because the texts of the crate do not.
pub(crate) fn from_connection(error: &RedisError) -> CacheError {
    let text = match (error.code(), error.detail()) {
        (Some(code), detail) => return from_code(code, detail.unwrap_or_default()),
        (None, Some(detail)) => format!("{error} ({detail})"),
        (None, None) => error.to_string(),
    };
    if error.kind() == ErrorKind::RESP3NotSupported {
        return CacheError::new(Kind::Unsupported, "Redis does not support HELLO 3; expected version 7.0 or later");
    }
    CacheError::new(Kind::Unavailable, text).retry_after(RETRY_AFTER)
}

fn from_code(code: &str, detail: &str) -> CacheError {
    match code {
        "NOAUTH" | "NOPERM" | "WRONGPASS" | "DENIED" => no_access(code, detail),
        _ => match from_text(code, detail) {
            error if error.kind() == Kind::Internal => passing(code, detail),
            error => error,
        },
    }
}

/// Returns the error for a slot that moved between primaries faster than a call could follow.
pub(crate) fn in_motion() -> CacheError {
    let message = "the key's slot is moving between primaries of the Redis Cluster";
    CacheError::new(Kind::Unavailable, message).retry_after(RETRY_AFTER).refusing_writes()
}

/// Returns the error for a write that was executed although Redis redirected a command that had to run before it.
pub(crate) fn unprepared() -> CacheError {
    let message = "the key's slot is moving between primaries of the Redis Cluster; the write was executed in part";
    CacheError::new(Kind::Unknown, message)
}

/// Returns the error for a reply type that the command never has, for example because the server is not Redis.
pub(crate) fn unexpected(command: &str) -> CacheError {
    CacheError::new(Kind::Internal, format!("unexpected type of Redis's reply to {command}"))
}

/// Returns the error for a value that exceeds the maximum value size.
pub(crate) fn too_large(bytes: u64, value_max: u64) -> CacheError {
    CacheError::new(Kind::TooLarge, format!("value of {bytes} bytes exceeds max_value ({value_max} bytes)"))
}

#[cfg(test)]
mod tests {
    use ::redis::{Value, parse_redis_value};

    use super::*;

    fn mapped(line: &str) -> CacheError {
        let reply = parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        let Value::ServerError(error) = reply else { panic!("not an error: {reply:?}") };
        from_reply(&error)
    }

    #[test]
    fn each_refusal_has_its_kind() {
        for (line, kind) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", Kind::OutOfMemory),
            ("LOADING Redis is loading the dataset in memory", Kind::Unavailable),
            ("READONLY You can't write against a read only replica.", Kind::Unavailable),
            ("MASTERDOWN Link with MASTER is down", Kind::Unavailable),
            ("CLUSTERDOWN The cluster is down", Kind::Unavailable),
            ("BUSY Redis is busy running a script.", Kind::Unavailable),
            ("TRYAGAIN Multiple keys request during rehashing of slot", Kind::Unavailable),
            ("MISCONF Redis is configured to save RDB snapshots", Kind::Unavailable),
            ("NOREPLICAS Not enough good replicas to write.", Kind::Unavailable),
            ("NOAUTH Authentication required.", Kind::NoAccess),
            ("NOPERM this user has no permissions to run the 'get' command", Kind::NoAccess),
            ("WRONGPASS invalid username-password pair", Kind::NoAccess),
            ("DENIED Redis is running in protected mode", Kind::NoAccess),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", Kind::WrongType),
            ("ERR value is not an integer or out of range", Kind::NotANumber),
            ("ERR increment or decrement would overflow", Kind::Overflow),
            ("ERR value is not a valid float", Kind::NotANumber),
            ("ERR increment would produce NaN or Infinity", Kind::Overflow),
            ("ERR string exceeds maximum allowed size (proto-max-bulk-len)", Kind::TooLarge),
            ("ERR syntax error", Kind::Unsupported),
            ("ERR unknown command 'PEXPIRETIME', with args beginning with: 'k'", Kind::Unsupported),
            ("MOVED 3999 127.0.0.1:6381", Kind::Unsupported),
            ("ERR max number of clients reached", Kind::Unavailable),
            ("ERR something new", Kind::Internal),
        ] {
            assert_eq!(mapped(line).kind(), kind, "{line}");
        }
    }

    #[test]
    fn refusals_of_writes_are_marked() {
        for code in ["OOM", "READONLY", "NOREPLICAS", "MISCONF", "TRYAGAIN", "NOPERM"] {
            assert!(mapped(&format!("{code} text")).refuses_writes(), "{code}");
        }
        // The text of an error does not count.
        for line in ["LOADING READONLY", "CLUSTERDOWN text", "WRONGTYPE text", "ERR MISCONF"] {
            assert!(!mapped(line).refuses_writes(), "{line}");
        }
        assert!(in_motion().refuses_writes());
    }

    #[test]
    fn what_passes_says_when_to_come_back() {
        assert!(mapped("LOADING Redis is loading the dataset in memory").retry_delay().is_some());
        assert!(mapped("NOAUTH Authentication required.").retry_delay().is_none());
    }
}
