//! What a hook wants next.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use std::future::Future;
use std::pin::Pin;

/// A future that stays on its worker, so it need not be `Send`.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What a hook of the request phases wants next. `Wait` is the only arm that allocates.
pub enum Flow<'a> {
    /// Go on with the next hook.
    Next,
    /// End the request with this answer; later hooks of the request phases are skipped.
    Reply(Reply),
    /// Wait for the future, then go on or end the request.
    Wait(LocalFuture<'a, Result<(), Reply>>),
}

/// The body of an answer made by the gateway (`docs/spec/plugins/_phases.md` §2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyBody {
    /// A stock page for codes from 300 on, nothing below.
    Stock,
    /// Sent as it is, `text/plain; charset=utf-8` unless a content type is set.
    Text(Bytes),
    /// Compact JSON text; one line feed is added when it is sent.
    Json(Bytes),
}

/// An answer made by the gateway itself.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status code of the answer.
    pub status: StatusCode,
    /// Its body.
    pub body: ReplyBody,
    /// Headers on top of the ordinary ones; boxed, for most answers have none and every hook's verdict carries the room.
    headers: Option<Box<HeaderMap>>,
    /// The plugin that answered, for logs and metrics; `None` for the gateway.
    pub plugin: Option<&'static str>,
}

impl Reply {
    /// An answer with the stock page of its status.
    pub fn status(status: StatusCode) -> Self {
        Self { status, body: ReplyBody::Stock, headers: None, plugin: None }
    }

    /// An answer whose body is a JSON value, compact, followed by one line feed.
    pub fn json(status: StatusCode, value: &serde_json::Value) -> Self {
        Self { body: ReplyBody::Json(value.to_string().into()), ..Self::status(status) }
    }

    /// An answer whose body is exactly this text.
    pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Self {
        Self { body: ReplyBody::Text(text.into()), ..Self::status(status) }
    }

    /// `{"message":"…"}`, the form of most rejections.
    pub fn message(status: StatusCode, message: &str) -> Self {
        Self::json(status, &serde_json::json!({ "message": message }))
    }

    /// `{"error_msg":"…"}`, the form of the gateway's own refusals.
    pub fn error_msg(status: StatusCode, message: &str) -> Self {
        Self::json(status, &serde_json::json!({ "error_msg": message }))
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.get_or_insert_default().append(name, value);
        self
    }

    /// The bytes to send and, where it is fixed by the body's form, their content type.
    ///
    /// A stock page is a small HTML page naming the status; its exact bytes are no part of compatibility.
    pub fn into_parts(self) -> (StatusCode, HeaderMap, Bytes) {
        const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
        const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
        let (body, kind) = match self.body {
            ReplyBody::Stock if self.status.as_u16() < 300 => (Bytes::new(), None),
            ReplyBody::Stock => (stock_page(self.status), Some(HTML)),
            ReplyBody::Text(text) => (text, Some(TEXT)),
            ReplyBody::Json(json) => {
                let mut line = Vec::with_capacity(json.len() + 1);
                line.extend_from_slice(&json);
                line.push(b'\n');
                (line.into(), Some(TEXT))
            }
        };
        let mut headers = self.headers.map(|headers| *headers).unwrap_or_default();
        if let Some(kind) = kind
            && !headers.contains_key(CONTENT_TYPE)
        {
            headers.insert(CONTENT_TYPE, kind);
        }
        (self.status, headers, body)
    }
}

fn stock_page(status: StatusCode) -> Bytes {
    let (code, reason) = (status.as_u16(), status.canonical_reason().unwrap_or("Unknown"));
    format!(
        "<html>\n<head><title>{code} {reason}</title></head>\n<body>\n<center><h1>{code} {reason}</h1></center>\n\
         <hr><center>Milecastle</center>\n</body>\n</html>\n"
    )
    .into()
}
