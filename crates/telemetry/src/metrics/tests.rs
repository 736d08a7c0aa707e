//! The kit as its users see it: updates go in, a page comes out.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

fn registry() -> Registry {
    Registry::new("t_", 4)
}

#[test]
fn the_page_is_in_the_text_format() {
    let r = registry();
    let requests = r.counter("requests", "Requests.\nBy \\ code", &["code", "route"], Options::default()).unwrap();
    requests.with(&["404", ""]).inc();
    requests.with(&["200", "a\"b\\c\nd"]).add(41);
    requests.with(&["200", "a\"b\\c\nd"]).inc();
    r.gauge("up", "Up", &[], Options::default()).unwrap().get().set(-0.5);
    r.counter("idle", "Nothing yet", &[], Options::default()).unwrap();
    let latency = r.histogram("latency", "Latency", &["type"], &[0.5, 15.0, 55.0], Options::default()).unwrap();
    for ms in [0.1, 0.5, 15.0, 15.5, 100.0, f64::NAN] {
        latency.with(&["request"]).observe(ms);
    }
    let expected = r##"# HELP t_idle Nothing yet
# TYPE t_idle counter
# HELP t_latency Latency
# TYPE t_latency histogram
t_latency_bucket{type="request",le="0.5"} 2
t_latency_bucket{type="request",le="15"} 3
t_latency_bucket{type="request",le="55"} 4
t_latency_bucket{type="request",le="+Inf"} 5
t_latency_sum{type="request"} 131.1
t_latency_count{type="request"} 5
# HELP t_requests Requests.\nBy \\ code
# TYPE t_requests counter
t_requests{code="200",route="a\"b\\c\nd"} 42
t_requests{code="404",route=""} 1
# HELP t_up Up
# TYPE t_up gauge
t_up -0.5
"##;
    assert_eq!(r.render(), expected);
    assert_eq!(r.render(), expected);
}

#[test]
fn a_family_registered_twice_is_one_family() {
    let r = registry();
    let one = r.counter("a", "", &["x"], Options::default()).unwrap();
    let two = r.counter("a", "", &["x"], Options::default()).unwrap();
    one.with(&["1"]).inc();
    two.with(&["1"]).inc();
    assert_eq!(one.with(&["1"]).get(), 2);
    let conflict = Some(MetricError::Conflict("t_a".into()));
    assert_eq!(r.counter("a", "", &["y"], Options::default()).err(), conflict);
    assert_eq!(r.gauge("a", "", &["x"], Options::default()).err(), conflict);
    r.histogram("h", "", &[], &[1.0], Options::default()).unwrap();
    assert!(r.histogram("h", "", &[], &[2.0], Options::default()).is_err());
    assert!(r.histogram("i", "", &[], &[2.0, 1.0], Options::default()).is_err());
    assert_eq!(r.counter("b-c", "", &[], Options::default()).err(), Some(MetricError::Name("t_b-c".into())));
    assert_eq!(r.counter("b", "", &["1x"], Options::default()).err(), Some(MetricError::Name("1x".into())));
}

