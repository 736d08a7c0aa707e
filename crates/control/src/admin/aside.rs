//! Work that grows with the configuration, done where no other request waits for it.

use crate::admin::reply::Reply;
use http::StatusCode;

/// Does it on a thread for such work.
///
/// # Errors
/// The answer that the work comes to instead; 500 if it was not done.
pub(crate) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Box<Reply>> + Send + 'static,
) -> Result<T, Box<Reply>> {
    let broken = |error: tokio::task::JoinError| {
        tracing::error!(%error, "work on many objects was not done");
        Box::new(Reply::error(StatusCode::INTERNAL_SERVER_ERROR, "an error of our own, see the log"))
    };
    tokio::task::spawn_blocking(work).await.map_err(broken)?
}
