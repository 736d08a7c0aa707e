//! Reading request bodies (`docs/spec/admin-api.md` §2 step 9).

use crate::admin::reply::Reply;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;
use milecastle_settings::{Admin, Size};
use serde_json::{Value, json};
use std::time::Duration;

/// What the body of a request is held to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimits {
    max: usize,
    timeout: Duration,
    /// How much of a body that is too large is read and thrown away, so that a client that sends first and reads then sees the
    /// answer. Beyond it the connection is cut.
    lingering: usize,
}

/// Why there is no body to work with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// It is larger than it may be.
    #[error("request size {size} is greater than the maximum size {max} allowed")]
    TooLarge {
        /// What was read of it.
        size: usize,
        /// What it may have.
        max: usize,
    },
    /// The client took too long.
    #[error("it did not arrive in time")]
    Slow,
    /// The client left, or broke the protocol.
    #[error(transparent)]
    Broken(#[from] axum::Error),
}

impl BodyLimits {
    /// Those of bodies of at most `max`.
    pub(crate) fn new(settings: &Admin, max: Size) -> Self {
        let Admin { body_timeout, lingering_bytes, .. } = settings;
        Self { max: max.as_len(), timeout: body_timeout.get(), lingering: lingering_bytes.as_len() }
    }

    /// The whole body.
    pub(crate) async fn read(&self, body: Body) -> Result<Bytes, BodyError> {
        tokio::time::timeout(self.timeout, self.collect(body)).await.unwrap_or(Err(BodyError::Slow))
    }

    async fn collect(&self, mut body: Body) -> Result<Bytes, BodyError> {
        let (mut kept, max) = (BytesMut::new(), self.max);
        let mut size = 0_usize;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            size += data.len();
            if size <= max {
                kept.extend_from_slice(&data);
            } else if size > self.lingering {
                break;
            }
        }
        if size > max { Err(BodyError::TooLarge { size, max }) } else { Ok(kept.freeze()) }
    }

    /// The body as JSON whatever its media type; `None` if it is empty.
    pub(crate) async fn read_json(&self, body: Body) -> Result<Option<Value>, Box<Reply>> {
        let text = self.read(body).await?;
        if text.is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            let raw = String::from_utf8_lossy(&text);
            let answer = json!({ "error_msg": format!("invalid request body: {error}"), "req_body": raw });
            Box::new(Reply::json(StatusCode::BAD_REQUEST, &answer))
        })
    }
}

impl From<BodyError> for Box<Reply> {
    fn from(error: BodyError) -> Self {
        Self::new(Reply::bad(format!("invalid request body: {error}")))
    }
}
