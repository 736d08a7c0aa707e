//! Everything about one request, from its first byte to its log line.
//!
//! What a plugin changes here is what happens: `request` is what will be sent upstream, `response` what will be sent to
//! the client. Facts as received stay readable beside it.

mod client;
mod request;
mod response;
mod upstream;
mod vars;
mod way;

pub use client::{ClientConn, Proxied, Scheme, TlsInfo};
pub use request::{Body, Request};
pub use response::{Response, ResponseSource};
pub use upstream::{Attempt, NodeNames, PickedNode, Upstream};
pub use vars::hex;
pub use vars::time::timestamp;
pub(crate) use vars::{time, tls_var};
pub use way::{Begun, Stretch, Way};

use crate::chain::Chain;
use crate::consumer::{Consumer, CredentialMatch};
use crate::fields;
use crate::meta::Meta;
use crate::superseded::WhenSuperseded;
use crate::view::View;
use http::HeaderValue;
use http::header::{HOST, HeaderName};
use milecastle_matching::{Lookup, PathPattern};
use std::any::Any;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Names and ids of the matched route, for variables, logs and metrics.
#[derive(Debug, Default)]
pub struct RouteInfo {
    /// Id of the route.
    pub id: Arc<str>,
    /// Its name, if it has one.
    pub name: Option<Arc<str>>,
    /// Id of its service.
    pub service_id: Option<Arc<str>>,
    /// Name of its service.
    pub service_name: Option<Arc<str>>,
    /// Labels of the route.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
}

/// When things happened.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// When the head of the request had been read.
    pub started: Instant,
    /// When the last byte of the answer was handed to the kernel; set before `log`.
    pub ended: Option<Instant>,
}

impl Timing {
    /// When the head of the request had been read, on the wall clock: for logs only.
    pub fn started_at(&self) -> SystemTime {
        SystemTime::now() - self.started.elapsed()
    }

    /// From the first byte to the end, or to now.
    pub fn total(&self) -> Duration {
        self.ended.unwrap_or_else(Instant::now).saturating_duration_since(self.started)
    }
}

/// Everything about one request.
pub struct RequestCx {
    /// The request, as plugins may change it.
    pub request: Request,
    /// The connection that it came on.
    pub client: Rc<ClientConn>,
    /// Which of the requests of its connection it is; the first is 1.
    pub number: u64,
    /// The client's address after real-IP processing.
    pub client_ip: IpAddr,
    /// The client's port, of the connection.
    pub client_port: u16,
    /// The matched route; `None` before the match and for unmatched requests.
    pub route: Option<Arc<RouteInfo>>,
    /// The plugins in force for the matched route, its consumer's laid over them.
    pub chain: Option<Arc<Chain>>,
    /// The path pattern that matched.
    pub matched_uri: Option<Arc<PathPattern>>,
    /// The path that it matched, where that is not the normal path.
    pub matched_path: Option<Box<str>>,
    /// The host pattern that matched, as written.
    pub matched_host: Option<Arc<str>>,
    /// The authenticated consumer.
    pub consumer: Option<Arc<Consumer>>,
    /// Id of the credential by which it was authenticated; `None` if the consumer itself has what was presented, and without one.
    /// Plugins may change the header of this name; this stays.
    pub credential: Option<HeaderValue>,
    /// What will be, and what was, sent upstream.
    pub upstream: Upstream,
    /// The answer; meaningful from `header_filter` on.
    pub response: Response,
    /// When things happened.
    pub timing: Timing,
    /// What traces show of the way to the answer.
    pub way: Way,
    /// The pinned snapshot and the node.
    pub view: Rc<dyn View>,
    /// Whether the global rules' chain is running.
    pub global_phase: bool,
    /// What becomes of a long answer or a WebSocket when this holds no longer; `None`: what the node's settings say.
    pub when_superseded: Option<WhenSuperseded>,
    /// Protocols that the client may change to with `Upgrade` (RFC 9110 §7.8), as the upstream is to read them: one token each,
    /// with or without a version behind a slash. `None`: no other than WebSocket, where the route has `enable_websocket`.
    pub upgrades: Option<Arc<[String]>>,
    lists: Lists,
    parsed: vars::Parsed,
}

