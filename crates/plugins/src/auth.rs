//! What authentication plugins have in common (`docs/spec/plugins/_auth-common.md` §4).

use http::StatusCode;
use http::header::{HeaderValue, WWW_AUTHENTICATE};
use milecastle_plugin_api::{Flow, Reply, RequestCx};

/// Pattern of the attribute `realm`: printable ASCII without `"` and `\`.
pub(crate) const REALM: &str = r"^[ !#-\[\]-~]+$";

/// Answers to requests that could not be authenticated.
pub(crate) struct Challenge {
    header: HeaderValue,
    anonymous: Option<Box<str>>,
}

impl Challenge {
    /// `scheme` is the word before `realm`; `realm` fits [`REALM`].
    pub(crate) fn new(scheme: &str, realm: &str, anonymous_consumer: Option<String>) -> Self {
        let header = HeaderValue::from_str(&format!("{scheme} realm=\"{realm}\"")).unwrap_or_else(|_| {
            // An unresolved secret reference passes the pattern unseen.
            HeaderValue::from_static("realm=\"\"")
        });
        Self { header, anonymous: anonymous_consumer.map(String::into_boxed_str) }
    }

    /// Whether a failed request goes on as the anonymous consumer.
    pub(crate) fn has_anonymous(&self) -> bool {
        self.anonymous.is_some()
    }

    /// Lets a request whose authentication has failed go on as the anonymous consumer, or ends it: with 401 and `message`,
    /// or the common text if that consumer does not exist.
    pub(crate) fn failed(&self, cx: &mut RequestCx, message: &str) -> Flow<'static> {
        let Some(name) = &self.anonymous else {
            return Flow::Reply(self.unauthorized(message));
        };
        let Some(consumer) = cx.view.consumer(name) else {
            return Flow::Reply(self.unauthorized("Invalid user authorization"));
        };
        cx.attach_anonymous(consumer);
        Flow::Next
    }

    fn unauthorized(&self, message: &str) -> Reply {
        Reply::message(StatusCode::UNAUTHORIZED, message).header(WWW_AUTHENTICATE, self.header.clone())
    }
}
