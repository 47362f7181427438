//! Splits the DATA frames of a response into gRPC messages. A message within one frame is a slice of the frame.

use bytes::{Buf, Bytes, BytesMut};

use super::batch::PREFIX_BYTES;
use crate::error::{Error, ErrorKind, Result};

/// Received bytes that are not split yet.
#[derive(Debug)]
pub(crate) struct Messages {
    frame: Bytes,
    /// Received bytes from the beginning of a message that spans frames.
    joined: BytesMut,
    /// Maximum length of a message.
    len_max: usize,
}

impl Messages {
    pub(crate) fn new(len_max: usize) -> Self {
        Self { frame: Bytes::new(), joined: BytesMut::new(), len_max }
    }

    /// Appends a frame.
    pub(crate) fn push(&mut self, frame: Bytes) {
        if self.frame.is_empty() && self.joined.is_empty() {
            self.frame = frame;
            return;
        }
        self.joined.extend_from_slice(&std::mem::take(&mut self.frame));
        self.joined.extend_from_slice(&frame);
    }

    /// Removes and returns the first message, if all of it was received.
    ///
    /// # Errors
    /// A message is compressed or too long.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>> {
        let received = if self.joined.is_empty() { &self.frame[..] } else { &self.joined[..] };
        let Some((prefix, rest)) = received.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let [flag, len @ ..] = *prefix;
        let len = u32::from_be_bytes(len) as usize;
        if flag != 0 {
            return Err(Error::new(
                ErrorKind::Internal,
                "the server sent a compressed message, which was not requested",
            ));
        }
        if len > self.len_max {
            let text = format!("the server sent a message of {len} bytes; the client accepts {}", self.len_max);
            return Err(Error::new(ErrorKind::ResourceExhausted, text));
        }
        if rest.len() < len {
            return Ok(None);
        }
        let total = PREFIX_BYTES + len;
        let mut message =
            if self.joined.is_empty() { self.frame.split_to(total) } else { self.joined.split_to(total).freeze() };
        message.advance(PREFIX_BYTES);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        [&[0], &u32::try_from(message.len()).expect("short").to_be_bytes()[..], message].concat()
    }

    #[test]
    fn messages_are_split_at_every_frame_boundary() {
        let sent: [&[u8]; 4] = [b"one", b"", b"three", &[7; 300]];
        let bytes: Vec<u8> = sent.iter().flat_map(|message| framed(message)).collect();
        for size in [1, 2, 3, 5, 7, 64, bytes.len()] {
            let mut messages = Messages::new(300);
            let mut received = Vec::new();
            for frame in bytes.chunks(size) {
                messages.push(Bytes::copy_from_slice(frame));
                while let Some(message) = messages.next().expect("valid messages") {
                    received.push(message);
                }
            }
            assert_eq!(received, sent, "frames of {size} bytes");
        }
    }

    #[test]
    fn long_and_compressed_messages_are_refused() {
        for (bytes, kind) in
            [(framed(&[0; 301]), ErrorKind::ResourceExhausted), (vec![1, 0, 0, 0, 0], ErrorKind::Internal)]
        {
            let mut messages = Messages::new(300);
            messages.push(bytes.into());
            assert_eq!(messages.next().expect_err("refused").kind(), kind);
        }
    }
}
