//! Least connections (`docs/spec/upstream-balancing.md` §4.3).
//!
//! What is counted are requests from the pick to their end, by this worker. The counts are kept by node, not by list, so that
//! they survive a change of the list.

use super::weights::{Member, in_rotation};
use milecastle_snapshot::CompiledNode;
use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// Requests with one node.
pub(super) type InFlight = Rc<Cell<u32>>;

/// One request among those with a node, for as long as it is held.
#[derive(Debug)]
pub(super) struct Counted(InFlight);

impl Counted {
    pub(super) fn new(in_flight: &InFlight) -> Self {
        in_flight.update(|count| count + 1);
        Self(in_flight.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.update(|count| count - 1);
    }
}

/// Host, port and tier.
type NodeKey = (Arc<str>, u16, i32);

/// The counts of one upstream's nodes, also of those that have left its list and still have requests.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts(HashMap<NodeKey, InFlight>);

impl Counts {
    /// The counts of `nodes`, by place. Those of nodes that left are kept for as long as they have requests.
    pub(super) fn of(&mut self, nodes: &[CompiledNode]) -> Vec<InFlight> {
        let known = |node: &CompiledNode| (node.host.clone(), node.port, node.priority);
        let counts = nodes.iter().map(|node| self.0.entry(known(node)).or_default().clone()).collect();
        self.0.retain(|_, count| Rc::strong_count(count) > 1);
        counts
    }
}

/// One tier.
#[derive(Debug)]
pub(super) struct LeastConn {
    members: Vec<Member>,
    /// Where the next scan starts: among equals the turn goes round.
    next: Cell<usize>,
}

impl LeastConn {
    pub(super) fn new(members: Vec<Member>, seed: usize) -> Self {
        let members = in_rotation(members);
        let next = seed.checked_rem(members.len()).unwrap_or_default();
        Self { members, next: Cell::new(next) }
    }

    /// The `free` place with the lowest (requests + 1) / weight.
    pub(super) fn pick(&self, in_flight: &[InFlight], free: impl Fn(usize) -> bool) -> Option<usize> {
        let start = self.next.get();
        let (before, from) = self.members.split_at(start);
        let mut best: Option<(usize, &Member, u64)> = None;
        for (at, member) in (start..).zip(from).chain((0..).zip(before)) {
            if !free(member.place) {
                continue;
            }
            let load = u64::from(in_flight[member.place].get()) + 1;
            let lower = |(_, other, others): (usize, &Member, u64)| {
                load * u64::from(other.weight) < others * u64::from(member.weight)
            };
            if best.is_none_or(lower) {
                best = Some((at, member, load));
            }
        }
        let (at, chosen, _) = best?;
        self.next.set((at + 1) % self.members.len());
        Some(chosen.place)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::nodes;
    use super::*;
    use proptest::prelude::*;

    fn tier(weights: &[u32]) -> (LeastConn, Vec<InFlight>) {
        let members = (0..).zip(weights).map(|(place, weight)| Member { place, weight: *weight }).collect();
        (LeastConn::new(members, 0), weights.iter().map(|_| InFlight::default()).collect())
    }

    /// Picks a place and leaves the request in flight.
    fn take(tier: &LeastConn, in_flight: &[InFlight]) -> usize {
        let place = tier.pick(in_flight, |_| true).unwrap();
        in_flight[place].update(|count| count + 1);
        place
    }

    #[test]
    fn the_least_loaded_for_its_weight_wins() {
        let (tier, in_flight) = tier(&[1, 2, 0]);
        let picks: Vec<usize> = (0..6).map(|_| take(&tier, &in_flight)).collect();
        assert_eq!((in_flight[0].get(), in_flight[1].get(), in_flight[2].get()), (2, 4, 0), "{picks:?}");
        in_flight[0].set(0);
        assert_eq!(take(&tier, &in_flight), 0);
        assert_eq!(tier.pick(&in_flight, |place| place == 1), Some(1));
        assert_eq!(tier.pick(&in_flight, |_| false), None);
    }

    #[test]
    fn among_equals_the_turn_goes_round() {
        let (tier, in_flight) = tier(&[0, 0, 0]);
        let idle: Vec<usize> = (0..6).map(|_| tier.pick(&in_flight, |_| true).unwrap()).collect();
        assert_eq!(idle, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn counts_stay_with_their_node() {
        let mut counts = Counts::default();
        let before = counts.of(&nodes(&[("a:1", 1, 0), ("b:1", 1, 0)]));
        let request = before[1].clone();
        request.set(1);
        drop(before);
        let after = counts.of(&nodes(&[("c:1", 1, 0)]));
        assert_eq!((after.len(), counts.0.len()), (1, 2), "a has no request and is forgotten");
        assert_eq!(
            counts.of(&nodes(&[("b:1", 9, 0), ("b:1", 9, -1)])).iter().map(|n| n.get()).collect::<Vec<_>>(),
            [1, 0]
        );
    }

    proptest! {
        #[test]
        fn no_other_place_is_better(
            load in prop::collection::vec((1_u32..100, 0_u32..50), 1..7), rounds in 1_usize..20,
        ) {
            let (tier, in_flight) = tier(&load.iter().map(|(weight, _)| *weight).collect::<Vec<_>>());
            in_flight.iter().zip(&load).for_each(|(count, (_, load))| count.set(*load));
            for _ in 0..rounds {
                let score = |place: usize| f64::from(in_flight[place].get() + 1) / f64::from(load[place].0);
                let chosen = tier.pick(&in_flight, |_| true).unwrap();
                prop_assert!((0..load.len()).all(|place| score(chosen) <= score(place) + 1e-9));
                in_flight[chosen].update(|count| count + 1);
            }
        }
    }
}
