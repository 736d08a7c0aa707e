//! A request from its head to its log line (`docs/spec/plugins/_phases.md` §1).
//!
//! [`head`] is what the protocols hand over; [`intake`] checks it and makes the context, with the [`host`] that it names;
//! [`pipeline`] matches and runs the plugins, with [`nginx_status`] where no route is found; [`proxy`] finds a node and gets an answer
//! from it, over HTTP/2 with [`grpc`]; [`upgrade`] says which other protocols it is asked for, and [`trailers`] what may stand
//! behind the request's body; [`respond`] filters the answer's head; [`body`] carries its body; [`live`] ends the request, once,
//! however it ends.
//!
//! Invariants:
//! - A request sees one snapshot from its first byte to its log line.
//! - Every answer, whatever its source, passes `header_filter`, the body filters and `log`.
//! - What is sent upstream is laid out from the context alone; nothing that the client sent gets there by another way.

mod body;
mod forward;
mod grpc;
mod head;
mod host;
mod intake;
mod live;
mod nginx_status;
mod pipeline;
mod proxy;
mod respond;
mod trailers;
mod upgrade;

pub(crate) use body::OutBody;
pub(crate) use head::{Head, Role, Seen};
pub(crate) use host::LastHost;
pub(crate) use live::{Held, Rooms};
pub(crate) use proxy::address as node_address;
pub(crate) use trailers::Trailers;

use crate::h1::Received;
use crate::interim::Interims;
use crate::upload::Upload;
use crate::worker::{Client, Tunnel};
use http::{HeaderMap, StatusCode};
use milecastle_plugin_api::Reply;
use std::rc::Rc;

/// An answer to the client.
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Further fields, over HTTP/1 and HTTP/2 only.
    pub(crate) received: Option<Received>,
    pub(crate) body: OutBody,
    /// What the connection becomes behind a 101. It holds the request, which ends with it.
    pub(crate) tunnel: Option<Box<Tunnel>>,
}

impl Response {
    /// For a protocol that lays fields out itself.
    pub(crate) fn into_http(self) -> http::Response<OutBody> {
        debug_assert!(self.received.is_none(), "fields would be lost");
        let mut response = http::Response::new(self.body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// An answer made here instead of one by the upstream. Boxed: it is large, and rare.
type Refusal = Box<Reply>;

fn refuse(status: StatusCode) -> Refusal {
    Box::new(Reply::status(status))
}

/// A request whose head has been taken in, and whether it goes further.
pub(crate) type Taken = (Held, Result<(), Refusal>);

/// Takes a request in. Apart from [`serve`], so that a head goes to its place at once and not first into a future.
pub(crate) fn take(client: Rc<Client>, head: Head, body: Option<Upload>, interims: Interims) -> Taken {
    intake::take(client, head, body, interims)
}

/// Takes in a request whose head could not be read. It goes no further than to this answer and its log line.
pub(crate) fn take_unread(client: Rc<Client>, status: StatusCode) -> Taken {
    let (mut live, refused) = intake::take(client, Head::unread(status), None, Interims::Nowhere);
    live.cx.request.set_unread();
    (live, refused)
}

/// Handles one request.
pub(crate) async fn serve((mut live, accepted): Taken) -> Response {
    let outcome = match accepted {
        Ok(()) => pipeline::run(&mut live).await,
        Err(refusal) => Err(refusal),
    };
    live.cx.way.end_all();
    match outcome {
        Ok(answer) => respond::with_answer(live, answer),
        Err(reply) => respond::with_reply(live, *reply),
    }
}

/// What is answered after a panic.
pub(crate) fn bare_error() -> Response {
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    Response { status, headers: HeaderMap::new(), received: None, body: OutBody::empty(), tunnel: None }
}
