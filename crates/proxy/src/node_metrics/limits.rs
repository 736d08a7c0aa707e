//! How often those limits have bitten that have no metric of their own, by the key that sets each.

use super::traffic::{Mirrored, Read};
use milecastle_telemetry::metrics::{Counter, Family, MetricError, Registry};

/// The label of `limits.control_answers`, which is counted where answers of the control API are made.
pub(crate) const CONTROL_ANSWERS: &str = "limits.control_answers";
/// The label of `limits.export_answer`, which is counted where those answers are read.
pub(super) const EXPORT_ANSWER: &str = "limits.export_answer";

/// The label of sessions of TLS that were forgotten before their time.
pub(super) const SESSION_CACHE: &str = "apisix.ssl.ssl_session_cache";

/// The family of all of them: the same one, whenever it is registered.
///
/// # Errors
/// The metric's name is taken by one of another kind.
pub(crate) fn family(registry: &Registry) -> Result<Family<Counter>, MetricError> {
    let family = registry.limit_hits()?;
    for limit in [CONTROL_ANSWERS, EXPORT_ANSWER, SESSION_CACHE] {
        // Shown from the start, as 0.
        family.with(&[limit]);
    }
    Ok(family)
}

/// Those that the workers count.
pub(super) fn of_workers(registry: &Registry) -> Result<Vec<Mirrored>, MetricError> {
    let family = family(registry)?;
    let limits: [(&str, Read); 15] = [
        ("limits.http2_streams", |t| t.http2_streams_refused),
        ("limits.http3_connection_window", |t| t.http3_bodies_refused),
        ("limits.matched_body", |t| t.matched_bodies_cut),
        ("limits.retry_body", |t| t.retry_bodies_cut),
        ("limits.upstream_header_bytes", |t| t.upstream_heads_too_long),
        ("limits.upstream_header_count", |t| t.upstream_heads_too_many_fields),
        ("nginx_config.http.client_body_timeout", |t| t.slow_bodies),
        ("nginx_config.http.client_max_body_size", |t| t.large_bodies),
        // Streams of HTTP/2 and HTTP/3 that are given up have metrics of their own.
        ("nginx_config.http.send_timeout", |t| t.stuck_answers),
        ("timeouts.http2_ping", |t| t.http2_silent),
        ("timeouts.http3_silence", |t| t.http3_silent),
        ("timeouts.stream_preread", |t| t.stream_preread_late),
        ("timeouts.tls_handshake", |t| t.tls_late),
        ("timeouts.upstream_http2_ping", |t| t.upstream_http2_silent),
        ("upstream_pool.idle_connections", |t| t.idle_connections_cut),
    ];
    Ok(limits.into_iter().map(|(limit, read)| (family.with(&[limit]), read)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::register_metrics;
    use milecastle_settings::{Gateway, Limits, Timeouts};
    use milecastle_telemetry::metrics::FamilySnapshot;
    use serde_json::Value;
    use std::collections::BTreeSet;

    /// Keys whose limit has a metric of its own.
    const OWN: [(&str, &str); 30] = [
        ("limits.connections", "connections_held_total"),
        ("limits.hash_ring_points", "hash_rings_cut_total"),
        ("limits.header_bytes", "bad_request_heads_total"),
        ("limits.header_count", "bad_request_heads_total"),
        ("limits.http2_cancels", "http2_cancels_cut_total"),
        ("limits.http2_control_frames", "http2_control_frames_cut_total"),
        ("limits.http2_empty_data", "http2_excess_total"),
        ("limits.http2_pending_resets", "http2_excess_total"),
        ("limits.http3_cancels", "http3_cancels_cut_total"),
        ("limits.http3_control_frames", "http3_control_frames_cut_total"),
        ("limits.http3_handshakes", "http3_retries_total"),
        ("limits.lingering_bytes", "lingering_cut_total"),
        ("limits.pending_log_entries", "access_log_dropped_lines_total"),
        ("limits.pipes", "pipes_short_total"),
        ("limits.side_connections", "side_connections_ended_total"),
        ("limits.side_header_bytes", "side_connections_ended_total"),
        ("limits.stream_preread", "stream_preread_cut_total"),
        ("limits.udp_pending", "udp_datagrams_dropped_total"),
        ("limits.udp_sessions", "udp_sessions_refused_total"),
        ("limits.upstream_http2_connections", "upstream_http2_no_room_total"),
        ("limits.upstream_http2_streams", "upstream_http2_no_room_total"),
        ("timeouts.connection_place", "connections_evicted_total"),
        ("timeouts.lingering_time", "lingering_cut_total"),
        ("timeouts.lingering_timeout", "lingering_cut_total"),
        ("timeouts.proxy_protocol", "bad_proxy_headers_total"),
        ("timeouts.side_header", "side_connections_ended_total"),
        ("timeouts.side_place", "side_connections_ended_total"),
        ("nginx_config.http.client_header_timeout", "slow_request_heads_total"),
        ("nginx_config.http.send_timeout", "http2_stuck_streams_total"),
        ("nginx_config.http.send_timeout", "http3_stuck_streams_total"),
    ];

    /// Keys of other sections that are limits.
    const ELSEWHERE: [&str; 2] = ["apisix.ssl.ssl_session_cache", "upstream_pool.idle_connections"];

    /// Keys whose limit refuses, drops and cuts nothing, and why.
    const UNCOUNTED: [(&str, &str); 9] = [
        ("limits.http2_send_buffer", "answers wait for their client"),
        ("limits.http2_shared_window", "the client waits for whoever reads"),
        ("limits.http2_stream_window", "the client waits for whoever reads"),
        ("limits.http3_send_buffer", "answers wait for their client"),
        ("limits.http3_stream_window", "the client waits for whoever reads"),
        ("limits.http3_streams", "QUIC lets no client open more"),
        ("limits.upstream_http2_send_buffer", "the body waits for the upstream"),
        ("limits.upstream_http2_window", "the upstream waits for the client"),
        ("timeouts.deferred_accept", "the system keeps the connection back, and shows no count"),
    ];

    fn members<'s>(section: &'s str, of: &'s Value) -> impl Iterator<Item = String> + 's {
        of.as_object().into_iter().flatten().map(move |(key, _)| format!("{section}.{key}"))
    }

    #[test]
    fn every_limit_has_a_metric_or_a_reason_for_having_none() {
        let registry = Registry::new("", 1);
        register_metrics(&registry, &Gateway::default().plugin_attr.prometheus).unwrap();
        let families = registry.snapshot();
        let find = |name: &str| families.iter().find(|family| family.name == name);
        for (key, metric) in OWN {
            assert!(find(metric).is_some(), "{metric}, which {key} has, is no metric of a node");
        }
        let FamilySnapshot { series, .. } = find("limit_hits_total").expect("it is registered");
        let labels: BTreeSet<&str> = series.iter().map(|(labels, _)| &*labels[0]).collect();
        let told: BTreeSet<&str> =
            OWN.iter().chain(&UNCOUNTED).map(|(key, _)| *key).chain(labels.iter().copied()).collect();
        let settings = serde_json::to_value(Gateway::default()).unwrap();
        let (limits, timeouts) = (serde_json::to_value(Limits::default()), serde_json::to_value(Timeouts::default()));
        let (limits, timeouts) = (limits.unwrap(), timeouts.unwrap());
        let keys = members("limits", &limits).chain(members("timeouts", &timeouts));
        let keys: BTreeSet<String> = keys.chain(ELSEWHERE.map(str::to_owned)).collect();
        for key in &keys {
            assert!(told.contains(&**key), "{key}: count what it refuses, drops or cuts, or say here why it does not");
        }
        for key in told {
            let pointer = format!("/{}", key.replace('.', "/"));
            assert!(settings.pointer(&pointer).is_some(), "{key} is no key of the gateway's file");
        }
        for (key, _) in UNCOUNTED {
            assert!(!labels.contains(key), "{key} is counted");
        }
    }
}
