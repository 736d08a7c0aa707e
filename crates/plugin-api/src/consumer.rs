//! Consumers as the request path sees them.

use crate::built::Built;
use http::HeaderValue;
use std::sync::Arc;

/// A consumer, compiled.
#[derive(Debug)]
pub struct Consumer {
    /// Its username.
    pub name: Arc<str>,
    /// Its username as a header value, for `X-Consumer-Username`.
    pub name_header: HeaderValue,
    /// Its group's id, if it names one.
    pub group_id: Option<Arc<str>>,
    /// Whether the named group exists; if not, its requests are answered with 503.
    pub group_found: bool,
    /// Label `custom_id`, for `X-Consumer-Custom-ID`.
    pub custom_id: Option<HeaderValue>,
    /// Labels of the consumer.
    pub labels: serde_json::Map<String, serde_json::Value>,
    /// What the consumer and its group lay over the route's plugins; authentication plugins are not among them.
    pub overlay: Arc<[Built]>,
}

/// What a credential's key leads to.
#[derive(Debug, Clone)]
pub struct CredentialMatch {
    /// The consumer that owns the credential.
    pub consumer: Arc<Consumer>,
    /// Id of the credential object; `None` if the key stands on the consumer itself.
    pub credential_id: Option<HeaderValue>,
    /// The credential's configuration of the plugin that looked it up.
    pub config: Arc<serde_json::Value>,
}
