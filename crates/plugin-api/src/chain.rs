//! The plugins of one object, sorted and laid out by phase.

use crate::built::Built;
use crate::cx::{Begun, Request, RequestCx};
use crate::def::{BodyNeed, BodyNeeds, CredentialPlaces, RunPolicy};
use crate::flow::{Flow, Reply};
use crate::hooks::{OnAccess, OnBeforeProxy, OnBody, OnDelayedBody, OnHeaders, OnLog, OnRewrite, RequestHook};
use crate::meta::Meta;
use bytes::Bytes;
use http::StatusCode;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A hook of the response phases panicked. The panic has been counted; the answer must not go out as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HookPanicked;

/// One plugin in one phase.
struct Step<H: ?Sized> {
    hook: Arc<H>,
    plugin: &'static str,
    run_policy: RunPolicy,
    /// Present only if the plugin carries `_meta`.
    meta: Option<Arc<Meta>>,
}

type Steps<H> = Box<[Step<H>]>;

/// The plugins of a route (service and plugin_config merged in), of all global rules, or of a route with its consumer.
///
/// Each phase holds only the plugins that take part in it, highest priority first, ties by name.
#[derive(Default)]
pub struct Chain {
    entries: Arc<[Built]>,
    rewrite: Steps<dyn OnRewrite>,
    access: Steps<dyn OnAccess>,
    before_proxy: Steps<dyn OnBeforeProxy>,
    headers: Steps<dyn OnHeaders>,
    body: Steps<dyn OnBody>,
    delayed_body: Steps<dyn OnDelayedBody>,
    log: Steps<dyn OnLog>,
    logs_head: bool,
    needs: BodyNeeds,
    credentials: Box<[Arc<CredentialPlaces>]>,
}

impl Chain {
    /// Sorts the plugins and lays them out. A name must not occur twice.
    pub fn new(mut entries: Vec<Built>) -> Self {
        entries.sort_by(|a, b| b.priority().cmp(&a.priority()).then(a.name().cmp(b.name())));
        Self::lay_out(entries.into(), |_| true)
    }

    /// Lays the plugins of `over` over these by name, as a consumer's do over a route's.
    ///
    /// In the phase `rewrite` of the result run only plugins that `self` does not have: the others have had their turn
    /// before the consumer was known (`docs/spec/plugins/_phases.md` §5.4).
    #[must_use]
    pub fn overlay(&self, over: &[Built]) -> Self {
        let kept = self.entries.iter().filter(|own| over.iter().all(|new| new.name() != own.name()));
        let mut entries: Vec<Built> = kept.chain(over).cloned().collect();
        entries.sort_by(|a, b| b.priority().cmp(&a.priority()).then(a.name().cmp(b.name())));
        Self::lay_out(entries.into(), |name| !self.contains(name))
    }

    fn lay_out(entries: Arc<[Built]>, rewrites: impl Fn(&str) -> bool) -> Self {
        let enabled = || entries.iter().filter(|built| !built.disabled());
        fn steps<'a, H: ?Sized + 'a>(
            enabled: impl Iterator<Item = &'a Built>,
            hook: impl Fn(&Built) -> Option<&Arc<H>>,
        ) -> Steps<H> {
            enabled
                .filter_map(|built| {
                    let hook = hook(built)?.clone();
                    let (plugin, run_policy) = (built.name(), built.def().run_policy);
                    Some(Step { hook, plugin, run_policy, meta: built.meta().cloned() })
                })
                .collect()
        }
        let sees_body = |built: &&Built| built.declared().needs.response != BodyNeed::None;
        // A filter may read them too, and has its first turn in `log` if the plugin has no earlier one.
        let logs_head = |built: &Built| {
            let filtered = built.meta().is_some_and(|meta| meta.filter.is_some());
            built.hooks().log.is_some() && (built.hooks().logs_head || filtered)
        };
        let mut needs = BodyNeeds::default();
        for built in enabled() {
            needs.request = needs.request.max(built.declared().needs.request);
            needs.response = needs.response.max(built.declared().needs.response);
        }
        Self {
            rewrite: steps(enabled().filter(|built| rewrites(built.name())), |b| b.hooks().rewrite.as_ref()),
            access: steps(enabled(), |b| b.hooks().access.as_ref()),
            before_proxy: steps(enabled(), |b| b.hooks().before_proxy.as_ref()),
            headers: steps(enabled(), |b| b.hooks().headers.as_ref()),
            body: steps(enabled().filter(sees_body), |b| b.hooks().body.as_ref()),
            delayed_body: steps(enabled().filter(sees_body), |b| b.hooks().delayed_body.as_ref()),
            log: steps(enabled(), |b| b.hooks().log.as_ref()),
            logs_head: enabled().any(logs_head),
            needs,
            credentials: enabled().filter_map(|built| built.declared().credentials.clone()).collect(),
            entries,
        }
    }

