//! Buffer pool per thread, so that idle connections hold no buffers.

use std::cell::RefCell;

/// Initial buffer size in bytes; equals the read size of Redis.
pub(super) const BUFFER_BYTES: usize = 16 * 1024;
/// Maximum size of a buffer that is reused. Larger buffers are freed.
const KEPT_MAX_BYTES: usize = 64 * 1024;
/// Maximum number of buffers that a thread keeps for reuse.
const KEPT_MAX: usize = 64;

thread_local! {
    static KEPT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Returns an empty buffer from the pool, or a new one.
#[inline]
pub(super) fn lend() -> Vec<u8> {
    KEPT.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES))
}

/// Returns an empty buffer to the pool.
#[inline]
pub(super) fn give_back(buffer: Vec<u8>) {
    if buffer.capacity() > KEPT_MAX_BYTES {
        return;
    }
    KEPT.with_borrow_mut(|kept| {
        if kept.len() < KEPT_MAX {
            kept.push(buffer);
        }
    });
}
