//! Expiry commands: TTL, EXPIRE, PERSIST and their variants.

use std::time::Duration;

use super::{integer, is, mismatched};
use crate::{
    cache::{Applied, Described, ExpireOnly, NewExpiry, Op},
    clock::{UnixMs, millis},
    model::Life,
    resp::{
        command::{Context, readable},
        frame::Args,
        reply::{Done, Refusal},
    },
};

/// Unit of a time argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::resp) enum Unit {
    Seconds,
    Millis,
}

/// Start of a time argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::resp) enum Start {
    Now,
    Epoch,
}

/// Result format of TTL and its variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::resp) enum Shown {
    SecondsLeft,
    MillisLeft,
    UnixSeconds,
    UnixMillis,
}

/// Converts `number` to milliseconds. Returns `None` where Redis rejects it because the sum with the current time
/// overflows.
fn in_ms(number: i64, unit: Unit, start: Start, now: UnixMs) -> Option<i64> {
    let ms = match unit {
        Unit::Seconds => number.checked_mul(1000)?,
        Unit::Millis => number,
    };
    if start == Start::Now {
        ms.checked_add(i64::try_from(now.0).ok()?)?;
    }
    Some(ms)
}

/// Like [`in_ms`], for commands that accept only positive TTLs.
pub(super) fn positive_ms(number: i64, unit: Unit, start: Start, now: UnixMs) -> Option<u64> {
    let ms = in_ms(number, unit, start, now)?;
    u64::try_from(ms).ok().filter(|ms| *ms > 0)
}

/// TTL, PTTL, EXPIRETIME, PEXPIRETIME key
pub(in crate::resp) async fn ttl(cx: &mut Context<'_>, args: Args<'_>, shown: Shown) -> Done {
    let described = cx.describe(args.at(1)).await?;
    cx.reply.integer(described.map_or(-2, |described| remaining(&described, shown)));
    Ok(())
}

fn remaining(described: &Described, shown: Shown) -> i64 {
    let (Life::For(life), Some(expires_at_ms)) = (described.life, described.expires_at_ms) else { return -1 };
    // Redis rounds to the nearest second.
    let shown = match shown {
        Shown::SecondsLeft => millis(life).saturating_add(500) / 1000,
        Shown::MillisLeft => millis(life),
        Shown::UnixSeconds => expires_at_ms.saturating_add(500) / 1000,
        Shown::UnixMillis => expires_at_ms,
    };
    i64::try_from(shown).unwrap_or(i64::MAX)
}

/// EXPIRE, PEXPIRE, EXPIREAT, PEXPIREAT key time [NX|XX|GT|LT]
pub(in crate::resp) async fn expire(cx: &mut Context<'_>, args: Args<'_>, unit: Unit, start: Start) -> Done {
    let only = conditions(args.from(3))?;
    let number = integer(args.at(2))?;
    let now = cx.edge.cache.core().clock().unix();
    let ms = in_ms(number, unit, start, now).ok_or(Refusal::InvalidExpire(cx.row.name))?;
    let expiry = match start {
        // A time in the past removes the key immediately, independent of the clock of the store.
        Start::Now if ms <= 0 => NewExpiry::In(Duration::ZERO),
        Start::Now => NewExpiry::At(UnixMs(now.0.saturating_add(ms.unsigned_abs()))),
        Start::Epoch => NewExpiry::At(UnixMs(u64::try_from(ms).unwrap_or(0))),
    };
    let applied = apply(cx, args.at(1), expiry, only).await?;
    cx.reply.integer(i64::from(applied));
    Ok(())
}

fn conditions(args: Args<'_>) -> Result<ExpireOnly, Refusal> {
    let mut only = ExpireOnly::ALWAYS;
    for word in args.iter() {
        let flag = match word {
            word if is(word, "nx") => &mut only.if_none,
            word if is(word, "xx") => &mut only.if_some,
            word if is(word, "gt") => &mut only.if_longer,
            word if is(word, "lt") => &mut only.if_shorter,
            _ => return Err(Refusal::text(format!("ERR Unsupported option {}", readable(word, 128)))),
        };
        *flag = true;
    }
    if only.if_none && (only.if_some || only.if_longer || only.if_shorter) {
        return Err(Refusal::text("ERR NX and XX, GT or LT options at the same time are not compatible"));
    }
    if only.if_longer && only.if_shorter {
        return Err(Refusal::text("ERR GT and LT options at the same time are not compatible"));
    }
    Ok(only)
}

/// PERSIST key
pub(in crate::resp) async fn persist(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let applied = apply(cx, args.at(1), NewExpiry::Never, ExpireOnly::ALWAYS).await?;
    cx.reply.integer(i64::from(applied));
    Ok(())
}

async fn apply(cx: &mut Context<'_>, key: &[u8], expiry: NewExpiry, only: ExpireOnly) -> Result<bool, Refusal> {
    let applied = cx.write(key, Op::Expire { expiry, only, want_value: false }).await?;
    let Applied::Expired { applied, .. } = applied else { return Err(mismatched()) };
    Ok(applied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_overflow_where_redis_says() {
        let now = UnixMs(1_000);
        assert_eq!(in_ms(i64::MAX, Unit::Seconds, Start::Epoch, now), None);
        assert_eq!(in_ms(i64::MAX, Unit::Millis, Start::Epoch, now), Some(i64::MAX));
        assert_eq!(in_ms(i64::MAX, Unit::Millis, Start::Now, now), None);
        assert_eq!(in_ms(i64::MIN, Unit::Seconds, Start::Now, now), None);
        assert_eq!(positive_ms(0, Unit::Seconds, Start::Now, now), None);
        assert_eq!(positive_ms(-1, Unit::Millis, Start::Epoch, now), None);
        assert_eq!(positive_ms(2, Unit::Seconds, Start::Now, now), Some(2_000));
    }
}
