//! The last moments of a connection that the gateway ends.
//!
//! A socket that is closed while bytes lie unread in it, or before the last have come, resets the connection, and a reset makes
//! the client's system throw away what the client has not yet read: the very answer that says why (RFC 9112 §9.6). So only
//! sending is ended at once, and what still comes is read and dropped for a while.

use super::client::Client;
use super::wire::Wire;
use std::future::poll_fn;
use std::io;

/// Drops what the client still sends until it closes, within `limits.lingering_bytes` and `timeouts.lingering_*`.
pub(super) async fn linger(client: &Client, wire: &Wire) -> io::Result<()> {
    let limits = &client.worker.node.config.client;
    poll_fn(|cx| wire.poll_finish(cx)).await?;
    let mut left = limits.lingering_bytes;
    let rest = async {
        loop {
            let silence = client.worker.last_call().unwrap_or(limits.lingering_timeout).min(limits.lingering_timeout);
            let Ok(dropped) = tokio::time::timeout(silence, poll_fn(|cx| wire.poll_drop(cx))).await else {
                return Ok(true);
            };
            match (dropped?, left) {
                (0, _) => return Ok(true),
                (some, most) if some as u64 > most => return Ok(false),
                (some, _) => left -= some as u64,
            }
        }
    };
    let ended: io::Result<bool> = tokio::time::timeout(limits.lingering_time, rest).await.unwrap_or(Ok(false));
    if !ended? {
        client.worker.counters.lingering_cut.up();
    }
    Ok(())
}
