//! HTTP/2 with clients, over the codec of `h2`.
//!
//! [`connection`] reads and sends; [`receive`], [`heads`] and [`uploads`] are what clients send; [`request`] is the task of one
//! request, [`body`] what it reads, [`interims`] what its client is told in advance, [`sending`] how it gets its share of what may be sent.
//! [`streams`] is what all of them share.
//!
//! Invariants:
//! - A client is held to what it was told: windows, streams, sizes. What costs it nothing it may do only so often.
//! - A body that nobody reads holds up no other one of its connection, and has its window of memory.
//! - Of an answer no more is held than the piece at hand, and what has been laid out of it.
//! - A connection that rests holds no buffer: what stays is the table of fields that its client fills, and the numbers of the last
//!   streams that were closed (2 KiB at most).
//! - All that has become ready in one turn of the worker leaves together.
//! - A request that was cancelled ends at once, with all its work.

mod body;
mod connection;
mod heads;
mod interims;
mod receive;
mod request;
mod sending;
mod streams;
#[cfg(test)]
mod tests;
mod trial;
mod uploads;

pub(crate) use body::Body;
pub(crate) use interims::Interims;
pub(crate) use streams::Streams;
pub use trial::{Read, read};

use super::activity::{Nature, Phase};
use super::client::Client;
use super::linger::linger;
use super::serve::note_end;
use super::watching::Watch;
use super::wire::{ClientIo, Wire};
use connection::Connection;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

/// Serves the connection to its end.
pub(super) async fn serve(client: Rc<Client>, wire: Rc<Wire>, mut watch: Watch) {
    let (worker, activity) = (&client.worker, &client.activity);
    let (limits, counters) = (&worker.node.config.client, &worker.counters);
    activity.nature.set(Nature::Http2);
    let new = || Streams::new(limits.into(), counters.clone(), worker.scratch.clone(), Instant::now());
    let streams = activity.streams.get_or_init(new);
    let io = ClientIo::new(wire.clone(), activity.clone());
    let mut connection = Connection::new(&client, streams.clone(), io);
    let ended = poll_fn(|cx| {
        watch.leave_waker(cx);
        if let Poll::Ready(ended) = connection.poll(&mut watch, cx) {
            return Poll::Ready(ended);
        }
        match watch.over() {
            None => Poll::Pending,
            // The client is told, and has as long again to take leave.
            Some(Phase::Idle) if !connection.is_leaving() => {
                connection.take_leave();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(phase) => {
                if phase == Phase::Blocked {
                    counters.stuck_answers.up();
                }
                if phase == Phase::Head && streams.is_within_head() && !activity.evicted.get() {
                    counters.slow_heads.up();
                }
                Poll::Ready(Ok(()))
            }
        }
    })
    .await;
    let leaving = connection.is_leaving();
    drop(connection);
    let after = match ended {
        // What the client had under way when it was told to leave must not cost it the last answers.
        Ok(()) if leaving => Box::pin(linger(&client, &wire)).await,
        other => other,
    };
    note_end(&client, after);
}
