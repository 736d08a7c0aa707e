//! Consistent hash (`docs/spec/upstream-balancing.md` §4.2).

use super::weights::{Member, gcd};
use milecastle_snapshot::CompiledNode;

/// Points of a node for each unit of its reduced weight.
const POINTS_PER_WEIGHT: u64 = 160;

/// The ring of one tier. Nodes that cannot be chosen now stay on it, so that the others keep their keys.
#[derive(Debug)]
pub(super) struct Ring {
    /// Value and place of each point, by value.
    points: Vec<(u32, usize)>,
    /// Nodes have fewer points than their weights ask for.
    pub(super) is_cut: bool,
}

impl Ring {
    /// The ring over `members`. Where their weights ask for more than `most` points, all get fewer, in proportion; each node
    /// with a weight keeps one at least.
    pub(super) fn new(members: &[Member], nodes: &[CompiledNode], most: u64) -> Self {
        let divisor = members.iter().fold(0, |divisor, member| gcd(divisor, member.weight)).max(1);
        let wanted = |member: &Member| POINTS_PER_WEIGHT * u64::from(member.weight / divisor);
        let total = members.iter().map(wanted).fold(0, u64::saturating_add);
        let mut points = Vec::with_capacity(usize::try_from(total.min(most)).unwrap_or_default());
        for member in members.iter().filter(|member| member.weight > 0) {
            let count = if total <= most { wanted(member) } else { share(wanted(member), most, total) };
            let mut base = crc32fast::Hasher::new();
            base.update(identity(&nodes[member.place]).as_bytes());
            let mut value = 0_u32;
            for _ in 0..count {
                let mut point = base.clone();
                point.update(&value.to_le_bytes());
                value = point.finalize();
                points.push((value, member.place));
            }
        }
        points.sort_by_key(|(value, _)| *value);
        Self { points, is_cut: total > most }
    }

    /// The place of the first point from `hash` on that is `free`, clockwise.
    pub(super) fn pick(&self, hash: u32, free: impl Fn(usize) -> bool) -> Option<usize> {
        let start = self.points.partition_point(|(value, _)| *value < hash);
        let (before, from) = self.points.split_at(start);
        from.iter().chain(before).map(|(_, place)| *place).find(|place| free(*place))
    }
}

/// `wanted` of `total`, scaled down to `most`.
fn share(wanted: u64, most: u64, total: u64) -> u64 {
    let scaled = u128::from(wanted) * u128::from(most) / u128::from(total);
    u64::try_from(scaled).unwrap_or(most).max(1)
}

/// Host and port of a node, every `:` a NUL.
fn identity(node: &CompiledNode) -> String {
    let host = if node.host.contains(':') { format!("[{}]", node.host) } else { node.host.to_string() };
    format!("{host}:{}", node.port).replace(':', "\0")
}

#[cfg(test)]
mod tests {
    use super::super::tests::nodes;
    use super::*;
    use proptest::prelude::*;

    /// No test needs as many points.
    const ANY: u64 = 1 << 40;

    fn ring(hosts: &[(&str, u32)], most: u64) -> Ring {
        let nodes = nodes(&hosts.iter().map(|(host, weight)| (*host, *weight, 0)).collect::<Vec<_>>());
        let members: Vec<Member> =
            (0..).zip(hosts).map(|(place, (_, weight))| Member { place, weight: *weight }).collect();
        Ring::new(&members, &nodes, most)
    }

    fn three() -> Ring {
        ring(&[("127.0.0.1:1980", 1), ("127.0.0.1:1981", 1), ("127.0.0.1:1982", 2)], ANY)
    }

    #[test]
    fn points_are_those_of_the_specification() {
        let first = |host: &str| {
            let nodes = nodes(&[(host, 1, 0)]);
            let mut base = crc32fast::Hasher::new();
            base.update(identity(&nodes[0]).as_bytes());
            let next = |value: u32| {
                let mut point = base.clone();
                point.update(&value.to_le_bytes());
                point.finalize()
            };
            [next(0), next(next(0)), next(next(next(0)))]
        };
        assert_eq!(first("127.0.0.1:1980"), [3_877_489_599, 4_277_466_901, 444_920_549]);
        assert_eq!(first("127.0.0.1:1981"), [3_665_682_959, 3_572_484_838, 3_976_795_795]);
        let ring = three();
        assert_eq!(ring.points.len(), 4 * 160);
        for (value, place) in [(3_877_489_599, 0), (444_920_549, 0), (3_976_795_795, 1)] {
            assert!(ring.points.contains(&(value, place)), "{value}");
        }
    }

    #[test]
    fn keys_fall_where_the_specification_says() {
        let ring = three();
        #[rustfmt::skip]
        let vectors = [
            ("a", 3_904_355_907, 1981, 1980), ("b", 1_908_338_681, 1981, 1982), ("jack", 2_826_627_544, 1982, 1981),
            ("10.0.0.7", 3_483_198_630, 1982, 1981), ("/hello", 3_070_904_283, 1982, 1981),
            ("session-42", 3_143_075_641, 1980, 1981),
        ];
        for (key, hash, chosen, next) in vectors {
            assert_eq!(crc32fast::hash(key.as_bytes()), hash, "{key}");
            let first = ring.pick(hash, |_| true).unwrap();
            assert_eq!(1980 + first, chosen, "{key}");
            assert_eq!(ring.pick(hash, |place| place != first).map(|place| 1980 + place), Some(next), "{key}");
        }
    }

    #[test]
    fn identities_have_no_colon() {
        let nodes = nodes(&[("127.0.0.1:80", 1, 0), ("[::1]:8080", 1, 0), ("a.test:81", 1, 0)]);
        let texts: Vec<String> = nodes.iter().map(identity).collect();
        assert_eq!(texts, ["127.0.0.1\x0080", "[\0\x001]\x008080", "a.test\x0081"]);
    }

    #[test]
    fn weights_are_reduced_and_zero_has_no_points() {
        assert_eq!(ring(&[("a:1", 50), ("b:1", 100), ("c:1", 0)], ANY).points.len(), 3 * 160);
        let none = ring(&[("a:1", 0), ("b:1", 0)], ANY);
        assert_eq!((none.pick(7, |_| true), none.is_cut), (None, false));
    }

    #[test]
    fn too_many_points_are_scaled_down() {
        let ring = ring(&[("a:1", u32::MAX), ("b:1", u32::MAX / 2), ("c:1", 1)], 3000);
        let of = |place: usize| ring.points.iter().filter(|point| point.1 == place).count();
        assert_eq!(([of(0), of(1), of(2)], ring.is_cut), ([1999, 999, 1], true));
    }

    proptest! {
        #[test]
        fn a_node_that_cannot_be_chosen_moves_only_its_own_keys(
            weights in prop::collection::vec(1_u32..9, 2..6), hash: u32, away in 0_usize..6,
        ) {
            let hosts: Vec<(String, u32)> =
                weights.iter().enumerate().map(|(n, weight)| (format!("10.0.0.{n}:80"), *weight)).collect();
            let ring = ring(&hosts.iter().map(|(host, weight)| (host.as_str(), *weight)).collect::<Vec<_>>(), ANY);
            let all = ring.pick(hash, |_| true).unwrap();
            let without = ring.pick(hash, |place| place != away).unwrap();
            prop_assert_ne!(without, away);
            if all != away {
                prop_assert_eq!(without, all);
            }
            // First point at or behind the hash, found the slow way.
            let slow = ring.points.iter().find(|point| point.0 >= hash).or(ring.points.first()).unwrap();
            prop_assert_eq!(all, slow.1);
        }
    }
}