    /// Whether a plugin of this name is here, enabled or not.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.iter().any(|built| built.name() == name)
    }

    /// The plugins, highest priority first, disabled ones included.
    pub fn entries(&self) -> &[Built] {
        &self.entries
    }

    /// What the plugins need of the bodies.
    pub fn needs(&self) -> BodyNeeds {
        self.needs
    }

    /// Whether a plugin sees the answer's body.
    pub fn sees_body(&self) -> bool {
        !(self.body.is_empty() && self.delayed_body.is_empty())
    }

    /// Whether a plugin takes part in `rewrite`.
    pub fn has_rewrite(&self) -> bool {
        !self.rewrite.is_empty()
    }

    /// Whether a plugin takes part in `access`.
    pub fn has_access(&self) -> bool {
        !self.access.is_empty()
    }

    /// Whether a plugin takes part in `before_proxy`.
    pub fn has_before_proxy(&self) -> bool {
        !self.before_proxy.is_empty()
    }

    /// Whether a plugin takes part in `header_filter`.
    pub fn has_header_filter(&self) -> bool {
        !self.headers.is_empty()
    }

    /// Whether a plugin reads the fields of the answer's head in `log`.
    pub fn logs_head(&self) -> bool {
        self.logs_head
    }

    /// Runs the phase `rewrite`.
    ///
    /// # Errors
    /// The answer of the plugin that ended the request.
    pub async fn run_rewrite(&self, cx: &mut RequestCx) -> Result<(), Reply> {
        run("rewrite", &self.rewrite, cx).await
    }

    /// Runs the phase `access`.
    ///
    /// # Errors
    /// As for [`Self::run_rewrite`].
    pub async fn run_access(&self, cx: &mut RequestCx) -> Result<(), Reply> {
        run("access", &self.access, cx).await
    }

    /// Runs the phase `before_proxy`.
    ///
    /// # Errors
    /// As for [`Self::run_rewrite`].
    pub async fn run_before_proxy(&self, cx: &mut RequestCx) -> Result<(), Reply> {
        run("before_proxy", &self.before_proxy, cx).await
    }

    /// Runs the phase `header_filter`, after putting on the answer what the request phases asked for
    /// ([`RequestCx::set_response_header`]). To be called also for a chain without hooks of this phase.
    ///
    /// # Errors
    /// A hook panicked; the later ones have run.
    pub fn run_headers(&self, cx: &mut RequestCx) -> Result<(), HookPanicked> {
        cx.settle_response_headers();
        const PHASE: &str = "header_filter";
        let all = begin(PHASE, &self.headers, cx);
        let outcome = run_all(&self.headers, cx, |step, cx| {
            let stretch = step.begin(PHASE, cx);
            step.hook.on_headers(cx);
            cx.way.end(stretch);
        });
        end(all, cx);
        outcome
    }

    /// Runs the phase `body_filter` on one chunk.
    ///
    /// # Errors
    /// A hook panicked; the chunk is not to be sent.
    pub fn run_body(&self, cx: &mut RequestCx, chunk: &mut Bytes, last: bool) -> Result<(), HookPanicked> {
        run_all(&self.body, cx, |step, cx| step.hook.on_body(cx, chunk, last))
    }

    /// Runs the phase `delayed_body_filter` on the same chunk.
    ///
    /// # Errors
    /// A hook panicked; the chunk is not to be sent.
    pub fn run_delayed_body(&self, cx: &mut RequestCx, chunk: &mut Bytes, last: bool) -> Result<(), HookPanicked> {
        run_all(&self.delayed_body, cx, |step, cx| step.hook.on_delayed_body(cx, chunk, last))
    }

    /// Masks the clients' secrets where plugins take them from. To be called for all chains of a request before any of them
    /// runs its phase `log`, once nothing more is sent upstream.
    pub fn mask_credentials(&self, request: &mut Request) {
        for places in &self.credentials {
            places.headers.iter().for_each(|name| request.mask_header(name));
            places.query_args.iter().for_each(|name| request.mask_query_arg(name));
        }
    }

    /// Runs the phase `log`, after [`Self::mask_credentials`]. A panicking hook is counted and keeps no other from running.
    pub fn run_log(&self, cx: &mut RequestCx) {
        let _counted = run_all(&self.log, cx, |step, cx| step.hook.on_log(cx));
    }
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.entries.iter().map(Built::name)).finish()
    }
}

