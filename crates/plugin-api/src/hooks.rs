//! One trait for each phase, and the list of phases that a plugin takes part in.
//!
//! Phases and their order: `docs/spec/plugins/_phases.md` §1.

use crate::stream::{OnPreread, OnSessionLog};
use crate::{Flow, RequestCx};
use bytes::Bytes;
use std::sync::Arc;

/// Before routing decisions of plugins: authentication, rewriting, redirects.
pub trait OnRewrite: Send + Sync {
    /// Runs the hook.
    fn on_rewrite<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a>;
}

/// After the consumer is known: limits, restrictions, transformation of the request body.
pub trait OnAccess: Send + Sync {
    /// Runs the hook.
    fn on_access<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a>;
}

/// After a node was picked and before the request is sent; again for each retry.
pub trait OnBeforeProxy: Send + Sync {
    /// Runs the hook.
    fn on_before_proxy<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a>;
}

/// Once the head of the answer is known, from the upstream or from the gateway.
pub trait OnHeaders: Send + Sync {
    /// Runs the hook; it may change `cx.response`.
    fn on_headers(&self, cx: &mut RequestCx);
}

/// For each chunk of the answer's body, if [`crate::Plugin::body_needs`] asks for it. The last call has `last` set; its
/// chunk may be empty.
pub trait OnBody: Send + Sync {
    /// Runs the hook; it may change, empty or extend the chunk.
    fn on_body(&self, cx: &mut RequestCx, chunk: &mut Bytes, last: bool);
}

/// As [`OnBody`], after all plugins' body hooks have seen the chunk.
pub trait OnDelayedBody: Send + Sync {
    /// Runs the hook on the chunk as it goes to the client.
    fn on_delayed_body(&self, cx: &mut RequestCx, chunk: &mut Bytes, last: bool);
}

/// Once, when the request is over, whatever ended it.
pub trait OnLog: Send + Sync {
    /// Runs the hook.
    fn on_log(&self, cx: &mut RequestCx);
}

/// The three request phases have one shape; a chain runs them by the same code.
pub trait RequestHook: Send + Sync {
    /// Calls the phase's own method.
    fn call<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a>;
}

impl RequestHook for dyn OnRewrite {
    fn call<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a> {
        self.on_rewrite(cx)
    }
}

impl RequestHook for dyn OnAccess {
    fn call<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a> {
        self.on_access(cx)
    }
}

impl RequestHook for dyn OnBeforeProxy {
    fn call<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a> {
        self.on_before_proxy(cx)
    }
}

/// The hooks of one compiled plugin, by phase.
#[derive(Clone, Default)]
pub struct HookSet {
    pub(crate) rewrite: Option<Arc<dyn OnRewrite>>,
    pub(crate) access: Option<Arc<dyn OnAccess>>,
    pub(crate) before_proxy: Option<Arc<dyn OnBeforeProxy>>,
    pub(crate) headers: Option<Arc<dyn OnHeaders>>,
    pub(crate) body: Option<Arc<dyn OnBody>>,
    pub(crate) delayed_body: Option<Arc<dyn OnDelayedBody>>,
    pub(crate) log: Option<Arc<dyn OnLog>>,
    /// The hook of `log` reads the fields of the answer's head.
    pub(crate) logs_head: bool,
    pub(crate) preread: Option<Arc<dyn OnPreread>>,
    pub(crate) session_log: Option<Arc<dyn OnSessionLog>>,
}

/// Lists the phases of a plugin. A phase can be listed only if its trait is implemented.
pub struct Hooks<P> {
    plugin: Arc<P>,
    on: HookSet,
}

impl<P: 'static> Hooks<P> {
    pub(crate) fn new(plugin: Arc<P>) -> Self {
        Self { plugin, on: HookSet::default() }
    }

    pub(crate) fn finish(self) -> HookSet {
        self.on
    }

    /// Takes part in `rewrite`.
    #[must_use]
    pub fn rewrite(mut self) -> Self
    where
        P: OnRewrite,
    {
        self.on.rewrite = Some(self.plugin.clone());
        self
    }

    /// Takes part in `access`.
    #[must_use]
    pub fn access(mut self) -> Self
    where
        P: OnAccess,
    {
        self.on.access = Some(self.plugin.clone());
        self
    }

    /// Takes part in `before_proxy`.
    #[must_use]
    pub fn before_proxy(mut self) -> Self
    where
        P: OnBeforeProxy,
    {
        self.on.before_proxy = Some(self.plugin.clone());
        self
    }

    /// Takes part in `header_filter`.
    #[must_use]
    pub fn headers(mut self) -> Self
    where
        P: OnHeaders,
    {
        self.on.headers = Some(self.plugin.clone());
        self
    }

    /// Takes part in `body_filter`.
    #[must_use]
    pub fn body(mut self) -> Self
    where
        P: OnBody,
    {
        self.on.body = Some(self.plugin.clone());
        self
    }

    /// Takes part in `delayed_body_filter`.
    #[must_use]
    pub fn delayed_body(mut self) -> Self
    where
        P: OnDelayedBody,
    {
        self.on.delayed_body = Some(self.plugin.clone());
        self
    }

    /// Takes part in `log`.
    #[must_use]
    pub fn log(self) -> Self
    where
        P: OnLog,
    {
        self.log_reading_head(|_| true)
    }

    /// Takes part in `preread` of TCP and UDP sessions.
    #[must_use]
    pub fn preread(mut self) -> Self
    where
        P: OnPreread,
    {
        self.on.preread = Some(self.plugin.clone());
        self
    }

    /// Takes part in `log` of TCP and UDP sessions.
    #[must_use]
    pub fn session_log(mut self) -> Self
    where
        P: OnSessionLog,
    {
        self.on.session_log = Some(self.plugin.clone());
        self
    }

    /// Takes part in `log`, and says of an instance whether it reads the fields of the answer there (`cx.response.headers`,
    /// variables of them). If no plugin does, they are not kept once they have been sent, and `cx.response.headers` is empty.
    #[must_use]
    pub fn log_reading_head(mut self, reads_head: impl FnOnce(&P) -> bool) -> Self
    where
        P: OnLog,
    {
        self.on.logs_head = reads_head(&self.plugin);
        self.on.log = Some(self.plugin.clone());
        self
    }
}
