//! Decimal addition for INCRBYFLOAT.

use bytes::Bytes;

use crate::error::Result;

/// The sum of two decimal numbers.
///
/// # Errors
/// `NotANumber` when `head` is not a finite number, `Overflow` when the sum is not.
pub fn add(_head: &[u8], _delta: &[u8]) -> Result<Bytes> {
    unimplemented!()
}