/// What plugins have left with a request. When the request is over the lists are emptied and serve another, so that
/// leaving something allocates nothing for most requests.
#[derive(Default)]
pub struct Lists {
    overrides: Vec<(&'static str, VarValue)>,
    pending: Vec<PendingHeader>,
    slots: Vec<(SlotKey, Box<dyn Any>)>,
    filters: Vec<(usize, bool)>,
}

/// The address of an instance, and whether it acts for the global rules: one instance serves both if they are
/// configured alike, and then has a state for each.
type SlotKey = (usize, bool);

/// A value given to a variable for the rest of the request.
#[derive(Debug, Clone)]
pub enum VarValue {
    /// Text.
    Text(String),
    /// Text that stands in a header as well; cloning it copies nothing.
    Header(HeaderValue),
    /// A list.
    List(Vec<serde_json::Value>),
}

impl From<String> for VarValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<HeaderValue> for VarValue {
    fn from(value: HeaderValue) -> Self {
        Self::Header(value)
    }
}

/// A header that the answer will carry, known before there is an answer.
#[derive(Debug)]
struct PendingHeader {
    name: HeaderName,
    value: HeaderValue,
    /// Leaves a value that the answer brings, unless it is empty.
    gives_way: bool,
}

/// Header that names the consumer to the upstream.
pub const CONSUMER_USERNAME: HeaderName = HeaderName::from_static("x-consumer-username");
/// Header that names the credential to the upstream.
pub const CREDENTIAL_IDENTIFIER: HeaderName = HeaderName::from_static("x-credential-identifier");
/// Header that carries the consumer's label `custom_id`.
pub const CONSUMER_CUSTOM_ID: HeaderName = HeaderName::from_static("x-consumer-custom-id");

impl RequestCx {
    /// The context of a request whose head had been read when it `started`. `lists` are those of a request that is over, or
    /// new ones.
    #[inline]
    pub fn new(request: Request, client: Rc<ClientConn>, view: Rc<dyn View>, lists: Lists, started: Instant) -> Self {
        let (client_ip, client_port) = (client.peer.ip().to_canonical(), client.peer.port());
        Self {
            request,
            client,
            number: 1,
            client_ip,
            client_port,
            route: None,
            chain: None,
            matched_uri: None,
            matched_path: None,
            matched_host: None,
            consumer: None,
            credential: None,
            upstream: Upstream::default(),
            response: Response::default(),
            timing: Timing { started, ended: None },
            way: Way::default(),
            view,
            global_phase: false,
            when_superseded: None,
            upgrades: None,
            lists,
            parsed: vars::Parsed::default(),
        }
    }

    /// Gives back the lists of a request that is over, empty.
    pub fn take_lists(&mut self) -> Lists {
        let mut lists = std::mem::take(&mut self.lists);
        let Lists { overrides, pending, slots, filters } = &mut lists;
        overrides.clear();
        pending.clear();
        slots.clear();
        filters.clear();
        lists
    }

    /// Records an authenticated consumer and sets the identity headers; what the client sent under those names never
    /// survives (`docs/spec/plugins/_auth-common.md` §3).
    pub fn attach_consumer(&mut self, found: CredentialMatch) {
        let headers = &mut self.request.headers;
        let mut put = |name: HeaderName, value: Option<&HeaderValue>| match value {
            Some(value) => drop(headers.insert(name, value.clone())),
            None => fields::remove(headers, &name),
        };
        put(CONSUMER_USERNAME, Some(&found.consumer.name_header));
        put(CREDENTIAL_IDENTIFIER, found.credential_id.as_ref());
        put(CONSUMER_CUSTOM_ID, found.consumer.custom_id.as_ref());
        self.consumer = Some(found.consumer);
        self.credential = found.credential_id;
    }

    /// Records the anonymous consumer: it yields neither a credential nor a custom id.
    pub fn attach_anonymous(&mut self, consumer: Arc<Consumer>) {
        let headers = &mut self.request.headers;
        headers.insert(CONSUMER_USERNAME, consumer.name_header.clone());
        fields::remove(headers, &CREDENTIAL_IDENTIFIER);
        fields::remove(headers, &CONSUMER_CUSTOM_ID);
        self.consumer = Some(consumer);
        self.credential = None;
    }

    /// The compiled metadata of a plugin, if there is any.
    pub fn metadata<T: Any + Send + Sync>(&self, plugin: &'static str) -> Option<&T> {
        self.view.metadata(plugin)?.downcast_ref()
    }

