//! Everything about one session.

use crate::cx::{Proxied, RouteInfo, Timing, TlsInfo, Upstream};
use crate::def::{ConfigError, Owner};
use crate::meta::Meta;
use crate::superseded::WhenSuperseded;
use crate::view::View;
use bytes::BytesMut;
use milecastle_matching::Lookup;
use milecastle_model::{Fault, Kind};
use serde_json::Value;
use std::any::Any;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// What a session runs over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A TCP connection.
    Tcp,
    /// Datagrams of one client.
    Udp,
}

/// An upstream that a plugin has chosen.
#[derive(Debug, Clone)]
pub enum ChosenUpstream {
    /// An upstream object.
    Id(Arc<str>),
    /// One that stands in the plugin's configuration.
    Inline(Arc<InlineUpstream>),
}

/// An upstream that stands in a plugin's configuration.
#[derive(Debug)]
pub struct InlineUpstream {
    /// Path of the object that carries the configuration, `#`, and the place in it: balancer state is kept under it.
    pub key: Arc<str>,
    /// The upstream.
    pub upstream: milecastle_model::Upstream,
}

impl InlineUpstream {
    /// Checks and reads the upstream at `place`, a JSON pointer inside the configuration of `plugin` on `owner`.
    ///
    /// # Errors
    /// All faults, with their places in the plugin's configuration.
    pub fn compile(owner: &Owner, plugin: &str, place: &str, value: &Value) -> Result<Self, Vec<ConfigError>> {
        let placed = |fault: Fault| ConfigError::at(format!("{place}{}", fault.path), fault.message);
        let faults = milecastle_model::check(Kind::Upstream, value);
        if !faults.is_empty() {
            return Err(faults.into_iter().map(placed).collect());
        }
        let upstream =
            serde_json::from_value(value.clone()).map_err(|error| vec![ConfigError::at(place, error.to_string())])?;
        Ok(Self { key: format!("{}#{plugin}{place}", owner.0).into(), upstream })
    }
}

/// How a session that had an upstream came to its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SessionEnd {
    /// Both sides have ended.
    #[default]
    Closed,
    /// The client's side failed.
    Client,
    /// The upstream's side failed, or was silent for too long and the client with it.
    Upstream,
    /// The gateway has ended it: what it was opened under holds no longer.
    Superseded,
    /// The gateway has ended it while its client had said nothing: another connection was to have its place.
    Evicted,
}

/// Bytes of a session, PROXY headers and TLS apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the client.
    pub received: u64,
    /// To the client.
    pub sent: u64,
    /// To the upstream.
    pub upstream_sent: u64,
    /// From the upstream.
    pub upstream_received: u64,
}

/// Everything about one session.
pub struct StreamCx {
    /// What it runs over.
    pub transport: Transport,
    /// Address of the peer on the socket.
    pub peer: SocketAddr,
    /// The client's address: the peer's, unless a believed PROXY header names another.
    pub client: SocketAddr,
    /// Our own address on the socket.
    pub local: SocketAddr,
    /// The address that we listen on, as metrics show it.
    pub listen: SocketAddr,
    /// What its PROXY header says, if it has one that names addresses.
    pub proxied: Option<Proxied>,
    /// TLS with the client, if it ends here.
    pub tls: Option<TlsInfo>,
    /// Serial number of the session in this process.
    pub serial: u64,
    /// The matched route; `None` if there is none.
    pub route: Option<Arc<RouteInfo>>,
    /// What the client has sent that has not been passed on yet.
    pub first: BytesMut,
    /// The upstream that a plugin has chosen; it takes the place of the route's.
    pub chosen: Option<ChosenUpstream>,
    /// The tries at upstream nodes.
    pub upstream: Upstream,
    /// Bytes so far.
    pub traffic: Traffic,
    /// 200, or why no upstream was reached: 403 no route or a plugin's refusal, 500, 502, 503; 503 also where another connection was to
    /// have its place.
    pub status: u16,
    /// The status with which a plugin closed the session.
    pub rejected: Option<u16>,
    /// How a session that had an upstream ended.
    pub end: SessionEnd,
    /// What becomes of the session when what it was opened under holds no longer; `None`: what the node's settings say.
    pub when_superseded: Option<WhenSuperseded>,
    /// When things happened.
    pub timing: Timing,
    /// Present while hooks run, so that a long session keeps no snapshot.
    pub(super) view: Option<Rc<dyn View>>,
    pub(super) overrides: Vec<(&'static str, String)>,
    slots: Vec<(usize, Box<dyn Any>)>,
    filters: Vec<(usize, bool)>,
}

impl StreamCx {
    /// The context of a session that has just begun; the listening address is `local` unless it is set otherwise.
    pub fn new(transport: Transport, peer: SocketAddr, local: SocketAddr, serial: u64) -> Self {
        let plain = |addr: SocketAddr| SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let (peer, local) = (plain(peer), plain(local));
        Self {
            transport,
            peer,
            client: peer,
            local,
            listen: local,
            proxied: None,
            tls: None,
            serial,
            route: None,
            first: BytesMut::new(),
            chosen: None,
            upstream: Upstream::default(),
            traffic: Traffic::default(),
            status: 200,
            rejected: None,
            end: SessionEnd::default(),
            when_superseded: None,
            timing: Timing { started: Instant::now(), ended: None },
            view: None,
            overrides: Vec::new(),
            slots: Vec::new(),
            filters: Vec::new(),
        }
    }

    /// Does something while the snapshot and the node can be seen.
    pub fn seeing<T>(&mut self, view: &Rc<dyn View>, act: impl FnOnce(&mut Self) -> T) -> T {
        self.view = Some(view.clone());
        let done = act(self);
        self.view = None;
        done
    }

    /// Gives a variable a value for the rest of the session.
    pub fn set_var(&mut self, name: &'static str, value: String) {
        match self.overrides.iter_mut().find(|(known, _)| *known == name) {
            Some(slot) => slot.1 = value,
            None => self.overrides.push((name, value)),
        }
    }

    /// The compiled metadata of a plugin, if there is any. To be asked within hooks.
    pub fn metadata<T: Any + Send + Sync>(&self, plugin: &'static str) -> Option<&T> {
        self.view.as_ref()?.metadata(plugin)?.downcast_ref()
    }

    /// State of one plugin instance for this session, made on first use. `owner` is the instance itself.
    ///
    /// # Panics
    /// If one instance asks for two types.
    pub fn slot<P, T: Default + 'static>(&mut self, owner: &P) -> &mut T {
        let key = std::ptr::from_ref(owner) as usize;
        let at = match self.slots.iter().position(|(known, _)| *known == key) {
            Some(at) => at,
            None => {
                self.slots.push((key, Box::new(T::default())));
                self.slots.len() - 1
            }
        };
        self.slots[at].1.downcast_mut().expect("an instance keeps one type of state")
    }

    /// Whether the filter of `_meta` holds. It is evaluated once for each plugin and object.
    pub(super) fn filter_holds(&mut self, meta: &Arc<Meta>) -> bool {
        let key = Arc::as_ptr(meta) as usize;
        if let Some((_, holds)) = self.filters.iter().find(|(known, _)| *known == key) {
            return *holds;
        }
        let holds = meta.filter.as_ref().is_none_or(|filter| filter.eval(self as &dyn Lookup));
        self.filters.push((key, holds));
        holds
    }
}
