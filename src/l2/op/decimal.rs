//! Decimal addition for INCRBYFLOAT, identical to the last digit to Redis on x86-64.
//!
//! Redis adds in the 80-bit extended format (`long double`: 64 bits of mantissa) and prints 17 digits after the decimal
//! point, without trailing zeros (`ld2string`, `util.c` of Redis 7.0). This module does the same with big integers, so
//! that the embedded store, `none` and Redis return equal results: every number is rounded to 64 bits of mantissa, half
//! to even, once when it is parsed and once after the addition.

use bytes::Bytes;
use num_bigint::{BigInt, BigUint, Sign};

use crate::error::{CacheError, Kind, Result};

/// Bits of the mantissa of the extended format.
const MANTISSA_BITS: i64 = 64;
/// Exponent of the last bit of the smallest number above zero.
const EXPONENT_MIN: i64 = -16_445;
/// Exponent of the last bit of the largest finite numbers.
const EXPONENT_MAX: i64 = 16_320;
/// Digits after the decimal point that Redis prints.
const FRACTION_DIGITS: u32 = 17;
/// Maximum size of the text of a floating-point number (MAX_LONG_DOUBLE_CHARS of Redis).
const TEXT_MAX_BYTES: usize = 5 * 1024 - 1;
/// Decimal exponents beyond this are zero or infinite, whatever digits a text of [`TEXT_MAX_BYTES`] has.
const DECIMAL_EXPONENT_MAX: i64 = 20_000;

/// Returns the sum of two decimal numbers.
///
/// # Errors
/// `NotANumber` if `head` or `delta` is not a number, `Overflow` if the sum is not finite.
pub fn add(head: &[u8], delta: &[u8]) -> Result<Bytes> {
    let sum = sum(&parse(head)?, &parse(delta)?).ok_or_else(overflow)?;
    Ok(Bytes::from(sum.print()))
}

/// Checks that [`add`] accepts `text` as a number.
///
/// # Errors
/// `NotANumber` if `text` is not a number, `Overflow` if it is infinite.
pub fn check(text: &[u8]) -> Result<()> {
    parse(text).map(|_| ())
}

fn not_a_number() -> CacheError {
    CacheError::new(Kind::NotANumber, "value is not a valid float")
}

fn overflow() -> CacheError {
    CacheError::new(Kind::Overflow, "increment would produce NaN or Infinity")
}

/// A finite number of the extended format: `mantissa * 2^exponent`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Extended {
    negative: bool,
    mantissa: u64,
    exponent: i64,
}

/// A number in decimal notation: `digits * 10^exponent`.
struct Written {
    negative: bool,
    digits: BigUint,
    exponent: i64,
}

fn parse(text: &[u8]) -> Result<Extended> {
    let written = read(text)?;
    let zero = written.digits == BigUint::ZERO;
    let number = round_decimal(&written).ok_or_else(not_a_number)?;
    // Like ERANGE of strtold: a nonzero number that rounds to zero is invalid.
    if number.mantissa == 0 && !zero { Err(not_a_number()) } else { Ok(number) }
}

/// Parses `[+-]digits[.digits][e[+-]digits]`, with at least one digit before the exponent.
fn read(text: &[u8]) -> Result<Written> {
    if text.is_empty() || text.len() > TEXT_MAX_BYTES {
        return Err(not_a_number());
    }
    let (negative, rest) = sign(text);
    if rest.eq_ignore_ascii_case(b"inf") || rest.eq_ignore_ascii_case(b"infinity") {
        return Err(overflow());
    }
    let (whole, rest) = digits(rest);
    let (fraction, rest) = rest.strip_prefix(b".").map_or((&b""[..], rest), digits);
    if whole.is_empty() && fraction.is_empty() {
        return Err(not_a_number());
    }
    let exponent = match rest.split_first() {
        None => 0,
        Some((b'e' | b'E', power)) => read_exponent(power)?,
        Some(_) => return Err(not_a_number()),
    };
    let digits = BigUint::parse_bytes(&[whole, fraction].concat(), 10).ok_or_else(not_a_number)?;
    Ok(Written { negative, digits, exponent: exponent - fraction.len() as i64 })
}

