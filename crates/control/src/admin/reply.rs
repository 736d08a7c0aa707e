//! Answers of the Admin API, before the headers that every answer carries.

use crate::dpm::Receipt;
use bytes::Bytes;
use http::StatusCode;
use milecastle_model::Fault;
use milecastle_store::Answered;
use serde::Serialize;
use serde_json::json;
use std::time::Duration;

/// Media type of all answers but default pages and `OPTIONS`, whatever the body is (`docs/spec/admin-api.md` §1).
const JSON: &str = "application/json";

/// One answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    pub(crate) content_type: &'static str,
    /// A resource handler made it: it says which version of the API answers.
    pub(crate) by_handler: bool,
    /// Every fault found, where faults are what the answer is about. The body shows the first.
    pub(crate) faults: Vec<Fault>,
    /// Of a write that was done: the revision at which it stands.
    pub(crate) revision: Option<u64>,
    /// How far that revision has come, if the client asked to wait for it.
    pub(crate) receipt: Option<Receipt>,
    /// Seconds after which to try again.
    pub(crate) retry_after: Option<u64>,
    /// Of answers about a declared configuration, once there is one.
    pub(crate) stamp: Option<Stamp>,
    /// It was given before, to the same write.
    pub(crate) replayed: bool,
    /// Of what was read from memory while the database said nothing: how old it may be.
    pub(crate) stale: Option<Duration>,
}

/// What a declared configuration is known by.
#[derive(Debug)]
pub(crate) struct Stamp {
    /// Unix time in seconds.
    pub(crate) at: u64,
    /// As the client sent it, in a header.
    pub(crate) digest: String,
}

impl Reply {
    fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let (faults, revision, receipt, retry_after, stamp) = (Vec::new(), None, None, None, None);
        let (by_handler, replayed, stale) = (false, false, None);
        Self { status, body, content_type, by_handler, faults, revision, receipt, retry_after, stamp, replayed, stale }
    }

    /// A JSON body, ended by a newline.
    pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Self {
        let mut text = serde_json::to_vec(body).expect("values made here have string keys and no failing serializers");
        text.push(b'\n');
        Self::new(status, JSON, text)
    }

    /// `{"error_msg": …}`.
    pub(crate) fn error(status: StatusCode, message: impl AsRef<str>) -> Self {
        Self::json(status, &json!({ "error_msg": message.as_ref() }))
    }

    /// 400 with `error_msg`.
    pub(crate) fn bad(message: impl AsRef<str>) -> Self {
        Self::error(StatusCode::BAD_REQUEST, message)
    }

    /// 400 that shows the first of several faults.
    pub(crate) fn faults(faults: Vec<Fault>) -> Self {
        let first = faults.first().map(Fault::to_string).unwrap_or_default();
        Self { faults, ..Self::bad(first) }
    }

    /// 404 of an object that is not there.
    pub(crate) fn key_not_found() -> Self {
        Self::json(StatusCode::NOT_FOUND, &json!({ "message": "Key not found" }))
    }

    /// A body that is no JSON although the media type says so: the few that the specification names.
    pub(crate) fn plain(status: StatusCode, text: &'static str) -> Self {
        Self::new(status, JSON, text)
    }

    /// A body of YAML.
    pub(crate) fn yaml(text: String) -> Self {
        Self::new(StatusCode::OK, "application/yaml", text)
    }

    /// No body, for `HEAD`, `PUT /configs` and `POST /schema/validate`.
    pub(crate) fn empty(status: StatusCode) -> Self {
        Self::new(status, JSON, Bytes::new())
    }

    /// What was answered to a write at first.
    pub(crate) fn again(answered: Answered) -> Self {
        let Answered { status, body, .. } = answered;
        let status = StatusCode::from_u16(status).expect("a status was kept");
        Self { replayed: true, ..Self::new(status, JSON, body) }
    }

    /// What is kept of it for the same write.
    pub(crate) fn answered(&self) -> Answered {
        Answered { status: self.status.as_u16(), etag: None, body: self.body.clone() }
    }

    /// No body, as text: `OPTIONS`.
    pub(crate) fn empty_text() -> Self {
        Self::new(StatusCode::OK, "text/plain", Bytes::new())
    }

    /// The default page of a status.
    pub(crate) fn page(status: StatusCode) -> Self {
        let title = format!("{} {}", status.as_str(), status.canonical_reason().unwrap_or_default());
        let html = format!("<html>\n<head><title>{title}</title></head>\n<body>\n<h1>{title}</h1>\n</body>\n</html>\n");
        Self::new(status, "text/html", html)
    }
}