impl<H: ?Sized> Step<H> {
    /// Whether the hook is to run for this request. The filter's verdict is kept for the later phases.
    fn applies(&self, cx: &mut RequestCx) -> bool {
        if self.run_policy == RunPolicy::PreferRoute && cx.global_phase && cx.route_has(self.plugin) {
            return false;
        }
        match &self.meta {
            Some(meta) if meta.filter.is_some() => cx.filter_holds(meta),
            _ => true,
        }
    }

    /// Begins the stretch of one plugin.
    fn begin(&self, phase: &str, cx: &mut RequestCx) -> Begun {
        cx.way.begin(|| format!("apisix.phase.{phase}.plugins.{}", self.plugin).into())
    }

    fn ended_by(&self, mut reply: Reply) -> Reply {
        reply.plugin = Some(self.plugin);
        if let Some(meta) = &self.meta {
            meta.replace_body(&mut reply);
        }
        reply
    }

    fn panicked(&self, cx: &RequestCx) -> Reply {
        cx.view.hook_panicked(self.plugin);
        let mut reply = Reply::status(StatusCode::INTERNAL_SERVER_ERROR);
        reply.plugin = Some(self.plugin);
        reply
    }
}

async fn run<H: RequestHook + ?Sized>(phase: &str, steps: &[Step<H>], cx: &mut RequestCx) -> Result<(), Reply> {
    let all = begin(phase, steps, cx);
    for step in steps {
        if !step.applies(cx) {
            continue;
        }
        let stretch = step.begin(phase, cx);
        let outcome = match caught(&*step.hook, cx) {
            Ok(Flow::Next) => Ok(Ok(())),
            Ok(Flow::Reply(reply)) => Ok(Err(reply)),
            Ok(Flow::Wait(future)) => Caught(future).await,
            Err(panic) => Err(panic),
        };
        cx.way.end(stretch);
        let reply = match outcome {
            Ok(Ok(())) => continue,
            Ok(Err(reply)) => step.ended_by(reply),
            Err(_) => step.panicked(cx),
        };
        end(all, cx);
        return Err(reply);
    }
    end(all, cx);
    Ok(())
}

/// Begins the stretch of the global rules; what the route's plugins do has none of its own.
fn begin<H: ?Sized>(phase: &str, steps: &[Step<H>], cx: &mut RequestCx) -> Option<Begun> {
    (cx.global_phase && !steps.is_empty()).then(|| cx.way.begin(|| format!("run_global_rules.{phase}").into()))
}

fn end(begun: Option<Begun>, cx: &mut RequestCx) {
    if let Some(begun) = begun {
        cx.way.end(begun);
    }
}

fn caught<'a, H: RequestHook + ?Sized>(hook: &'a H, cx: &'a mut RequestCx) -> std::thread::Result<Flow<'a>> {
    catch_unwind(AssertUnwindSafe(move || {
        // Moved in, so that the answer may borrow from it.
        let cx = cx;
        hook.call(cx)
    }))
}

fn run_all<H: ?Sized>(
    steps: &[Step<H>],
    cx: &mut RequestCx,
    mut call: impl FnMut(&Step<H>, &mut RequestCx),
) -> Result<(), HookPanicked> {
    let mut result = Ok(());
    for step in steps {
        if step.applies(cx) && catch_unwind(AssertUnwindSafe(|| call(step, cx))).is_err() {
            cx.view.hook_panicked(step.plugin);
            result = Err(HookPanicked);
        }
    }
    result
}

/// Turns a panic of the future into an error.
struct Caught<F>(F);

impl<F: Future + Unpin> Future for Caught<F> {
    type Output = std::thread::Result<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match catch_unwind(AssertUnwindSafe(|| Pin::new(&mut self.0).poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}
