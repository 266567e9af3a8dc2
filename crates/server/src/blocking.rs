//! Work that blocks: sorting, merging, reading segments. It runs off the runtime's threads and is awaited where it
//! starts, so that nothing outlives its caller.

/// Runs `work` on a thread that may block.
pub(crate) async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // A panic goes on where it was waited for. The only other reason is a runtime that is being shut down.
        Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
        Err(_) => std::future::pending().await,
    }
}
