//! One exchange, up to the head of the answer.

use super::body::AnswerBody;
use super::pool::Taken;
use super::sender::Sender;
use crate::deadline::Deadline;
use crate::failure::Failure;
use crate::h1::{Limits, Malformed, Outgoing, Patience, PumpError, Waiting};
use crate::interim::Interims;
use h2::{Reason, RecvStream};
use http::response::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Instant;

/// What holds for one exchange.
#[derive(Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) patience: Patience,
    /// How large the answer's head may be.
    pub(crate) limits: Limits,
    /// The client's body can be read by another task than the one that reads the answer.
    pub(crate) upload_apart: bool,
}

/// An answer whose head has come.
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Box<AnswerBody>,
}

/// Sends a request in a stream of its own and waits for the head of the answer. A body that is still being sent then goes on
/// beside the answer's; after a failure it stays in `outgoing`.
pub(crate) async fn exchange(
    taken: Taken,
    request: Request<()>,
    outgoing: &mut Outgoing,
    interims: &Interims,
    terms: Terms,
) -> Result<Answered, Failure> {
    let Terms { patience, limits, upload_apart } = terms;
    let bodiless = matches!(outgoing, Outgoing::None);
    // What fails here has not left.
    let (mut response, stream) = taken.conn.open(request, bodiless).map_err(Failure::Unprocessed)?;
    let mut sender = Sender::new(stream, outgoing, bodiless);
    let mut deadline = Deadline::new(Instant::now() + patience.read);
    let mut sending = !bodiless;
    let mut waiting = None;
    let mut told = Told::default();
    let head = poll_fn(|cx| {
        let mut state = Waiting::ForAnswer;
        let mut moved = false;
        if sending {
            let before = (sender.sent(), outgoing.taken());
            match sender.poll(outgoing, cx) {
                Poll::Ready(Ok(())) => sending = false,
                Poll::Ready(Err(PumpError::Client(error))) => return Poll::Ready(Err(error.into())),
                // The upstream takes no more of it; the answer says why.
                Poll::Ready(Err(PumpError::Upstream(_))) => sending = false,
                Poll::Pending if sender.is_blocked() => {
                    state = Waiting::ToSend;
                    moved = sender.sent() != before.0;
                }
                // Not whenever this is polled: the limit itself does so when it is reached.
                Poll::Pending => {
                    state = Waiting::ForClient;
                    moved = outgoing.taken() != before.1;
                }
            }
        }
        while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
            let (Parts { status, headers, .. }, ()) = interim.into_parts();
            // HTTP/2 switches to nothing (RFC 9113 §8.6), and a client that is told so takes the answer for another protocol.
            if status == StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Err(Failure::Malformed(Malformed::Upgrade)));
            }
            told.add(&headers, limits).map_err(Failure::Malformed)?;
            interims.put(status, headers);
        }
        if let Poll::Ready(answered) = Pin::new(&mut response).poll(cx) {
            return Poll::Ready(answered.map_err(failure));
        }
        if moved || waiting != Some(state) {
            waiting = Some(state);
            deadline.set(Instant::now() + state.limit(&patience));
        }
        deadline.poll(cx).map(|()| Err(state.too_long(outgoing)))
    })
    .await
    .inspect_err(|_| sender.reset(Reason::CANCEL))?;
    let (parts, recv): (_, RecvStream) = Response::into_parts(head);
    if parts.headers.len() > limits.head_fields {
        sender.reset(Reason::CANCEL);
        return Err(Failure::Malformed(Malformed::TooManyFields));
    }
    let upload = sending.then(|| (sender, std::mem::replace(outgoing, Outgoing::None)));
    let body = AnswerBody::new(taken, recv, &parts.headers, upload, upload_apart, deadline, patience);
    Ok(Answered { status: parts.status, headers: parts.headers, body: Box::new(body) })
}

/// The interim answers of one exchange. All together may be as large as one head: an upstream that sends them without end must
/// not keep a request for ever.
#[derive(Default)]
struct Told {
    fields: usize,
    bytes: usize,
}

impl Told {
    fn add(&mut self, headers: &HeaderMap, limits: Limits) -> Result<(), Malformed> {
        self.fields += 1 + headers.len();
        self.bytes += headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>();
        if self.fields > limits.head_fields {
            return Err(Malformed::TooManyFields);
        }
        if self.bytes > limits.head_bytes { Err(Malformed::Interim) } else { Ok(()) }
    }
}

/// What an error of the stream says of the request.
fn failure(error: h2::Error) -> Failure {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    // A stream ends with the upstream's GOAWAY only if that names an earlier one as the last that counts.
    if error.is_remote() && (error.is_go_away() || refused) {
        return Failure::Unprocessed(error);
    }
    if error.is_remote() {
        return Failure::Reset(error);
    }
    if error.is_io() {
        return error.into_io().map_or(Failure::Closed, read_failure);
    }
    Failure::Protocol(error)
}

fn read_failure(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe { Failure::Closed } else { Failure::Read(error) }
}
