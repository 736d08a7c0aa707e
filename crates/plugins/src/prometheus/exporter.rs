//! The families of the metrics, and the way from a request to their series.
//!
//! Finding five series by eleven labels for each request would be most of this plugin's cost. So each worker keeps the
//! handles that it has used, by all that decides the labels; a hit is one hash over about a hundred bytes.

use super::config::{Disabled, MetricSettings, Settings};
use super::labels::{Labels, extra};
use super::table::{BANDWIDTH, HTTP_LATENCY, HTTP_STATUS, METRICS};
use foldhash::fast::RandomState;
use milecastle_plugin_api::RequestCx;
use milecastle_telemetry::metrics::{Counter, Family, Handle, Histogram, MetricError, Options, Registry};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Milliseconds.
const LATENCY_BUCKETS: [f64; 15] =
    [1., 2., 5., 10., 20., 50., 100., 200., 500., 1000., 2000., 5000., 10000., 30000., 60000.];

/// Most series of a family; label values come from clients in part. Beyond it, series are counted together.
const MAX_SERIES: usize = 100_000;

/// Most sets of handles that a worker keeps; then it begins anew.
const CACHED: usize = 2048;

/// The families.
pub(super) struct Exporter {
    /// Tells this exporter's handles from another's in the workers' caches.
    serial: u64,
    status: Family<Counter>,
    latency: Family<Histogram>,
    bandwidth: Family<Counter>,
    metrics: [MetricSettings; METRICS.len()],
}

/// The series that one request moves.
struct Series {
    status: Handle<Counter>,
    request: Handle<Histogram>,
    apisix: Handle<Histogram>,
    /// Only if an upstream was contacted.
    upstream: Option<Handle<Histogram>>,
    ingress: Handle<Counter>,
    egress: Handle<Counter>,
}

#[derive(Default)]
struct Cache {
    series: HashMap<Box<[u8]>, Series, RandomState>,
    key: Vec<u8>,
}

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
}

impl Exporter {
    pub(super) fn new(registry: &Registry, settings: Settings) -> Result<Self, MetricError> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let labels = |place: usize| -> Vec<&str> {
            let own = settings.metrics[place].extra_labels.iter().map(|(label, _)| label.as_str());
            METRICS[place].labels.iter().copied().chain(own).collect()
        };
        let options = |place: usize| Options { expire: settings.metrics[place].expire, max_series: MAX_SERIES };
        let buckets = settings.latency_buckets.as_deref().unwrap_or(&LATENCY_BUCKETS);
        let counter = |place: usize, help| registry.counter(METRICS[place].name, help, &labels(place), options(place));
        Ok(Self {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            status: counter(HTTP_STATUS, "Requests by status, route, service, consumer and node.")?,
            latency: registry.histogram(
                METRICS[HTTP_LATENCY].name,
                "Milliseconds spent on requests: in all, in the upstream, in the gateway.",
                &labels(HTTP_LATENCY),
                buckets,
                options(HTTP_LATENCY),
            )?,
            bandwidth: counter(BANDWIDTH, "Bytes received from and sent to clients.")?,
            metrics: settings.metrics,
        })
    }

    /// Counts a request that is over.
    pub(super) fn count(&self, cx: &RequestCx, prefer_name: bool, disabled: Option<&Disabled>) {
        let labels = Labels::of(cx, prefer_name);
        let disabled = disabled.map_or([0; METRICS.len()], |disabled| disabled.0);
        let upstream = cx.upstream.total();
        CACHE.with_borrow_mut(|Cache { series, key }| {
            self.write_key(key, cx, &labels, upstream.is_some(), &disabled);
            if let Some(known) = series.get(key.as_slice()) {
                return known.update(cx, upstream);
            }
            if series.len() >= CACHED {
                series.clear();
            }
            let found = self.find(cx, &labels, upstream.is_some(), &disabled);
            found.update(cx, upstream);
            series.insert(key.as_slice().into(), found);
        });
    }

    /// All that decides which series are moved.
    fn write_key(&self, key: &mut Vec<u8>, cx: &RequestCx, labels: &Labels<'_>, contacted: bool, disabled: &[u16]) {
        key.clear();
        key.extend(self.serial.to_ne_bytes());
        key.push(u8::from(contacted));
        for place in [HTTP_STATUS, HTTP_LATENCY, BANDWIDTH] {
            key.extend(disabled[place].to_ne_bytes());
        }
        let mut put = |text: &str| {
            key.extend_from_slice(text.as_bytes());
            // In no UTF-8 text, so values cannot run into each other.
            key.push(0xff);
        };
        let Labels { route, matched_uri, matched_host, service, consumer, node, .. } = labels;
        [labels.code(), route, matched_uri, matched_host, service, consumer, node].into_iter().for_each(&mut put);
        let Labels { request_type, request_llm_model, llm_model, response_source, .. } = labels;
        [*request_type, request_llm_model, llm_model, response_source].into_iter().for_each(&mut put);
        for place in [HTTP_STATUS, HTTP_LATENCY, BANDWIDTH] {
            extra(cx, &self.metrics[place]).iter().for_each(|value| put(value));
        }
    }

    fn find(&self, cx: &RequestCx, labels: &Labels<'_>, contacted: bool, disabled: &[u16]) -> Series {
        let Labels { route, matched_uri, matched_host, service, consumer, node, .. } = *labels;
        let Labels { request_type, request_llm_model, llm_model, response_source, .. } = *labels;
        let code = labels.code();
        let status: [&str; 11] = [
            code, route, matched_uri, matched_host, service, consumer, node, request_type, request_llm_model, llm_model,
            response_source,
        ];
        let typed = |kind| [kind, route, service, consumer, node, request_type, request_llm_model, llm_model];
        let shown = |place: usize, own: &[&'_ str]| -> Vec<String> {
            let value = |(n, value): (usize, &&str)| if disabled[place] & (1 << n) == 0 { (*value).to_owned() } else { String::new() };
            let added = extra(cx, &self.metrics[place]).into_iter().map(Cow::into_owned);
            own.iter().enumerate().map(value).chain(added).collect()
        };
        let counter = |place: usize, family: &Family<Counter>, own: &[&str]| family.with(&texts(&shown(place, own)));
        let latency = |kind| self.latency.with(&texts(&shown(HTTP_LATENCY, &typed(kind))));
        Series {
            status: counter(HTTP_STATUS, &self.status, &status),
            request: latency("request"),
            apisix: latency("apisix"),
            upstream: contacted.then(|| latency("upstream")),
            ingress: counter(BANDWIDTH, &self.bandwidth, &typed("ingress")),
            egress: counter(BANDWIDTH, &self.bandwidth, &typed("egress")),
        }
    }
}

fn texts(values: &[String]) -> Vec<&str> {
    values.iter().map(String::as_str).collect()
}

impl Series {
    fn update(&self, cx: &RequestCx, upstream: Option<Duration>) {
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        let total = cx.timing.total();
        self.status.inc();
        self.request.observe(ms(total));
        self.apisix.observe(ms(total.saturating_sub(upstream.unwrap_or_default())));
        if let (Some(series), Some(spent)) = (&self.upstream, upstream) {
            series.observe(ms(spent));
        }
        self.ingress.add(cx.request.head_bytes + cx.request.body_bytes);
        self.egress.add(cx.response.bytes_sent);
    }
}
