//! The header `authorization` of gRPC calls and HTTP requests.

use base64::{Engine, prelude::BASE64_STANDARD};

/// Credentials of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Name of the user; `None` for a token alone.
    pub user: Option<Vec<u8>>,
    /// The token.
    pub secret: Vec<u8>,
}

impl Credentials {
    /// Parses `Bearer TOKEN` (RFC 6750) or `Basic BASE64(USER:TOKEN)` (RFC 7617). Returns `None` for another form.
    #[must_use]
    pub fn parse(header: &[u8]) -> Option<Self> {
        let space = header.iter().position(|byte| *byte == b' ')?;
        let (scheme, rest) = (&header[..space], header[space..].trim_ascii());
        if rest.is_empty() {
            return None;
        }
        if scheme.eq_ignore_ascii_case(b"bearer") {
            return Some(Self { user: None, secret: rest.to_vec() });
        }
        if !scheme.eq_ignore_ascii_case(b"basic") {
            return None;
        }
        let pair = BASE64_STANDARD.decode(rest).ok()?;
        let colon = pair.iter().position(|byte| *byte == b':')?;
        let user = Some(pair[..colon].to_vec()).filter(|user| !user.is_empty());
        Some(Self { user, secret: pair[colon + 1..].to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_and_basic_headers() {
        let of = |user: Option<&str>, secret: &str| {
            Some(Credentials { user: user.map(|user| user.as_bytes().to_vec()), secret: secret.as_bytes().to_vec() })
        };
        for (header, parsed) in [
            (&b"Bearer abc"[..], of(None, "abc")),
            (b"bearer  abc ", of(None, "abc")),
            (b"Basic dXNlcjpwYTpzcw==", of(Some("user"), "pa:ss")),
            (b"Basic OnRva2Vu", of(None, "token")),
            (b"Basic dXNlcg==", None),
            (b"Basic !", None),
            (b"Digest abc", None),
            (b"Bearer", None),
            (b"Bearer ", None),
            (b"", None),
        ] {
            assert_eq!(Credentials::parse(header), parsed, "{}", header.escape_ascii());
        }
    }
}
