//! Metrics as OTLP has them, and pushing them.

use super::{OtlpClient, OtlpSettings, proto, resource, scope, text, unix_nanos};
use crate::Background;
use milecastle_telemetry::metrics::{Counter, FamilySnapshot, Handle, Sample};
use proto::collector::metrics::v1::ExportMetricsServiceRequest;
use proto::common::v1::KeyValue;
use proto::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, metric, number_data_point,
};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Everything is counted from the start of the process.
const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;

/// When something was counted: from, and until.
#[derive(Clone, Copy)]
struct Span {
    start: u64,
    now: u64,
}

/// Pushes what `collect` gives to a collector, each `interval` and once more when the process ends. `about` describes the
/// process. What does not get through is counted, and is told by the next push: all figures are sums since the start.
pub fn push_metrics(
    background: &Arc<Background>,
    settings: OtlpSettings,
    interval: Duration,
    about: Vec<KeyValue>,
    failures: Handle<Counter>,
    collect: impl Fn() -> Vec<FamilySnapshot> + Send + Sync + 'static,
) {
    let mut client = OtlpClient::new(background.clone(), settings);
    let mut ending = background.ending();
    let start = unix_nanos(SystemTime::now());
    let collect = Arc::new(collect);
    background.spawn(async move {
        let mut failing = false;
        loop {
            let last = tokio::select! {
                () = tokio::time::sleep(interval) => false,
                changed = ending.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return,
                },
            };
            let collect = collect.clone();
            // Making the figures may take a while.
            let Ok(families) = tokio::task::spawn_blocking(move || collect()).await else { return };
            let pushed = client.export(&message(&families, about.clone(), start)).await;
            if let Err(reason) = &pushed {
                failures.inc();
                // Once for each time that it begins to fail.
                if !failing {
                    tracing::warn!(reason, "metrics could not be pushed to the OpenTelemetry collector");
                }
            }
            failing = pushed.is_err();
            if last {
                return;
            }
        }
    });
}

fn message(families: &[FamilySnapshot], about: Vec<KeyValue>, start: u64) -> ExportMetricsServiceRequest {
    let span = Span { start, now: unix_nanos(SystemTime::now()) };
    let metrics = families.iter().map(|family| metric(family, span)).collect();
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope("milecastle")), metrics, ..ScopeMetrics::default() }];
    let resource = Some(resource(about));
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }],
    }
}

fn metric(family: &FamilySnapshot, span: Span) -> Metric {
    let series = || {
        family.series.iter().map(|(values, sample)| {
            let labels = family.labels.iter().zip(values).map(|(name, value)| text(name, &**value));
            (labels.collect::<Vec<_>>(), sample)
        })
    };
    let numbers = || series().filter_map(|(labels, sample)| number(labels, sample, span)).collect();
    let data = match family.kind {
        "counter" => {
            metric::Data::Sum(Sum { data_points: numbers(), aggregation_temporality: CUMULATIVE, is_monotonic: true })
        }
        "histogram" => metric::Data::Histogram(Histogram {
            data_points: series().filter_map(|(labels, sample)| histogram(labels, sample, span)).collect(),
            aggregation_temporality: CUMULATIVE,
        }),
        _ => metric::Data::Gauge(Gauge { data_points: numbers() }),
    };
    Metric { name: family.name.clone(), description: family.help.clone(), data: Some(data), ..Metric::default() }
}

fn number(attributes: Vec<KeyValue>, sample: &Sample, span: Span) -> Option<NumberDataPoint> {
    let (start, value) = match sample {
        Sample::Count(count) => {
            (span.start, number_data_point::Value::AsInt(i64::try_from(*count).unwrap_or(i64::MAX)))
        }
        // A gauge begins nowhere.
        Sample::Number(number) => (0, number_data_point::Value::AsDouble(*number)),
        Sample::Buckets { .. } => return None,
    };
    Some(NumberDataPoint {
        attributes,
        start_time_unix_nano: start,
        time_unix_nano: span.now,
        value: Some(value),
        ..NumberDataPoint::default()
    })
}

fn histogram(attributes: Vec<KeyValue>, sample: &Sample, span: Span) -> Option<HistogramDataPoint> {
    let Sample::Buckets { bounds, counts, sum } = sample else { return None };
    Some(HistogramDataPoint {
        attributes,
        start_time_unix_nano: span.start,
        time_unix_nano: span.now,
        count: counts.iter().sum(),
        sum: Some(*sum),
        bucket_counts: counts.clone(),
        explicit_bounds: bounds.to_vec(),
        ..HistogramDataPoint::default()
    })
}
