//! Refusals and failures of `/api`.

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use milecastle_store::{GroupError, StoreError};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::task::JoinError;

use super::json;
use crate::RETRY_AFTER;
use crate::admin::body::BodyError;
use crate::admin::engine::BUSY;
use crate::efforts::Unfinished;
use crate::once::{Fault, Unfit};
use crate::waits::Full;

/// What a handler gives.
pub(super) type Outcome = Result<Response, Failure>;

/// A refusal as clients read it.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Refusal")]
pub(crate) struct Refusal {
    /// For programs; stays the same whatever the message says.
    code: &'static str,
    /// For people: what is wrong and what to do.
    message: String,
    /// Under which the log says more, of a failure of ours.
    request_id: String,
    /// What else belongs to the code: `path` is the member of the body that is at fault.
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// What is said while there is nothing to serve yet, or nothing any more.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Starting")]
pub(crate) struct Starting {
    /// `starting` or `outdated`.
    pub(crate) code: &'static str,
    /// What to do.
    pub(crate) error_msg: &'static str,
}

/// Why a request was not done: `{"code":…,"message":…,"request_id":…}` and what else belongs to the code.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    /// For programs; stays the same whatever the message says.
    code: &'static str,
    /// For people: what is wrong and what to do.
    message: String,
    /// More members of the answer.
    more: Map<String, Value>,
    /// Seconds after which to try again.
    retry_after: Option<u16>,
}

impl Failure {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), more: Map::new(), retry_after: None }
    }

    /// 400.
    pub(super) fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// 404.
    pub(super) fn missing(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// 409.
    pub(super) fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    /// 503: others wrote to the group between each look at it and the publish.
    pub(super) fn busy() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", BUSY).after(RETRY_AFTER)
    }

    /// Whether it says nothing of who asked: something that is needed does not answer, or is broken.
    pub(super) fn is_ours(&self) -> bool {
        self.status.is_server_error()
    }

    /// Names the member of the body that is at fault.
    pub(super) fn at(self, path: &str) -> Self {
        self.with("path", path)
    }

    /// Says after how many seconds to try again.
    pub(super) fn after(self, seconds: u64) -> Self {
        Self { retry_after: Some(u16::try_from(seconds).unwrap_or(u16::MAX)), ..self }
    }

    /// Adds a member to the answer.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::UnknownGroup(_) => Self::missing("no_such_group", error.to_string()),
            // It was there when it was given, and is deleted meanwhile.
            StoreError::UnknownRole(_) => Self::bad("invalid_body", error.to_string()).at("/roles"),
            StoreError::Outdated { .. } => Self::new(StatusCode::SERVICE_UNAVAILABLE, "outdated", error.to_string()),
            // Where the key was taken meanwhile: the first answer is given in its place ([`super::repeat`]).
            StoreError::Repeated => Self::conflict("answer_unknown", error.to_string()),
            StoreError::Unavailable(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "database_unavailable", error.to_string()).after(RETRY_AFTER)
            }
            StoreError::Busy(_) => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", error.to_string()).after(RETRY_AFTER)
            }
            StoreError::Database(_) | StoreError::Corrupt(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string())
            }
        }
    }
}

impl From<Unfinished> for Failure {
    fn from(unfinished: Unfinished) -> Self {
        let message = unfinished.to_string();
        match unfinished {
            Unfinished::NoPlace { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message).after(RETRY_AFTER)
            }
            Unfinished::NoTime { .. } | Unfinished::Left => Self::bad("takes_too_long", message),
        }
    }
}

impl From<BodyError> for Failure {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge { max, .. } => {
                let message =
                    format!("the body of the request is larger than the {max} bytes that are taken (admin.max_body)");
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
            }
            BodyError::Slow => {
                let message = "the body of the request did not arrive in time (admin.body_timeout)";
                Self::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", message)
            }
            BodyError::Broken(error) => Self::bad("invalid_body", error.to_string()),
        }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Store(error) => error.into(),
            Fault::Unfit(Unfit::Form) => Self::bad("invalid_key", fault.to_string()),
            Fault::Unfit(Unfit::Reused) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "key_reused", fault.to_string()),
            Fault::Unfit(Unfit::Unanswered) | Fault::Crowded(_) => {
                Self::conflict("answer_unknown", fault.to_string()).after(RETRY_AFTER)
            }
        }
    }
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", format!("the work was not done: {error}"))
    }
}

impl From<Full> for Failure {
    fn from(full: Full) -> Self {
        let failure = Self::new(full.status(), full.code(), full.to_string());
        failure.after(RETRY_AFTER)
    }
}

impl From<GroupError> for Failure {
    fn from(error: GroupError) -> Self {
        match error {
            GroupError::Exists(_) => Self::conflict("group_exists", error.to_string()),
            GroupError::NotEmpty { objects, nodes, .. } => {
                let message = format!("{error}: move them first, or delete all of it with `?force=true`");
                Self::conflict("group_not_empty", message).with("objects", objects).with("nodes", nodes)
            }
            GroupError::Store(error) => error.into(),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self { status, code, message, more, retry_after } = self;
        let request_id = request_id();
        if status.is_server_error() {
            tracing::warn!(request_id, code, message, "a request to /api failed");
        }
        let mut response = json(status, &Refusal { code, message, request_id, more });
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// 64 random bits in hexadecimal; without randomness an id that says so.
fn request_id() -> String {
    let mut bytes = [0; 8];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => format!("{:016x}", u64::from_be_bytes(bytes)),
        Err(_) => "none".to_owned(),
    }
}
