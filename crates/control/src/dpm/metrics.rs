//! What a DP manager counts.

use milecastle_telemetry::metrics::{Counter, Family, Gauge, MetricError, Options, Registry};

/// The families; labels are group ids and words of this crate, never a client's.
pub(super) struct Metrics {
    /// Open streams, by `group`.
    pub(super) streams: Family<Gauge>,
    /// Streams that were not let in, by `reason`.
    pub(super) turned_away: Family<Counter>,
    /// Messages handed to the transport, by `group` and `kind`.
    pub(super) messages: Family<Counter>,
    /// Bytes of those, before TLS, by `group`.
    pub(super) bytes: Family<Counter>,
    /// Deltas sent whole, by `group`.
    pub(super) deltas: Family<Counter>,
    /// Snapshots sent whole, by `group` and `why`.
    pub(super) snapshots: Family<Counter>,
    /// Steps that nodes refused, or whose digest was not theirs, by `group` and `fault`.
    pub(super) refusals: Family<Counter>,
    /// Lines of nodes' logs for which there was no room, by `group`.
    pub(super) dropped_warnings: Family<Counter>,
    /// Joins and renewals, by `call` and `result`.
    pub(super) joins: Family<Counter>,
    /// Connections that a limit has ended, by `why`: see [`milecastle_settings::DpLimits`].
    pub(super) ended: Family<Counter>,
    /// Calls that were not let in, by the `code` of gRPC.
    pub(super) refused: Family<Counter>,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, MetricError> {
        let counter = |name, help, labels: &[&str]| registry.counter(name, help, labels, Options::default());
        Ok(Self {
            streams: registry.gauge("dp_streams", "Configuration streams open.", &["group"], Options::default())?,
            turned_away: counter("dp_streams_turned_away_total", "Streams that were not let in.", &["reason"])?,
            messages: counter("dp_messages_sent_total", "Messages sent to gateway nodes.", &["group", "kind"])?,
            bytes: counter("dp_bytes_sent_total", "Bytes of messages sent to gateway nodes.", &["group"])?,
            deltas: counter("dp_deltas_sent_total", "Deltas sent to gateway nodes.", &["group"])?,
            snapshots: counter("dp_snapshots_sent_total", "Snapshots sent to gateway nodes.", &["group", "why"])?,
            refusals: counter("dp_refusals_total", "Steps that gateway nodes did not take.", &["group", "fault"])?,
            dropped_warnings: counter(
                "dp_node_warnings_dropped_total",
                "Lines of logs of gateway nodes for which there was no room.",
                &["group"],
            )?,
            joins: counter("dp_joins_total", "Certificates asked for by gateway nodes.", &["call", "result"])?,
            ended: counter("dp_connections_ended_total", "Connections that a limit has ended.", &["why"])?,
            refused: counter("dp_calls_refused_total", "Calls that were answered with an error at once.", &["code"])?,
        })
    }

    /// Lets go of what is counted for groups that are no more.
    pub(super) fn forget_group(&self, group: &str) {
        let other = |labels: &[Box<str>]| labels.first().is_none_or(|label| **label != *group);
        self.streams.retain(other);
        let counters =
            [&self.messages, &self.bytes, &self.deltas, &self.snapshots, &self.refusals, &self.dropped_warnings];
        for family in counters {
            family.retain(other);
        }
    }
}