fn sign(text: &[u8]) -> (bool, &[u8]) {
    match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        Some(_) | None => (false, text),
    }
}

/// Returns the leading digits and the remaining text.
fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

fn read_exponent(text: &[u8]) -> Result<i64> {
    let (negative, text) = sign(text);
    let (power, rest) = digits(text);
    if power.is_empty() || !rest.is_empty() {
        return Err(not_a_number());
    }
    let cap = 10 * DECIMAL_EXPONENT_MAX;
    let power = power.iter().fold(0, |sum: i64, digit| (sum * 10 + i64::from(digit - b'0')).min(cap));
    Ok(if negative { -power } else { power })
}

/// Returns the nearest number of the extended format; `None` if it is out of range.
fn round_decimal(written: &Written) -> Option<Extended> {
    if written.digits == BigUint::ZERO {
        return Some(Extended { negative: written.negative, mantissa: 0, exponent: 0 });
    }
    if written.exponent > DECIMAL_EXPONENT_MAX {
        return None;
    }
    if written.exponent < -DECIMAL_EXPONENT_MAX {
        return Some(Extended { negative: written.negative, mantissa: 0, exponent: 0 });
    }
    let power = BigUint::from(10u32).pow(u32::try_from(written.exponent.unsigned_abs()).ok()?);
    if written.exponent >= 0 {
        round(written.negative, written.digits.clone() * power, BigUint::from(1u32))
    } else {
        round(written.negative, written.digits.clone(), power)
    }
}

/// Returns the number of the extended format nearest to `numerator / denominator`, half to even; `None` if it is
/// infinite.
fn round(negative: bool, numerator: BigUint, denominator: BigUint) -> Option<Extended> {
    let bits = |number: &BigUint| number.bits() as i64;
    let mut exponent = (bits(&numerator) - bits(&denominator) - MANTISSA_BITS).max(EXPONENT_MIN);
    let (mut quotient, mut rest, mut divisor) = divide(&numerator, &denominator, exponent);
    if bits(&quotient) > MANTISSA_BITS {
        exponent += 1;
        (quotient, rest, divisor) = divide(&numerator, &denominator, exponent);
    }
    if rounds_up(&quotient, &rest, &divisor) {
        quotient += 1u32;
    }
    if bits(&quotient) > MANTISSA_BITS {
        quotient >>= 1;
        exponent += 1;
    }
    let mantissa = u64::try_from(quotient).ok()?;
    (exponent <= EXPONENT_MAX).then_some(Extended { negative, mantissa, exponent })
}

/// Returns quotient, remainder and divisor of `numerator / (denominator * 2^exponent)`.
fn divide(numerator: &BigUint, denominator: &BigUint, exponent: i64) -> (BigUint, BigUint, BigUint) {
    let (above, below) = if exponent < 0 {
        (numerator << -exponent, denominator.clone())
    } else {
        (numerator.clone(), denominator << exponent)
    };
    let quotient = &above / &below;
    let rest = above - &quotient * &below;
    (quotient, rest, below)
}

fn rounds_up(quotient: &BigUint, rest: &BigUint, divisor: &BigUint) -> bool {
    match (rest << 1u32).cmp(divisor) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => quotient.bit(0),
        std::cmp::Ordering::Greater => true,
    }
}

/// Returns the rounded sum; `None` if it is infinite.
fn sum(a: &Extended, b: &Extended) -> Option<Extended> {
    let last_bit = a.exponent.min(b.exponent);
    let exact = a.scaled(last_bit) + b.scaled(last_bit);
    if exact.sign() == Sign::NoSign {
        return Some(Extended { negative: a.negative && b.negative, mantissa: 0, exponent: 0 });
    }
    let (sign, magnitude) = exact.into_parts();
    let one = BigUint::from(1u32);
    let (numerator, denominator) =
        if last_bit < 0 { (magnitude, one << -last_bit) } else { (magnitude << last_bit, one) };
    round(sign == Sign::Minus, numerator, denominator)
}

