//! Nodes of a tier and their shares.

/// A node that takes part: its place in the upstream's list, and its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) place: usize,
    pub(super) weight: u32,
}

/// The members that may be chosen: a weight of zero takes a node out, unless all have it; then shares are equal.
pub(super) fn in_rotation(mut members: Vec<Member>) -> Vec<Member> {
    if members.iter().all(|member| member.weight == 0) {
        members.iter_mut().for_each(|member| member.weight = 1);
    } else {
        members.retain(|member| member.weight > 0);
    }
    members
}

/// Greatest common divisor; zero is neutral.
pub(super) fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
