//! INCR and its variants.

use bytes::Bytes;

use super::{integer, mismatched};
use crate::{
    cache::{Applied, Op},
    resp::{
        command::Context,
        frame::Args,
        reply::{Done, Refusal},
    },
};

/// INCR key, DECR key
pub(in crate::resp) async fn incr(cx: &mut Context<'_>, args: Args<'_>, delta: i64) -> Done {
    add(cx, args.at(1), delta).await
}

/// INCRBY key delta
pub(in crate::resp) async fn incrby(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let delta = integer(args.at(2))?;
    add(cx, args.at(1), delta).await
}

/// DECRBY key delta
pub(in crate::resp) async fn decrby(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    let delta = integer(args.at(2))?.checked_neg().ok_or(Refusal::text("ERR decrement would overflow"))?;
    add(cx, args.at(1), delta).await
}

async fn add(cx: &mut Context<'_>, key: &[u8], delta: i64) -> Done {
    let applied = cx.write(key, Op::Increment { delta, life_if_new: None }).await?;
    let Applied::Number(number) = applied else { return Err(mismatched()) };
    cx.reply.integer(number);
    Ok(())
}

/// INCRBYFLOAT key delta
pub(in crate::resp) async fn incrbyfloat(cx: &mut Context<'_>, args: Args<'_>) -> Done {
    check_decimal(args.at(2))?;
    let op = Op::IncrementFloat { delta: Bytes::copy_from_slice(args.at(2)), life_if_new: None };
    let Applied::Decimal(number) = cx.write(args.at(1), op).await? else { return Err(mismatched()) };
    cx.reply.bulk(&number);
    Ok(())
}

/// Checks a finite decimal number: sign, digits, fraction, exponent. Unlike Redis, Terrace rejects hexadecimal numbers.
fn check_decimal(text: &[u8]) -> Done {
    let unsigned = text.strip_prefix(b"+").or_else(|| text.strip_prefix(b"-")).unwrap_or(text);
    if [&b"inf"[..], b"infinity"].iter().any(|name| unsigned.eq_ignore_ascii_case(name)) {
        return Err(Refusal::NotFinite);
    }
    // The grammar of Rust for finite numbers equals the grammar of C without hexadecimal numbers.
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok());
    match number {
        Some(number) if !number.is_nan() => Ok(()),
        Some(_) | None => Err(Refusal::NotAFloat),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_redis_accepts_them() {
        for text in ["1", "-1.5", "+2", ".5", "5.", "1e5", "1E-3", "3.0e3"] {
            assert_eq!(check_decimal(text.as_bytes()), Ok(()), "{text}");
        }
        for text in ["", " 1", "1 ", "abc", "nan", "1e", "--1", "."] {
            assert_eq!(check_decimal(text.as_bytes()), Err(Refusal::NotAFloat), "{text}");
        }
        assert_eq!(check_decimal(b"-inf"), Err(Refusal::NotFinite));
    }
}
