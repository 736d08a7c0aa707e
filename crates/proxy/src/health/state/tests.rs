//! The rules of §4.3 of `docs/spec/resources.md`, and what holds of any reports.

use super::Report::{HttpFailure, Success, TcpFailure, Timeout};
use super::Status::{Healthy, MostlyHealthy, MostlyUnhealthy, Unhealthy};
use super::*;
use proptest::prelude::*;

const USUAL: Thresholds = Thresholds { successes: 2, http_failures: 3, tcp_failures: 2, timeouts: 3 };

/// Status and the counters success, http, tcp, timeout.
type Shown = (Status, [u8; 4]);

fn shown(condition: Condition) -> Shown {
    let Condition { status, success, http_failure, tcp_failure, timeout_failure } = condition;
    (status, [success, http_failure, tcp_failure, timeout_failure])
}

fn check(thresholds: Thresholds, reports: &[(Report, Shown)]) {
    let cell = ConditionCell::new(Condition::default());
    for (n, (report, expected)) in reports.iter().enumerate() {
        let before = cell.load().status.is_usable();
        let turned = cell.report(*report, thresholds);
        assert_eq!(shown(cell.load()), *expected, "after report {n}, {report:?}");
        assert_eq!(turned.is_some(), before != cell.load().status.is_usable());
    }
}

#[test]
fn resources_4_3_1_successes_heal() {
    check(
        USUAL,
        &[
            (Success, (Healthy, [0, 0, 0, 0])),
            (HttpFailure, (MostlyHealthy, [0, 1, 0, 0])),
            (Success, (MostlyHealthy, [1, 0, 0, 0])),
            (Success, (Healthy, [2, 0, 0, 0])),
            (Success, (Healthy, [2, 0, 0, 0])),
            (TcpFailure, (MostlyHealthy, [0, 0, 1, 0])),
            (TcpFailure, (Unhealthy, [0, 0, 2, 0])),
            (Success, (MostlyUnhealthy, [1, 0, 0, 0])),
            (Success, (Healthy, [2, 0, 0, 0])),
        ],
    );
}

#[test]
fn resources_4_3_2_failures_of_one_kind_make_unhealthy() {
    check(
        USUAL,
        &[
            (HttpFailure, (MostlyHealthy, [0, 1, 0, 0])),
            (Timeout, (MostlyHealthy, [0, 1, 0, 1])),
            (TcpFailure, (MostlyHealthy, [0, 1, 1, 1])),
            (TcpFailure, (Unhealthy, [0, 1, 2, 1])),
            (HttpFailure, (Unhealthy, [0, 1, 2, 1])),
            (Success, (MostlyUnhealthy, [1, 0, 0, 0])),
            (HttpFailure, (MostlyUnhealthy, [0, 1, 0, 0])),
            (Success, (MostlyUnhealthy, [1, 0, 0, 0])),
            (Timeout, (MostlyUnhealthy, [0, 0, 0, 1])),
            (Timeout, (MostlyUnhealthy, [0, 0, 0, 2])),
            (Timeout, (Unhealthy, [0, 0, 0, 3])),
        ],
    );
}

#[test]
fn resources_4_3_3_a_threshold_of_zero_ignores_the_report() {
    let none = Thresholds { successes: 0, http_failures: 0, tcp_failures: 1, timeouts: 0 };
    check(
        none,
        &[
            (HttpFailure, (Healthy, [0; 4])),
            (Timeout, (Healthy, [0; 4])),
            (TcpFailure, (Unhealthy, [0, 0, 1, 0])),
            (Success, (Unhealthy, [0, 0, 1, 0])),
        ],
    );
}

#[test]
fn resources_4_3_4_probes_and_traffic_share_the_counters() {
    let cell = ConditionCell::new(Condition::default());
    let traffic = Thresholds { tcp_failures: 5, ..USUAL };
    assert_eq!(cell.report(TcpFailure, traffic), None);
    let turned = cell.report(TcpFailure, USUAL).unwrap();
    assert_eq!(shown(turned), (Unhealthy, [0, 0, 2, 0]));
}

#[test]
fn resources_4_3_5_a_turn_clears_no_counter() {
    check(
        USUAL,
        &[
            (HttpFailure, (MostlyHealthy, [0, 1, 0, 0])),
            (TcpFailure, (MostlyHealthy, [0, 1, 1, 0])),
            (TcpFailure, (Unhealthy, [0, 1, 2, 0])),
            (Success, (MostlyUnhealthy, [1, 0, 0, 0])),
            (Success, (Healthy, [2, 0, 0, 0])),
            (Timeout, (MostlyHealthy, [0, 0, 0, 1])),
        ],
    );
}

#[test]
fn on_trial_one_more_failure_is_enough_and_successes_heal() {
    let cell = ConditionCell::new(Condition::default());
    let all = |reports: &[Report]| {
        for report in reports {
            cell.report(*report, USUAL);
        }
        shown(cell.load())
    };
    assert!(!cell.try_again(), "nothing to try");
    all(&[HttpFailure; 3]);
    assert!(cell.try_again());
    assert_eq!(shown(cell.load()), (MostlyHealthy, [0, 3, 0, 0]));
    assert_eq!(all(&[HttpFailure]), (Unhealthy, [0, 4, 0, 0]));
    assert!(cell.try_again());
    assert_eq!(all(&[Success, HttpFailure]), (MostlyHealthy, [0, 1, 0, 0]));
    assert_eq!(all(&[Success, Success]), (Healthy, [2, 0, 0, 0]));
}

fn any_report() -> impl Strategy<Value = Report> {
    prop::sample::select(vec![Success, HttpFailure, TcpFailure, Timeout])
}

proptest! {
    #[test]
    fn a_condition_is_what_it_was_packed_from(
        status in prop::sample::select(vec![Healthy, MostlyHealthy, MostlyUnhealthy, Unhealthy]), counts: [u8; 4],
    ) {
        let [success, http_failure, tcp_failure, timeout_failure] = counts;
        let condition = Condition { status, success, http_failure, tcp_failure, timeout_failure };
        prop_assert_eq!(Condition::unpack(condition.pack()), condition);
    }

    #[test]
    fn enough_of_one_kind_always_settles(before in prop::collection::vec(any_report(), 0..60)) {
        let cell = ConditionCell::new(Condition::default());
        let all = |reports: &[Report]| {
            for report in reports {
                cell.report(*report, USUAL);
            }
            cell.load().status
        };
        all(&before);
        prop_assert_eq!(all(&[TcpFailure; 2]), Unhealthy);
        prop_assert_eq!(all(&[Success; 2]), Healthy);
    }
}