impl Extended {
    /// Returns the number in units of `2^last_bit`, which must not exceed its exponent.
    fn scaled(&self, last_bit: i64) -> BigInt {
        let sign = if self.negative { Sign::Minus } else { Sign::Plus };
        BigInt::from_biguint(sign, BigUint::from(self.mantissa) << (self.exponent - last_bit))
    }

    /// Prints at most [`FRACTION_DIGITS`] digits after the decimal point, without trailing zeros or an exponent, and
    /// never `-0`.
    fn print(&self) -> Vec<u8> {
        let units = BigUint::from(self.mantissa) * BigUint::from(10u32).pow(FRACTION_DIGITS);
        let (mut quotient, rest, divisor) = divide(&units, &BigUint::from(1u32), -self.exponent);
        if rounds_up(&quotient, &rest, &divisor) {
            quotient += 1u32;
        }
        let mut text = quotient.to_string().into_bytes();
        let fraction = FRACTION_DIGITS as usize;
        if text.len() <= fraction {
            let zeros = fraction + 1 - text.len();
            text.splice(0..0, std::iter::repeat_n(b'0', zeros));
        }
        text.insert(text.len() - fraction, b'.');
        let end = text.iter().rposition(|byte| *byte != b'0').map_or(0, |at| at + 1);
        text.truncate(end);
        if text.last() == Some(&b'.') {
            text.pop();
        }
        if self.negative && text != b"0" {
            text.insert(0, b'-');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(head: &str, delta: &str) -> String {
        String::from_utf8(add(head.as_bytes(), delta.as_bytes()).expect("a sum").to_vec()).expect("ASCII")
    }

    fn kind(head: &str, delta: &str) -> Kind {
        add(head.as_bytes(), delta.as_bytes()).expect_err("no sum").kind()
    }

    /// Sums of redis-server 7.0 on x86-64.
    #[test]
    fn adds_as_redis_does() {
        for (head, delta, sum) in [
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("0", "0", "0"),
            ("-0", "-0", "0"),
            ("3", "-3", "0"),
            ("0.1", "0.2", "0.3"),
            (".5", "1.", "1.5"),
            ("+1", "1e0", "2"),
            ("1e20", "0.5", "100000000000000000000"),
            ("1", "-1e-20", "1"),
            ("0", "-1e-20", "0"),
            ("0", "1e-17", "0.00000000000000001"),
            ("1234567890123456789", "1", "1234567890123456790"),
            ("0", "3.0000000000000000001", "3"),
            ("123456789.123456789", "0.000000001", "123456789.12345678999554366"),
        ] {
            assert_eq!(added(head, delta), sum, "{head} + {delta}");
        }
    }

    #[test]
    fn refuses_what_is_no_number() {
        for text in
            ["", " 1", "1 ", "abc", ".", "+", "1e", "1e+", "1.2.3", "--1", "nan", "1e5000", "1e-5000", "e5", "1,5"]
        {
            assert_eq!(kind(text, "1"), Kind::NotANumber, "{text:?}");
            assert_eq!(kind("1", text), Kind::NotANumber, "{text:?}");
        }
        let long = "1".repeat(TEXT_MAX_BYTES + 1);
        assert_eq!(kind(&long, "1"), Kind::NotANumber);
    }

    #[test]
    fn refuses_infinity() {
        assert_eq!(kind("1", "inf"), Kind::Overflow);
        assert_eq!(kind("-Infinity", "1"), Kind::Overflow);
        assert_eq!(kind("1.18e4932", "1.18e4932"), Kind::Overflow);
        assert!(check(b"1e4932").is_ok());
    }

    #[test]
    fn huge_exponents_cost_nothing() {
        assert_eq!(kind("1e99999999999999999999", "1"), Kind::NotANumber);
        assert_eq!(kind("1e-99999999999999999999", "1"), Kind::NotANumber);
        assert_eq!(added("0e99999999999999999999", "1"), "1");
    }
}
