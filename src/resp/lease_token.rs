//! Tokens and nonces of load leases in the text form of the RESP port: base64url without padding, and hexadecimal digits.
//!
//! The bytes of a token are those of gRPC, so a lease that was granted on one port can be filled on the other.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;

/// Size of a nonce in bytes.
const NONCE_BYTES: usize = 16;

/// Returns the text of a token.
pub(super) fn encode(token: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(token)
}

/// Returns the bytes of a token. A text that is not base64url is an empty token: like any other token that no node has
/// issued, it permits no fill.
pub(super) fn decode(text: &[u8]) -> Bytes {
    BASE64_URL_SAFE_NO_PAD.decode(text).map_or_else(|_| Bytes::new(), Bytes::from)
}

/// Parses a nonce of 32 hexadecimal digits.
pub(super) fn nonce(text: &[u8]) -> Option<[u8; NONCE_BYTES]> {
    let mut nonce = [0; NONCE_BYTES];
    if text.len() != 2 * NONCE_BYTES {
        return None;
    }
    for (byte, pair) in nonce.iter_mut().zip(text.chunks(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
    }
    Some(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_their_text_form() {
        for token in [&b""[..], b"\0", b"\xff\xfe\xfd", &[7; 512]] {
            let text = encode(token);
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')), "{text}");
            assert_eq!(decode(text.as_bytes()), token);
        }
        for text in [&b"a"[..], b"a=", b"+/", b"\xff", b"AAAA AAAA"] {
            assert_eq!(decode(text), b""[..], "{}", text.escape_ascii());
        }
    }

    #[test]
    fn a_nonce_has_32_hexadecimal_digits() {
        assert_eq!(nonce(b"00112233445566778899aAbBcCdDeEfF").unwrap()[..3], [0, 0x11, 0x22]);
        assert_eq!(nonce(b"ffffffffffffffffffffffffffffffff"), Some([0xff; NONCE_BYTES]));
        for text in [&b""[..], b"00", b"0011223344556677 899aabbccddeeff", b"00112233445566778899aabbccddeeff0"] {
            assert_eq!(nonce(text), None, "{}", text.escape_ascii());
        }
    }
}
