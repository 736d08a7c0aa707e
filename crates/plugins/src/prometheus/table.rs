//! The metrics that have labels of their own (`docs/spec/plugins/prometheus.md`, "Metrics").

/// A metric whose labels metadata may switch off.
pub(super) struct Metric {
    /// Name without prefix.
    pub(super) name: &'static str,
    /// Labels in order.
    pub(super) labels: &'static [&'static str],
    /// Labels without which the metric says nothing; they cannot be switched off.
    pub(super) structural: &'static [&'static str],
}

/// Places in [`METRICS`] of those that this gateway moves.
pub(super) const HTTP_STATUS: usize = 0;
/// See [`HTTP_STATUS`].
pub(super) const HTTP_LATENCY: usize = 1;
/// See [`HTTP_STATUS`].
pub(super) const BANDWIDTH: usize = 2;

/// Labels of the counters of tokens.
const TOKENS: &[&str] =
    &["route_id", "service_id", "consumer", "node", "request_type", "request_llm_model", "llm_model"];

/// Labels of the counters of the AI cache.
const CACHE: &[&str] = &[
    "route",
    "route_id",
    "service",
    "service_id",
    "consumer",
    "node",
    "request_type",
    "request_llm_model",
    "llm_model",
];

/// All, also those that only AI plugins move: metadata may name them.
pub(super) const METRICS: &[Metric] = &[
    Metric {
        name: "http_status",
        labels: &[
            "code",
            "route",
            "matched_uri",
            "matched_host",
            "service",
            "consumer",
            "node",
            "request_type",
            "request_llm_model",
            "llm_model",
            "response_source",
        ],
        structural: &["code"],
    },
    Metric { name: "http_latency", labels: TYPED, structural: &["type"] },
    Metric { name: "bandwidth", labels: TYPED, structural: &["type"] },
    Metric {
        name: "llm_latency",
        labels: &[
            "type",
            "route_id",
            "service_id",
            "consumer",
            "node",
            "request_type",
            "request_llm_model",
            "llm_model",
        ],
        structural: &["type"],
    },
    Metric { name: "llm_prompt_tokens", labels: TOKENS, structural: &[] },
    Metric { name: "llm_completion_tokens", labels: TOKENS, structural: &[] },
    Metric { name: "llm_prompt_tokens_dist", labels: TOKENS, structural: &[] },
    Metric { name: "llm_completion_tokens_dist", labels: TOKENS, structural: &[] },
    Metric {
        name: "llm_active_connections",
        labels: &[
            "route",
            "route_id",
            "matched_uri",
            "matched_host",
            "service",
            "service_id",
            "consumer",
            "node",
            "request_type",
            "request_llm_model",
            "llm_model",
        ],
        structural: &[],
    },
    Metric {
        name: "ai_cache_hits_total",
        labels: &[
            "layer",
            "route",
            "route_id",
            "service",
            "service_id",
            "consumer",
            "node",
            "request_type",
            "request_llm_model",
            "llm_model",
        ],
        structural: &["layer"],
    },
    Metric { name: "ai_cache_misses_total", labels: CACHE, structural: &[] },
    Metric { name: "ai_cache_bypasses_total", labels: CACHE, structural: &[] },
    Metric { name: "ai_cache_embedding_latency", labels: CACHE, structural: &[] },
];

const TYPED: &[&str] =
    &["type", "route", "service", "consumer", "node", "request_type", "request_llm_model", "llm_model"];
