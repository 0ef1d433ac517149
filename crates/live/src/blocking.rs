//! Work that takes long enough to hold up the streams of others, and so is done elsewhere.

use crate::error::ApiError;

/// How large work is that a thread of connections does itself, in bytes of text or tokens: about a millisecond.
const MOST_AT_ONCE: usize = 8 << 10;

/// Threads for larger work, which is for processors.
pub(crate) const MOST_THREADS: usize = 4;

/// Does work of a size, in a thread of its own if that is large.
pub(crate) async fn work<T: Send + 'static>(
    size: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    if size <= MOST_AT_ONCE {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::internal("the server is stopping"))
}
