//! Durations: texts that are checked when the code is compiled, or expressions.

use std::time::Duration;

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::{Error, Expr, ExprLit, Lit, Result, spanned::Spanned};

/// Range of a duration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub(crate) least: Duration,
    pub(crate) most: Duration,
}

/// Any duration, in milliseconds.
pub(crate) const ANY: Range = Range { least: Duration::ZERO, most: Duration::MAX };
/// Lifetimes of values: at least 1 ms.
pub(crate) const LIFETIME: Range = Range { least: Duration::from_millis(1), most: Duration::MAX };
/// Range of `wait_ms` of the server.
pub(crate) const WAIT: Range = Range { least: Duration::ZERO, most: Duration::from_secs(300) };
/// Range of `lease_ms` of the server.
pub(crate) const LEASE: Range = Range { least: Duration::from_millis(100), most: Duration::from_secs(300) };

/// Returns code of type `Duration` for the value of an option.
///
/// # Errors
/// A text is not a duration, or is out of range; another literal.
pub(crate) fn code(value: &Expr, range: Range) -> Result<TokenStream> {
    let Expr::Lit(ExprLit { lit, .. }) = value else {
        return Ok(quote_spanned! { value.span() => #value });
    };
    let Lit::Str(text) = lit else {
        let got = lit.to_token_stream();
        return Err(Error::new(lit.span(), format!("{got} is not a duration; expected {EXPECTED}")));
    };
    let duration = parse(&text.value(), range).map_err(|why| Error::new(text.span(), why))?;
    let ms = u64::try_from(duration.as_millis()).map_err(|_| Error::new(text.span(), "the duration is too long"))?;
    Ok(quote! { ::core::time::Duration::from_millis(#ms) })
}

const EXPECTED: &str =
    "a duration with a unit, such as \"100ms\", \"30s\" or \"5m\", or an expression of type Duration";

/// Parses a duration as the server's configuration does.
fn parse(text: &str, range: Range) -> std::result::Result<Duration, String> {
    if text.split(|letter: char| !letter.is_ascii_alphabetic()).any(|unit| unit == "M") {
        return Err(format!("{text:?} has the unit M, which is a month; write m for minutes, or a number of days"));
    }
    let duration = humantime::parse_duration(text.trim())
        .map_err(|_| format!("{text:?} is not a duration; expected {EXPECTED}"))?;
    if duration.subsec_nanos() % 1_000_000 != 0 {
        return Err(format!("{text:?} is not a multiple of 1ms"));
    }
    let show = humantime::format_duration;
    if duration < range.least {
        return Err(format!("{text:?} is too short; expected at least {}", show(range.least)));
    }
    if duration > range.most {
        return Err(format!("{text:?} is too long; expected at most {}", show(range.most)));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_syntax_of_the_server() {
        for (text, ms) in [("5m", 300_000), ("100ms", 100), ("1h30m", 5_400_000), ("1h 30m", 5_400_000), ("0s", 0)] {
            assert_eq!(parse(text, ANY), Ok(Duration::from_millis(ms)), "{text}");
        }
        for (text, has) in [
            ("5", "is not a duration"),
            ("five minutes", "is not a duration"),
            ("5M", "is a month"),
            ("10us", "not a multiple of 1ms"),
            ("0s", "at least 1ms"),
        ] {
            let error = parse(text, LIFETIME).expect_err("a fault");
            assert!(error.contains(has), "{text}: {error}");
        }
        assert!(parse("10m", LEASE).expect_err("a fault").contains("at most 5m"));
    }
}
