//! The request, as received and as plugins change it.

use crate::query;
use bytes::Bytes;
use http::header::Entry;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use std::borrow::Cow;
use std::rc::Rc;

/// What is known of the request's body.
#[derive(Debug, Default)]
pub enum Body {
    /// The request has none.
    #[default]
    None,
    /// It follows, and nobody has read it.
    Streaming {
        /// Its length in bytes, if the client said it.
        length: Option<u64>,
    },
    /// Its beginning has been read, because a plugin or a variable needs it.
    Read {
        /// What has been read: the whole body unless `partial`.
        bytes: Bytes,
        /// There is more than the cap allowed to keep.
        partial: bool,
    },
}

/// The request. `method`, `headers` and the target are what will be sent upstream; [`Request::received`] stays.
pub struct Request {
    /// Method.
    pub method: Method,
    /// Headers, hop-by-hop ones included.
    pub headers: HeaderMap,
    /// Protocol version on the client's side.
    pub version: Version,
    /// The body.
    pub body: Body,
    /// Bytes of request line and headers as received; an estimate under HTTP/2.
    pub head_bytes: u64,
    /// Bytes of the body read so far.
    pub body_bytes: u64,
    received: Uri,
    received_method: Method,
    /// Normalised path, where it differs from the received one.
    normal_path: Option<Box<str>>,
    /// Host without port, lower-case.
    host: Rc<str>,
    rewritten: Option<Rewritten>,
    unread: bool,
}

struct Rewritten {
    path: Box<str>,
    target: Box<str>,
}

impl Request {
    /// A request as received. `normal_path` is the path of `docs/spec/routing.md` §7, `None` if it is the received one;
    /// `host` is the host without port in lower case.
    #[inline]
    pub fn new(
        method: Method,
        received: Uri,
        version: Version,
        headers: HeaderMap,
        normal_path: Option<Box<str>>,
        host: Rc<str>,
    ) -> Self {
        Self {
            received_method: method.clone(),
            method,
            headers,
            version,
            body: Body::None,
            head_bytes: 0,
            body_bytes: 0,
            received,
            normal_path,
            host,
            rewritten: None,
            unread: false,
        }
    }

    /// The head could not be read: nothing that stands in a head has a value.
    pub fn set_unread(&mut self) {
        self.unread = true;
    }

    /// Whether the head could not be read.
    pub fn is_unread(&self) -> bool {
        self.unread
    }

    /// The request target as received.
    pub fn received(&self) -> &Uri {
        &self.received
    }

    /// The method as received.
    pub fn received_method(&self) -> &Method {
        &self.received_method
    }

    /// Host without port, lower-case; empty if the client named none.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The normalised path, before any rewriting.
    pub fn normal_path(&self) -> &str {
        self.normal_path.as_deref().unwrap_or_else(|| self.received.path())
    }

    /// The path as later plugins see it: decoded and normalised, rewritten if a plugin did so.
    pub fn path(&self) -> &str {
        self.rewritten.as_ref().map_or_else(|| self.normal_path(), |new| &new.path)
    }

    /// The query as received, without `?`; `None` if there is no `?`. Plugins that remove an argument change it.
    pub fn query(&self) -> Option<&str> {
        self.received.query()
    }

    /// Puts another query in place of the received one, for plugins that remove or add arguments.
    ///
    /// A query that is no valid one is left out.
    pub fn set_query(&mut self, query: Option<&str>) {
        let path = self.received.path();
        let target = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
        let mut parts = std::mem::take(&mut self.received).into_parts();
        let bare = parts.path_and_query.as_ref().map_or("/", PathAndQuery::path).to_owned();
        parts.path_and_query = target.parse().or_else(|_| bare.parse()).ok();
        self.received = Uri::from_parts(parts).unwrap_or_default();
    }

    /// Takes the arguments of this name out of the query, also out of a target that a plugin has already rewritten.
    pub fn remove_query_arg(&mut self, name: &str) {
        if let Some(query) = self.query().map(str::to_owned) {
            self.set_query(query::without(&query, name).as_deref());
        }
        if let Some(rewritten) = &mut self.rewritten
            && let Some((path, query)) = rewritten.target.split_once('?')
        {
            rewritten.target = match query::without(query, name) {
                Some(query) => format!("{path}?{query}").into(),
                None => path.into(),
            };
        }
    }

    /// Masks the values of the arguments of this name in the query, also in that of a target that a plugin has rewritten.
    pub(crate) fn mask_query_arg(&mut self, name: &str) {
        if let Some(masked) = self.query().and_then(|query| query::masked(query, name)) {
            self.set_query(Some(&masked));
        }
        if let Some(rewritten) = &mut self.rewritten
            && let Some((path, query)) = rewritten.target.split_once('?')
            && let Some(masked) = query::masked(query, name)
        {
            rewritten.target = format!("{path}?{masked}").into();
        }
    }

    /// Masks a header, if it is there.
    pub(crate) fn mask_header(&mut self, name: &HeaderName) {
        if let Entry::Occupied(mut values) = self.headers.entry(name) {
            values.insert(HeaderValue::from_static(query::MASK));
        }
    }

    /// Sends another target upstream. `path` is what later plugins see as `uri`, `target` what goes on the wire: path
    /// and query, already encoded.
    pub fn rewrite(&mut self, path: impl Into<Box<str>>, target: impl Into<Box<str>>) {
        self.rewritten = Some(Rewritten { path: path.into(), target: target.into() });
    }

    /// The target for the upstream if a plugin has rewritten it.
    pub fn rewritten_target(&self) -> Option<&str> {
        self.rewritten.as_ref().map(|new| &*new.target)
    }

    /// The target as received: path and query.
    pub fn received_target(&self) -> &str {
        self.received.path_and_query().map_or("/", PathAndQuery::as_str)
    }

    /// Normalised path and query as received: the variable `request_uri`.
    pub fn normal_target(&self) -> Cow<'_, str> {
        match (&self.normal_path, self.query()) {
            (None, _) => Cow::Borrowed(self.received_target()),
            (Some(path), None) => Cow::Borrowed(path),
            (Some(path), Some(query)) => Cow::Owned(format!("{path}?{query}")),
        }
    }

    /// First value of a header as text; `None` if it is absent or no UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok())
    }
}
