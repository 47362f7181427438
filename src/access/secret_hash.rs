//! Tokens and their hashes.
//!
//! Tokens have 256 random bits, so that one SHA-256 is enough: nobody can guess a token, and a slow hash would delay each
//! connection (etcd issues 3223 and 9615 show the cost of bcrypt per request).

use std::fmt;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::{
    digest::{SHA256, SHA256_OUTPUT_LEN, digest},
    rand::{SecureRandom, SystemRandom},
};
use subtle::ConstantTimeEq;

/// Number of random bytes of a token.
const TOKEN_BYTES: usize = 32;
/// Error of the operating system.
const NO_RANDOM: &str = "the operating system returned no random numbers";
/// Beginning of a hash in the users file.
const PREFIX: &str = "sha256:";

/// SHA-256 of a secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SecretHash([u8; SHA256_OUTPUT_LEN]);

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl SecretHash {
    /// Returns the hash of a secret.
    #[must_use]
    pub fn of(secret: &[u8]) -> Self {
        let mut hash = [0; SHA256_OUTPUT_LEN];
        hash.copy_from_slice(digest(&SHA256, secret).as_ref());
        Self(hash)
    }

    /// Parses a hash of the users file.
    ///
    /// # Errors
    /// The accepted form. The text is not repeated: it may be a secret.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("a secret is not {PREFIX} and 64 hexadecimal digits; terrace token new prints one");
        let digits =
            text.strip_prefix(PREFIX).filter(|digits| digits.len() == 2 * SHA256_OUTPUT_LEN).ok_or_else(wrong)?;
        let mut hash = [0; SHA256_OUTPUT_LEN];
        for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16).ok_or_else(wrong);
            *byte = (digit(0)? * 16 + digit(1)?) as u8;
        }
        Ok(Self(hash))
    }

    /// Returns the hash in the form of the users file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let digits: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{PREFIX}{digits}")
    }
}

/// Creates a random token of 32 bytes, as 43 characters that need no quotes in a shell or URL.
///
/// # Errors
/// The operating system has no random numbers.
pub fn new_token() -> Result<String, String> {
    let mut bytes = [0; TOKEN_BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NO_RANDOM.to_owned())?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

/// Returns random hexadecimal digits.
///
/// # Errors
/// The operating system has no random numbers.
pub fn random_digits(count: usize) -> Result<String, String> {
    let mut bytes = vec![0; count.div_ceil(2)];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NO_RANDOM.to_owned())?;
    let mut digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.truncate(count);
    Ok(digits)
}

/// Compares two texts in a time that depends on their lengths only.
#[must_use]
pub fn is_same(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_have_the_form_of_sha256sum() {
        let hash = SecretHash::of(b"abc");
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((hash.to_text(), SecretHash::parse(text)), (text.to_owned(), Ok(hash)));
        for wrong in ["", "hunter2", "sha256:12", "sha1:ba78", &text.replace('b', "g"), &text.replace("ba", "b\u{e9}")]
        {
            let error = SecretHash::parse(wrong).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn tokens_differ() {
        let (left, right) = (new_token().unwrap(), new_token().unwrap());
        assert_eq!((left.len(), left != right), (43, true));
        assert!(is_same(left.as_bytes(), left.as_bytes()) && !is_same(left.as_bytes(), right.as_bytes()));
    }
}