#[test]
fn an_idle_series_leaves_the_page_and_comes_back_whole() {
    let r = registry();
    let options = Options { expire: Some(Duration::from_secs(10)), max_series: 0 };
    let family = r.counter("a", "", &["x"], options).unwrap();
    let shown = |at: Instant| {
        let page = r.render_at(at);
        page.lines().filter(|l| !l.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
    };
    let held = family.with(&["held"]);
    held.add(5);
    family.with(&["loose"]).inc();
    let start = Instant::now();
    let after = |secs| start + Duration::from_secs(secs);
    assert_eq!(shown(start), ["t_a{x=\"held\"} 5", "t_a{x=\"loose\"} 1"]);
    assert_eq!(shown(after(10)).len(), 2);
    assert!(shown(after(11)).is_empty());
    assert_eq!(family.len(), 1, "the series nobody holds is dropped");
    held.inc();
    family.with(&["loose"]).inc();
    assert_eq!(shown(after(12)), ["t_a{x=\"held\"} 6", "t_a{x=\"loose\"} 1"]);
}

#[test]
fn a_gauge_set_to_the_same_value_is_not_idle() {
    let r = registry();
    let options = Options { expire: Some(Duration::from_secs(1)), max_series: 0 };
    let gauge = r.gauge("g", "", &[], options).unwrap().get();
    let start = Instant::now();
    for secs in 0..5 {
        gauge.set(1.0);
        assert!(r.render_at(start + Duration::from_secs(secs * 2)).contains("t_g 1\n"));
    }
}

#[test]
fn a_full_family_counts_the_rest_together() {
    let r = registry();
    let family = r.counter("a", "", &["x", "y"], Options { expire: None, max_series: 2 }).unwrap();
    for x in ["1", "2", "3", "4", "1"] {
        family.with(&[x, ""]).inc();
    }
    assert_eq!(family.with(&["1", ""]).get(), 2);
    assert_eq!(family.with(&["_overflow", "_overflow"]).get(), 2);
    assert_eq!((family.len(), r.overflowed()), (3, 2));
}

#[test]
fn what_is_gone_can_be_dropped() {
    let family = registry().gauge("a", "", &["x"], Options::default()).unwrap();
    family.with(&["1"]).set(1.0);
    family.with(&["2"]).set(1.0);
    family.retain(|values| &*values[0] == "2");
    assert_eq!(family.len(), 1);
}

#[test]
fn label_text_is_cut_where_it_stops_being_text() {
    for (bytes, text) in [(&b"abc"[..], "abc"), (b"ab\xff", "ab"), (b"\xe4\xb8", ""), ("\u{e9}x".as_bytes(), "\u{e9}x")]
    {
        assert_eq!(label_text(bytes), text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever threads do at once, also while the page is made and series expire, nothing is lost.
    #[test]
    fn concurrent_updates_are_never_lost(plans in prop::collection::vec(prop::collection::vec((0_u8..4, 1_u64..5), 1..200), 1..6)) {
        let r = registry();
        let options = Options { expire: Some(Duration::ZERO), max_series: 0 };
        let counters = r.counter("c", "", &["x"], Options::default()).unwrap();
        let expiring = r.counter("e", "", &["x"], options).unwrap();
        let held: Vec<_> = (0..4_u8).map(|x| expiring.with(&[&x.to_string()])).collect();
        let histogram = r.histogram("h", "", &[], &[2.0], Options::default()).unwrap().get();
        let gauge = r.gauge("g", "", &[], Options::default()).unwrap().get();
        let run = &|plan: &[(u8, u64)]| for (x, n) in plan {
            let label = x.to_string();
            counters.with(&[&label]).add(*n);
            expiring.with(&[&label]).add(*n);
            histogram.observe(2.0 * f64::from(*x));
            gauge.inc();
        };
        std::thread::scope(|scope| {
            for plan in &plans {
                scope.spawn(move || run(plan));
            }
            scope.spawn(|| for secs in 0..20 {
                r.render_at(Instant::now() + Duration::from_secs(secs));
            });
        });
        let all: Vec<_> = plans.concat();
        for x in 0..4_u8 {
            let expected: u64 = all.iter().filter(|(y, _)| *y == x).map(|(_, n)| n).sum();
            prop_assert_eq!(counters.with(&[&x.to_string()]).get(), expected);
            prop_assert_eq!(held[usize::from(x)].get(), expected);
        }
        prop_assert_eq!(histogram.count(), all.len() as u64);
        prop_assert_eq!(histogram.sum(), all.iter().map(|(x, _)| 2.0 * f64::from(*x)).sum::<f64>());
        prop_assert_eq!(gauge.get(), all.len() as f64);
    }
}
