//! `opentelemetry`: traces (`docs/spec/plugins/opentelemetry.md`).
//!
//! A request that is not recorded costs its ids and the header that tells them to the upstream; what its spans say is put
//! together when it is over, and sent beside the workers.

mod collector;
mod config;
mod context;
mod sampler;
mod span;
#[cfg(test)]
mod tests;

use crate::{entropy, exporting::Exporting};
use collector::Collector;
use config::{Config, MetadataConfig};
use context::{Parent, TRACEPARENT, TRACESTATE, TraceId, digits, hex, traceparent};
use http::HeaderValue;
use milecastle_matching::{Lookup as _, Var, VarName};
use milecastle_plugin_api::{
    BuildCx, ConfigError, Example, Flow, Hooks, Metadata, OnBeforeProxy, OnLog, OnRewrite, Plugin, PluginDef,
    RequestCx, schema_of,
};
use sampler::Sampler;
use span::{Additions, Header, Recorded};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) static DEF: PluginDef = PluginDef::of::<OpenTelemetry>();

struct OpenTelemetry {
    sampler: Sampler,
    additions: Additions,
    request_id: VarName,
    exporting: Arc<Exporting>,
    /// It was said that there are no metadata.
    complained: AtomicBool,
}

impl OpenTelemetry {
    /// Name of the queue, in logs and metrics.
    const QUEUE: &'static str = Self::NAME;

    /// The id of a trace that begins here.
    fn new_trace(&self, cx: &RequestCx, collector: &Collector) -> TraceId {
        let given = || {
            let id = match (cx.request.header("x-request-id"), cx.var(&self.request_id)) {
                (Some(id), _) => id.to_ascii_lowercase(),
                (None, Some(Var::Str(id))) => id.to_ascii_lowercase(),
                (None, _) => return None,
            };
            hex(id.as_bytes()).filter(|id| *id != [0; 16])
        };
        let given = if collector.ids_from_requests { given() } else { None };
        given.unwrap_or_else(entropy::bytes)
    }
}

impl Plugin for OpenTelemetry {
    type Config = Config;
    const NAME: &'static str = "opentelemetry";
    const PRIORITY: i32 = 12_009;
    const INCIDENTAL: bool = true;
    const METADATA: Option<Metadata> = Some(Metadata {
        schema: schema_of::<MetadataConfig>,
        compile: Collector::compile,
        unwritable: Some(Collector::unwritable),
    });
    const ENCRYPTED: &'static [&'static str] = &["collector.request_headers"];
    const EXAMPLES: &'static [Example] = &[
        Example::new("Every request, with its consumer and a header", include_str!("examples/always.json")),
        Example::new("What callers record, and one in a hundred of the rest", include_str!("examples/share.json")),
    ];

    fn compile(config: Config, cx: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        Ok(Self {
            sampler: Sampler::new(&config.sampler),
            additions: Additions {
                variables: config.additional_attributes.iter().map(|name| VarName::parse(name)).collect(),
                headers: config.additional_header_prefix_attributes.iter().map(|name| Header::parse(name)).collect(),
            },
            request_id: VarName::parse("apisix_request_id"),
            exporting: Exporting::of(cx)?,
            complained: AtomicBool::new(false),
        })
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        let of_answer = |name: &VarName| name.family().is_of_answer();
        h.rewrite().before_proxy().log_reading_head(|own| own.additions.variables.iter().any(of_answer))
    }
}

impl OnRewrite for OpenTelemetry {
    fn on_rewrite<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a> {
        let Some(collector) = cx.metadata::<Collector>(Self::NAME) else {
            if !self.complained.swap(true, Ordering::Relaxed) {
                let plugin = Self::NAME;
                tracing::warn!(plugin, "nothing is traced until the plugin has metadata, which name the collector");
            }
            return Flow::Next;
        };
        let sets_variables = collector.sets_variables;
        let parent = Parent::of(&cx.request.headers);
        let trace_id = match &parent {
            Some(parent) => parent.trace_id,
            None => self.new_trace(cx, collector),
        };
        let span_id = entropy::bytes();
        let sampled = self.sampler.samples(&trace_id, parent.as_ref());
        let told = traceparent(&trace_id, &span_id, sampled);
        let state = parent.as_ref().map(|parent| parent.state.clone()).unwrap_or_default();
        tell(cx, &told, &state);
        if sets_variables {
            cx.set_var("opentelemetry_context_traceparent", told);
            cx.set_var("opentelemetry_trace_id", digits(&trace_id));
            cx.set_var("opentelemetry_span_id", digits(&span_id));
        }
        if sampled {
            let parent = parent.map(|parent| parent.span_id);
            let recorded = Recorded { trace_id, span_id, parent, state, tries: Vec::new() };
            *cx.slot::<_, Option<Recorded>>(self) = Some(recorded);
        }
        Flow::Next
    }
}

/// Tells the upstream its place in the trace. A state without a trace of its own says nothing, so the client's goes.
fn tell(cx: &mut RequestCx, traceparent: &str, state: &str) {
    let headers = &mut cx.request.headers;
    if let Ok(value) = HeaderValue::try_from(traceparent) {
        headers.insert(TRACEPARENT, value);
    }
    match HeaderValue::try_from(state) {
        Ok(state) if !state.is_empty() => drop(headers.insert(TRACESTATE, state)),
        _ => drop(headers.remove(TRACESTATE)),
    }
}

impl OnBeforeProxy for OpenTelemetry {
    fn on_before_proxy<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a> {
        if !cx.view.node().tracing || cx.slot_if_made::<_, Option<Recorded>>(self).is_none() {
            return Flow::Next;
        }
        let Some(recorded) = cx.slot::<_, Option<Recorded>>(self) else { return Flow::Next };
        let id = entropy::bytes();
        recorded.tries.push(id);
        let told = traceparent(&recorded.trace_id, &id, true);
        let state = recorded.state.clone();
        tell(cx, &told, &state);
        Flow::Next
    }
}

impl OnLog for OpenTelemetry {
    fn on_log(&self, cx: &mut RequestCx) {
        let Some(Some(recorded)) = cx.slot_if_made::<_, Option<Recorded>>(self) else { return };
        let Some(collector) = cx.metadata::<Collector>(Self::NAME) else { return };
        collector.send(span::spans(cx, recorded, &self.additions), &self.exporting, cx.view.node());
    }
}
