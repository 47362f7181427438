//! INCRBY and INCRBYFLOAT.

use bytes::Bytes;
use terrace::{
    error::{CacheError, Kind},
    l2::{Applied, Op},
};

use super::{Subject, message};

fn by(delta: i64) -> Op {
    Op::Increment { delta, life_if_new: None }
}

fn by_float(delta: &str) -> Op {
    Op::IncrementFloat { delta: Bytes::copy_from_slice(delta.as_bytes()), life_if_new: None }
}

pub(super) async fn increment(s: &Subject) {
    assert_eq!(s.apply("n", by(5)).await, Ok(Applied::Number(5)));
    assert_eq!(s.apply("n", by(-7)).await, Ok(Applied::Number(-2)));
    assert_eq!(s.get("n").await, Some(Bytes::from("-2")));
    s.set("n", "9223372036854775806").await;
    assert_eq!(s.apply("n", by(1)).await, Ok(Applied::Number(i64::MAX)));
    s.set("n", "-9223372036854775807").await;
    assert_eq!(s.apply("n", by(-1)).await, Ok(Applied::Number(i64::MIN)));
}

pub(super) async fn increment_refuses(s: &Subject) {
    for text in ["", " 1", "1 ", "+1", "01", "-0", "1.0", "1e3", "0x1", "abc", "9223372036854775808"] {
        s.set("n", text).await;
        let refused = s.apply("n", by(1)).await;
        assert_eq!(refused.as_ref().map_err(CacheError::kind), Err(Kind::NotANumber), "{text:?}");
        assert_eq!(message(&refused), "value is not an integer or out of range");
        assert_eq!(s.get("n").await, Some(Bytes::from(text)), "a refused increment changes nothing");
    }
    for (text, delta) in [("9223372036854775807", 1), ("-9223372036854775808", -1), ("1", i64::MAX)] {
        s.set("n", text).await;
        let refused = s.apply("n", by(delta)).await;
        assert_eq!(refused.as_ref().map_err(CacheError::kind), Err(Kind::Overflow), "{text} + {delta}");
        assert_eq!(message(&refused), "increment or decrement would overflow");
        assert_eq!(s.get("n").await, Some(Bytes::from(text)));
    }
}

pub(super) async fn increment_float(s: &Subject) {
    for (head, delta, sum) in [
        (None, "1.5", "1.5"),
        (Some("10.50"), "0.1", "10.6"),
        (Some("10.6"), "-5", "5.6"),
        (Some("5.0e3"), "2.0e2", "5200"),
        (Some("0.1"), "0.2", "0.3"),
        (Some("3"), "-3", "0"),
        (Some("1"), "1e-20", "1"),
        (Some("0"), "-1e-18", "0"),
        (Some("9007199254740993"), "0.25", "9007199254740993.25"),
        (Some("1e17"), "0.125", "100000000000000000.125"),
        (Some("123456789.123456789"), "0.000000001", "123456789.12345678999554366"),
        (Some("-1.25"), ".25", "-1"),
        (Some("1e20"), "1", "100000000000000000000"),
    ] {
        match head {
            Some(head) => s.set("n", head).await,
            None => assert_eq!(s.get("n").await, None),
        }
        let done = s.apply("n", by_float(delta)).await;
        assert_eq!(done, Ok(Applied::Decimal(Bytes::from(sum))), "{head:?} + {delta}");
        assert_eq!(s.get("n").await, Some(Bytes::from(sum)));
    }
}

pub(super) async fn increment_float_refuses(s: &Subject) {
    for text in ["", " 1", "1 ", "abc", "1.2.3", "1e", "nan", "-", "1,5"] {
        s.set("n", text).await;
        let refused = s.apply("n", by_float("1")).await;
        assert_eq!(refused.as_ref().map_err(CacheError::kind), Err(Kind::NotANumber), "{text:?}");
        assert_eq!(message(&refused), "value is not a valid float");
        assert_eq!(s.get("n").await, Some(Bytes::from(text)));
    }
    s.set("n", "1.18e4932").await;
    let refused = s.apply("n", by_float("1.18e4932")).await;
    assert_eq!(refused.as_ref().map_err(CacheError::kind), Err(Kind::Overflow));
    assert_eq!(message(&refused), "increment would produce NaN or Infinity");
}
