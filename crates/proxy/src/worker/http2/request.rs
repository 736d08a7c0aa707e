//! One request over HTTP/2: its task, from the moment at which it was taken in until its answer is laid out.

use super::sending::Closed;
use super::streams::Streams;
use crate::h2::Code;
use crate::h2::encode::{AnswerHead, Length};
use crate::h2_client::reason;
use crate::request::{Response, Taken};
use crate::worker::Worker;
use crate::worker::serve::answer;
use bytes::Bytes;
use http::StatusCode;
use http_body::Body as _;
use std::any::Any;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;

/// A stream that is open. It is reset when this is dropped, unless the answer has been laid out whole.
pub(super) struct Open {
    pub(super) streams: Rc<Streams>,
    pub(super) key: usize,
    pub(super) id: u32,
}

/// Why an answer does not come to its end.
enum Cut {
    Closed,
    /// There will be no more of it, though there should be, for this reason.
    Broken(Code),
}

impl From<Closed> for Cut {
    fn from(Closed: Closed) -> Self {
        Self::Closed
    }
}

/// Serves a request. `to_head`: the answer has no body, whatever it says.
pub(super) async fn serve(open: Open, worker: Rc<Worker>, taken: Result<Taken, Box<dyn Any + Send>>, to_head: bool) {
    let response = answer(worker.clone(), taken).await;
    if let Err(Cut::Broken(code)) = open.send(&worker, response, to_head).await {
        open.reset(code);
    }
}

impl Open {
    async fn send(&self, worker: &Worker, response: Response, to_head: bool) -> Result<(), Cut> {
        let Response { status, headers, received, mut body, .. } = response;
        let length = match body.size_hint().exact() {
            _ if status == StatusCode::NO_CONTENT => Length::Unsaid,
            _ if to_head || status == StatusCode::NOT_MODIFIED => Length::AsSaid,
            Some(length) => Length::Bytes(length),
            None => Length::Unsaid,
        };
        let has_body = !(to_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED));
        let mut ended = !has_body || body.is_end_stream();
        poll_fn(|cx| self.streams.poll_room(self.id, cx)).await;
        let head = AnswerHead { status, fields: &headers, received: received.as_ref(), length };
        self.streams.put_answer(self.key, self.id, &head, ended)?;
        if let Some(received) = received {
            worker.scratch.give_back(received);
        }
        worker.spare.put_map(headers);
        let mut left = if let Length::Bytes(length) = length { Some(length) } else { None };
        while !ended {
            let part = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.transpose();
            // An upstream that speaks HTTP/2 has said why.
            let part = part.map_err(|error| Cut::Broken(reason(&error).map_or(Code::INTERNAL_ERROR, Code)))?;
            ended = part.is_none() || body.is_end_stream();
            let mut data = match part.map(http_body::Frame::into_data) {
                Some(Ok(data)) => data,
                Some(Err(part)) => {
                    if left.is_some_and(|left| left > 0) {
                        return Err(Cut::Broken(Code::INTERNAL_ERROR));
                    }
                    let trailers = part.into_trailers().unwrap_or_default();
                    poll_fn(|cx| self.streams.poll_room(self.id, cx)).await;
                    return Ok(self.streams.put_trailers(self.key, self.id, &trailers)?);
                }
                None => Bytes::new(),
            };
            if let Some(left) = &mut left {
                // It is as long as it was said to be.
                *left = left
                    .checked_sub(data.len() as u64)
                    .filter(|left| !ended || *left == 0)
                    .ok_or(Cut::Broken(Code::INTERNAL_ERROR))?;
            }
            if data.is_empty() && !ended {
                continue;
            }
            poll_fn(|cx| self.streams.poll_data(self.key, self.id, &mut data, ended, cx)).await?;
        }
        Ok(())
    }

    fn reset(&self, code: Code) {
        let state = &mut *self.streams.state.borrow_mut();
        if let Some(stream) = state.get(self.key, self.id) {
            stream.task = None;
            state.reset(self.key, code);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.reset(if std::thread::panicking() { Code::INTERNAL_ERROR } else { Code::CANCEL });
    }
}
