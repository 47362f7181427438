//! The commands of load leases: TERRACE.LEASE, TERRACE.FILL, TERRACE.ABSENT and TERRACE.RELEASE.
//!
//! Each reply is an array whose first element says what the client does next.

use std::time::Duration;

use bytes::Bytes;

use super::{integer, is};
use crate::{
    cache::{
        FillRequest, Grant, GrantReason, LeaseAnswer, LeaseRequest, LoadedValue, TagNames,
        loads::{fill::Filled, limits},
    },
    clock::millis,
    model::Key,
    resp::{
        command::{Context, readable},
        frame::Args,
        lease_token,
        reply::{Done, Refusal, Reply},
    },
};

/// Maximum number of callers of a connection that wait for a load: a connection runs one command at a time.
const WAITING_MAX: usize = 1;
/// Maximum number of characters of an invalid argument in an error.
const SHOWN_MAX: usize = 64;

/// TERRACE.LEASE key [STALE ms] [WAIT ms] [LEASE ms] [TAGS n tag ...] [REFRESH] [NONCE hex]
pub(in crate::resp) async fn lease(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    cx.check_main_db()?;
    let options = Options::parse(cx, args.from(2), &["STALE", "WAIT", "LEASE", "TAGS", "REFRESH", "NONCE"])?;
    let request = LeaseRequest {
        stale: options.stale,
        lease: options.lease,
        wait: options.wait,
        tags: options.tags,
        refresh: options.refresh,
        nonce: options.nonce,
        stale_ok: cx.edge.settings.load().serve_stale,
        waiting_max: WAITING_MAX,
    };
    let answer = cx.edge.cache.get_or_lease(Key::copied(args.at(1))?, request).await?;
    write_answer(cx.reply, &answer);
    Ok(())
}

/// TERRACE.FILL key token value [PX ms] [STALE ms] [TAGS n tag ...]
pub(in crate::resp) async fn fill(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let options = Options::parse(cx, args.from(4), &["PX", "STALE", "TAGS"])?;
    let loaded = LoadedValue::Value(Bytes::copy_from_slice(args.at(3)));
    store(cx, args, loaded, options).await
}

/// TERRACE.ABSENT key token [PX ms] [TAGS n tag ...]
pub(in crate::resp) async fn absent(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let options = Options::parse(cx, args.from(3), &["PX", "TAGS"])?;
    store(cx, args, LoadedValue::Absent, options).await
}

async fn store(cx: &mut Context<'_>, args: Args<'_>, loaded: LoadedValue, options: Options) -> Done {
    cx.check_main_db()?;
    let Options { px: ttl, stale, tags, .. } = options;
    let request = FillRequest { token: lease_token::decode(args.at(2)), loaded, ttl, stale, tags };
    let reason = match cx.edge.cache.fill(Key::copied(args.at(1))?, request).await? {
        Filled::Stored { .. } => {
            cx.reply.array(1);
            cx.reply.bulk(b"stored");
            return Ok(());
        }
        Filled::LeaseLost => "lease_lost",
        Filled::Changed => "changed",
        Filled::Invalidated => "invalidated",
    };
    cx.reply.array(2);
    cx.reply.bulk(b"not_filled");
    cx.reply.bulk(reason.as_bytes());
    Ok(())
}

/// TERRACE.RELEASE key token [FAILED message [RETRY ms]]
pub(in crate::resp) async fn release(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    cx.check_main_db()?;
    let failed = match (args.get(3), args.get(4), args.get(5), args.get(6), args.len()) {
        (None, ..) => None,
        (Some(failed), Some(message), None, ..) if is(failed, "failed") => Some((message, None)),
        (Some(failed), Some(message), Some(retry), Some(ms), 7) if is(failed, "failed") && is(retry, "retry") => {
            Some((message, Some(span(ms, "RETRY", limits::RETRY)?)))
        }
        (Some(word), ..) => {
            let seen = readable(word, SHOWN_MAX);
            return Err(Refusal::text(format!(
                "ERR syntax error in TERRACE.RELEASE at '{seen}'; expected no option or FAILED message [RETRY ms]"
            )));
        }
    };
    let failed = failed.map(|(message, retry)| (Bytes::copy_from_slice(message), retry));
    cx.edge.cache.release(Key::copied(args.at(1))?, &lease_token::decode(args.at(2)), failed).await?;
    cx.reply.ok();
    Ok(())
}

/// Options of the commands.
#[derive(Default)]
struct Options {
    px: Option<Duration>,
    stale: Option<Duration>,
    wait: Option<Duration>,
    lease: Option<Duration>,
    tags: TagNames,
    refresh: bool,
    nonce: Option<[u8; 16]>,
}

