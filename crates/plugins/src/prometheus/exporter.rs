//! The families of the metrics, and the way from a request to their series.
//!
//! Finding five series by eleven labels for each request would be most of this plugin's cost. So each worker keeps the
//! handles that it has used, by all that decides the labels. What comes from the snapshot and the balancer is told apart by
//! its address, so that a hit hashes eight numbers and touches no label's text; what is remembered by address is kept
//! alive, so that the address is not used again for something else.

use super::config::{Disabled, MetricSettings, Settings};
use super::labels::{Labels, extra, varying};
use super::table::{BANDWIDTH, HTTP_LATENCY, HTTP_STATUS, METRICS};
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use milecastle_matching::PathPattern;
use milecastle_plugin_api::{RequestCx, RouteInfo};
use milecastle_telemetry::metrics::{Counter, Family, Handle, Histogram, MetricError, Options, Registry};
use std::borrow::Cow;
use std::cell::RefCell;
use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Milliseconds.
const LATENCY_BUCKETS: [f64; 15] =
    [1., 2., 5., 10., 20., 50., 100., 200., 500., 1000., 2000., 5000., 10000., 30000., 60000.];

/// Most series of a family; label values come from clients in part. Beyond it, series are counted together.
const MAX_SERIES: usize = 100_000;

/// Most sets of handles that a worker keeps; then it begins anew.
const CACHED: usize = 8192;

/// The metrics that this gateway moves.
const MOVED: [usize; 3] = [HTTP_STATUS, HTTP_LATENCY, BANDWIDTH];

/// The families.
pub(super) struct Exporter {
    /// Tells this exporter's handles from another's in the workers' caches.
    serial: u64,
    status: Family<Counter>,
    latency: Family<Histogram>,
    bandwidth: Family<Counter>,
    metrics: [MetricSettings; METRICS.len()],
    /// Some series has labels beyond the specified ones.
    extended: bool,
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
    known: HashTable<Known>,
    hasher: RandomState,
    /// Room for [`Known::varying`] of the request at hand.
    varying: Vec<u8>,
}

/// Handles that were used, and by whom.
struct Known {
    place: Place,
    /// Label values that are texts of the request itself. Empty for nearly all.
    varying: Box<[u8]>,
    series: Series,
    _held: Held,
}

/// What stands at the addresses of a [`Place`].
struct Held {
    _route: Option<Arc<RouteInfo>>,
    _uri: Option<Arc<PathPattern>>,
    _texts: [Option<Arc<str>>; 2],
    _node: Option<Rc<str>>,
}

/// All that decides the labels, but for what varies: addresses and numbers.
type Place = [u64; 8];

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
            extended: MOVED.iter().any(|place| !settings.metrics[*place].extra_labels.is_empty()),
            metrics: settings.metrics,
        })
    }

    /// Whether labels may be taken from the answer's fields.
    pub(super) fn reads_head(&self) -> bool {
        self.extended
    }

    /// Counts a request that is over.
    pub(super) fn count(&self, cx: &RequestCx, prefer_name: bool, disabled: Option<&Disabled>) {
        let disabled = disabled.map_or([0; METRICS.len()], |disabled| disabled.0);
        let upstream = cx.upstream.total();
        let place = self.place(cx, prefer_name, &disabled, upstream.is_some());
        CACHE.with_borrow_mut(|Cache { known, hasher, varying }| {
            self.write_varying(varying, cx);
            let hash = |place: &Place, varying: &[u8]| match varying {
                [] => hasher.hash_one(place),
                _ => hasher.hash_one((place, varying)),
            };
            let hashed = hash(&place, varying);
            if let Some(found) = known.find(hashed, |one| one.place == place && *one.varying == **varying) {
                return found.series.update(cx, upstream);
            }
            if known.len() >= CACHED {
                known.clear();
            }
            let series = self.find(cx, &Labels::of(cx, prefer_name), upstream.is_some(), &disabled);
            series.update(cx, upstream);
            let new = Known { place, varying: varying.as_slice().into(), series, _held: Held::of(cx) };
            known.insert_unique(hashed, new, |one| hash(&one.place, &one.varying));
        });
    }

    fn place(&self, cx: &RequestCx, prefer_name: bool, disabled: &[u16], contacted: bool) -> Place {
        let route = address(cx.route.as_ref());
        let uri = address(cx.matched_uri.as_ref());
        let [host, consumer] = texts_of(cx).map(address);
        let node = node_of(cx).map_or(0, |node| Rc::as_ptr(node).cast::<u8>() as u64);
        let source = cx.response.source as u64;
        let flags = u64::from(contacted) | u64::from(prefer_name) << 1 | source << 2;
        let [status, latency, bandwidth] = MOVED.map(|place| u64::from(disabled[place]));
        let facts = u64::from(cx.response.logged_status()) << 8 | flags;
        [self.serial, route, uri, host, consumer, node, facts, status << 32 | latency << 16 | bandwidth]
    }

    /// Lays out the label values that are the request's own.
    fn write_varying(&self, out: &mut Vec<u8>, cx: &RequestCx) {
        out.clear();
        let given = varying(cx);
        if !self.extended && given.iter().all(Option::is_none) {
            return;
        }
        let mut put = |text: &str| {
            out.extend_from_slice(text.as_bytes());
            // In no UTF-8 text, so values cannot run into each other.
            out.push(0xff);
        };
        given.into_iter().for_each(|text| put(text.unwrap_or_default()));
        for place in MOVED {
            extra(cx, &self.metrics[place]).iter().for_each(|value| put(value));
        }
    }

    fn find(&self, cx: &RequestCx, labels: &Labels<'_>, contacted: bool, disabled: &[u16]) -> Series {
        let Labels { route, matched_uri, matched_host, service, consumer, node, .. } = *labels;
        let Labels { request_type, request_llm_model, llm_model, response_source, .. } = *labels;
        let code = labels.code();
        let status: [&str; 11] = [
            code,
            route,
            matched_uri,
            matched_host,
            service,
            consumer,
            node,
            request_type,
            request_llm_model,
            llm_model,
            response_source,
        ];
        let typed = |kind| [kind, route, service, consumer, node, request_type, request_llm_model, llm_model];
        let shown = |place: usize, own: &[&'_ str]| -> Vec<String> {
            let value = |(n, value): (usize, &&str)| {
                if disabled[place] & (1 << n) == 0 { (*value).to_owned() } else { String::new() }
            };
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

/// 0 for nothing, which no address is.
fn address<T: ?Sized>(what: Option<&Arc<T>>) -> u64 {
    what.map_or(0, |what| Arc::as_ptr(what).cast::<u8>() as u64)
}

/// The texts that labels are made of and that live beyond the request.
fn texts_of(cx: &RequestCx) -> [Option<&Arc<str>>; 2] {
    [cx.matched_host.as_ref(), cx.consumer.as_ref().map(|consumer| &consumer.name)]
}

/// The node that was tried last; its text lives beyond the request as well.
fn node_of(cx: &RequestCx) -> Option<&Rc<str>> {
    cx.upstream.last().map(|attempt| &attempt.node)
}

impl Held {
    fn of(cx: &RequestCx) -> Self {
        Self {
            _route: cx.route.clone(),
            _uri: cx.matched_uri.clone(),
            _texts: texts_of(cx).map(Option::<&Arc<str>>::cloned),
            _node: node_of(cx).cloned(),
        }
    }
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