    /// Gives a variable a value for the rest of the request; it hides the one that the name has by itself.
    pub fn set_var(&mut self, name: &'static str, value: impl Into<VarValue>) {
        let value = value.into();
        match self.lists.overrides.iter_mut().find(|(known, _)| *known == name) {
            Some(slot) => slot.1 = value,
            None => self.lists.overrides.push((name, value)),
        }
    }

    /// The value given to a variable by [`Self::set_var`].
    pub fn overridden(&self, name: &str) -> Option<&VarValue> {
        self.lists.overrides.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Puts a header on the answer, whatever its source, in place of one that the answer brings. To be used before
    /// there is an answer; it takes effect at the beginning of `header_filter`, so filters see it and may change it.
    pub fn set_response_header(&mut self, name: HeaderName, value: HeaderValue) {
        self.lists.pending.push(PendingHeader { name, value, gives_way: false });
    }

    /// As [`Self::set_response_header`], but a value that the answer brings stays, unless it is empty.
    pub fn default_response_header(&mut self, name: HeaderName, value: HeaderValue) {
        self.lists.pending.push(PendingHeader { name, value, gives_way: true });
    }

    /// Names of the headers that the request phases have asked for on the answer.
    pub fn response_headers_to_come(&self) -> impl Iterator<Item = &HeaderName> {
        self.lists.pending.iter().map(|pending| &pending.name)
    }

    /// Moves the headers that the request phases asked for to the end of a list, for an answer that brings none of them. In the
    /// list each name is there once.
    pub fn list_response_headers(&mut self, list: &mut Vec<(HeaderName, HeaderValue)>) {
        for PendingHeader { name, value, gives_way } in self.lists.pending.drain(..) {
            match list.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) if gives_way && !known.is_empty() => {}
                Some((_, known)) => *known = value,
                None => list.push((name, value)),
            }
        }
    }

    /// Moves the headers that the request phases asked for onto the answer.
    pub(crate) fn settle_response_headers(&mut self) {
        for PendingHeader { name, value, gives_way } in self.lists.pending.drain(..) {
            let headers = &mut self.response.headers;
            if !(gives_way && headers.get(&name).is_some_and(|brought| !brought.is_empty())) {
                headers.insert(name, value);
            }
        }
    }

    /// State of one plugin instance for this request, made on first use. `owner` is the instance itself; on a global rule
    /// and on a route it has a state for each.
    ///
    /// # Panics
    /// If one instance asks for two types.
    pub fn slot<P, T: Default + 'static>(&mut self, owner: &P) -> &mut T {
        let key = (std::ptr::from_ref(owner) as usize, self.global_phase);
        let at = match self.lists.slots.iter().position(|(known, _)| *known == key) {
            Some(at) => at,
            None => {
                self.lists.slots.push((key, Box::new(T::default())));
                self.lists.slots.len() - 1
            }
        };
        self.lists.slots[at].1.downcast_mut().expect("an instance keeps one type of state")
    }

    /// The state that [`Self::slot`] has made, if it has.
    pub fn slot_if_made<P, T: 'static>(&self, owner: &P) -> Option<&T> {
        let key = (std::ptr::from_ref(owner) as usize, self.global_phase);
        self.lists.slots.iter().find(|(known, _)| *known == key)?.1.downcast_ref()
    }

    /// Whether the filter of `_meta` holds. It is evaluated once for each plugin and object.
    pub(crate) fn filter_holds(&mut self, meta: &Arc<Meta>) -> bool {
        let key = Arc::as_ptr(meta) as usize;
        if let Some((_, holds)) = self.lists.filters.iter().find(|(known, _)| *known == key) {
            return *holds;
        }
        let holds = meta.filter.as_ref().is_none_or(|filter| filter.eval(self as &dyn Lookup));
        self.lists.filters.push((key, holds));
        holds
    }

    /// The Host header that goes to the upstream, at the present try or the last one; before the first it is not known yet what
    /// the upstream's `pass_host` says.
    pub fn upstream_host(&self) -> Option<&HeaderValue> {
        let received = || fields::get(&self.request.headers, &HOST);
        self.upstream.own_host().or(self.upstream.host.as_ref()).or_else(received)
    }

    /// Whether the matched route carries an enabled plugin of this name.
    pub(crate) fn route_has(&self, plugin: &str) -> bool {
        let entries = self.chain.as_ref().map_or(&[][..], |chain| chain.entries());
        entries.iter().any(|built| built.name() == plugin && !built.disabled())
    }
}