impl Options {
    /// Parses the arguments after the fixed ones. Each option may occur once.
    fn parse(cx: &Context<'_>, mut words: Args<'_>, accepted: &[&str]) -> Result<Self, Refusal> {
        let mut options = Self::default();
        let mut seen = Vec::new();
        while let Some(word) = words.get(0) {
            let Some(&name) = accepted.iter().find(|name| is(word, name)) else {
                let (command, word) = (cx.row.name.to_ascii_uppercase(), readable(word, SHOWN_MAX));
                let accepted = accepted.join(", ");
                let text = format!("ERR syntax error in {command} at '{word}'; expected one of {accepted}");
                return Err(Refusal::text(text));
            };
            if seen.contains(&name) {
                return Err(Refusal::text(format!("ERR {name} occurs twice; expected each option at most once")));
            }
            seen.push(name);
            let used = options.set(name, words.from(1))?;
            words = words.from(1 + used);
        }
        Ok(options)
    }

    /// Sets one option from the words after its name. Returns the number of words that belong to the option.
    fn set(&mut self, name: &str, words: Args<'_>) -> Result<usize, Refusal> {
        if name == "REFRESH" {
            self.refresh = true;
            return Ok(0);
        }
        let Some(value) = words.get(0) else {
            return Err(Refusal::text(format!("ERR {name} has no value; expected an argument after {name}")));
        };
        match name {
            "PX" => self.px = Some(span(value, name, limits::TTL)?),
            "STALE" => self.stale = Some(span(value, name, limits::STALE)?),
            "WAIT" => self.wait = Some(span(value, name, limits::WAIT)?),
            "LEASE" => self.lease = Some(span(value, name, limits::LEASE)?),
            "NONCE" => self.nonce = Some(nonce(value)?),
            _ => return self.set_tags(value, words.from(1)),
        }
        Ok(1)
    }

    fn set_tags(&mut self, count: &[u8], words: Args<'_>) -> Result<usize, Refusal> {
        let number = integer(count).ok().and_then(|count| usize::try_from(count).ok());
        let Some(number) = number.filter(|number| *number <= words.len()) else {
            let (seen, rest) = (readable(count, SHOWN_MAX), words.len());
            let text =
                format!("ERR TAGS is '{seen}' with {rest} arguments after it; expected the number of tags that follow");
            return Err(Refusal::text(text));
        };
        self.tags = TagNames::new(words.iter().take(number).map(Bytes::copy_from_slice).collect())?;
        Ok(1 + number)
    }
}

/// Parses a duration in milliseconds within a range.
fn span(text: &[u8], name: &str, range: limits::Range) -> Result<Duration, Refusal> {
    let ms = integer(text).map_err(|_| range.refused(name, format_args!("'{}'", readable(text, SHOWN_MAX))))?;
    Ok(range.of_ms(name, ms)?)
}

fn nonce(text: &[u8]) -> Result<[u8; 16], Refusal> {
    lease_token::nonce(text).ok_or_else(|| {
        let seen = readable(text, SHOWN_MAX);
        Refusal::text(format!("ERR NONCE is '{seen}' ({} bytes); expected 32 hexadecimal digits", text.len()))
    })
}

fn write_answer(reply: &mut Reply, answer: &LeaseAnswer) {
    match answer {
        LeaseAnswer::Hit { found, needs_refresh: false, grant: None, fresh } => {
            reply.array(3);
            reply.bulk(b"hit");
            reply.bulk(&found.value);
            count_or_null(reply, *fresh);
        }
        LeaseAnswer::Hit { found, grant, .. } => {
            reply.array(4);
            reply.bulk(b"stale");
            reply.bulk(&found.value);
            let token = grant.as_ref().map(|grant| lease_token::encode(&grant.token));
            reply.bulk_or_null(token.as_ref().map(String::as_bytes));
            count_or_null(reply, grant.as_ref().map(|grant| grant.lease));
        }
        LeaseAnswer::Load(Grant { token, lease, reason }) => {
            reply.array(4);
            reply.bulk(b"load");
            reply.bulk(lease_token::encode(token).as_bytes());
            reply.count(millis(*lease));
            reply.bulk(reason_name(*reason).as_bytes());
        }
        LeaseAnswer::Busy { leader_age, expected } => {
            reply.array(3);
            reply.bulk(b"busy");
            reply.count(millis(*leader_age));
            count_or_null(reply, *expected);
        }
        LeaseAnswer::Absent { life } => {
            reply.array(2);
            reply.bulk(b"absent");
            reply.count(millis(*life));
        }
        LeaseAnswer::Failed { message, retry_after } => {
            reply.array(3);
            reply.bulk(b"failed");
            reply.bulk(message);
            reply.count(millis(*retry_after));
        }
    }
}

fn count_or_null(reply: &mut Reply, span: Option<Duration>) {
    match span {
        Some(span) => reply.count(millis(span)),
        None => reply.null(),
    }
}

fn reason_name(reason: GrantReason) -> &'static str {
    match reason {
        GrantReason::Miss => "miss",
        GrantReason::Stale => "stale",
        GrantReason::Early => "early",
        GrantReason::Forced => "forced",
        GrantReason::Takeover => "takeover",
    }
}
