//! Sets of addresses and address blocks.
//!
//! Kept as sorted, disjoint ranges of each family, so a test is one binary search however many entries there are.
//! Invariant: an IPv4 client is only ever compared with IPv4 entries (`docs/spec/plugins/ip-restriction.md`); an
//! IPv4-mapped IPv6 address, which a dual-stack socket reports, counts as IPv4 on both sides.

use std::net::IpAddr;

use thiserror::Error;

/// An entry that is neither an address nor a block.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("invalid ip address: {entry}")]
pub struct CidrError {
    /// The entry as written.
    pub entry: String,
}

/// A set of IPv4 and IPv6 addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CidrSet {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl CidrSet {
    /// Parses addresses and `address/prefix` blocks (0 to 32 for IPv4, 0 to 128 for IPv6); host bits are ignored.
    /// The first malformed entry is the error.
    pub fn parse<S: AsRef<str>>(entries: impl IntoIterator<Item = S>) -> Result<CidrSet, CidrError> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for entry in entries {
            let entry = entry.as_ref();
            let error = || CidrError { entry: entry.to_owned() };
            match block(entry).ok_or_else(error)? {
                Block::V4(first, last) => v4.push((first, last)),
                Block::V6(first, last) => v6.push((first, last)),
            }
        }
        Ok(CidrSet { v4: merge(v4), v6: merge(v6) })
    }

    /// Whether the address is in the set.
    pub fn contains(&self, addr: IpAddr) -> bool {
        match addr.to_canonical() {
            IpAddr::V4(addr) => holds(&self.v4, u32::from(addr)),
            IpAddr::V6(addr) => holds(&self.v6, u128::from(addr)),
        }
    }

    /// Whether no address is in the set.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

enum Block {
    V4(u32, u32),
    V6(u128, u128),
}

fn block(entry: &str) -> Option<Block> {
    let (addr, prefix) = match entry.split_once('/') {
        Some((addr, prefix)) => {
            // `parse` alone would take "+8".
            let plain = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
            (addr, Some(plain.then(|| prefix.parse::<u32>().ok()).flatten()?))
        }
        None => (entry, None),
    };
    match addr.parse::<IpAddr>().ok()? {
        IpAddr::V4(addr) => v4_block(u32::from(addr), prefix.unwrap_or(32)),
        IpAddr::V6(addr) => {
            let prefix = prefix.unwrap_or(128);
            match addr.to_ipv4_mapped() {
                Some(addr) if (96..=128).contains(&prefix) => v4_block(u32::from(addr), prefix - 96),
                _ => {
                    let free = 128_u32.checked_sub(prefix)?;
                    let mask = u128::MAX.checked_shl(free).unwrap_or(0);
                    let first = u128::from(addr) & mask;
                    Some(Block::V6(first, first | !mask))
                }
            }
        }
    }
}

fn v4_block(addr: u32, prefix: u32) -> Option<Block> {
    let free = 32_u32.checked_sub(prefix)?;
    let mask = u32::MAX.checked_shl(free).unwrap_or(0);
    Some(Block::V4(addr & mask, addr | !mask))
}

/// Sorts ranges and joins those that overlap.
fn merge<N: Ord + Copy>(mut ranges: Vec<(N, N)>) -> Box<[(N, N)]> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let overlaps = next.0 <= kept.1;
        if overlaps {
            kept.1 = kept.1.max(next.1);
        }
        overlaps
    });
    ranges.into()
}

fn holds<N: Ord + Copy>(ranges: &[(N, N)], addr: N) -> bool {
    let after = ranges.partition_point(|range| range.0 <= addr);
    after > 0 && addr <= ranges[after - 1].1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(entries: &[&str], addr: &str, expected: bool) {
        let set = CidrSet::parse(entries).unwrap();
        assert_eq!(set.contains(addr.parse().unwrap()), expected, "{addr} in {entries:?}");
    }

    #[test]
    fn addresses_and_blocks() {
        check(&[], "127.0.0.1", false);
        check(&["127.0.0.1"], "127.0.0.1", true);
        check(&["127.0.0.1"], "127.0.0.2", false);
        check(&["10.1.2.3/8"], "10.255.0.1", true);
        check(&["10.1.2.3/8"], "11.0.0.0", false);
        check(&["10.0.0.0/8", "10.2.0.0/16", "9.0.0.0/8"], "10.3.0.0", true);
        check(&["0.0.0.0/0"], "255.255.255.255", true);
        check(&["0.0.0.0/0"], "::1", false);
        check(&["::/0"], "127.0.0.1", false);
        check(&["::/0"], "::ffff:127.0.0.1", false);
        check(&["127.0.0.0/8"], "::ffff:127.0.0.1", true);
        check(&["::ffff:10.0.0.0/104"], "10.9.9.9", true);
        check(&["fe80::1/10"], "febf::1", true);
        check(&["fe80::1/10"], "fec0::1", false);
        check(&["::1"], "::1", true);
        check(&["1.2.3.4/32", "1.2.3.6"], "1.2.3.5", false);
        check(&["2001:db8::/128"], "2001:db8::", true);
    }

    #[test]
    fn malformed_entries_are_named() {
        for entry in [
            "10.0.0.0/33",
            "300.1.1.1",
            "abc",
            "",
            "1.2.3",
            "::/129",
            "1.2.3.4/",
            "1.2.3.4/+8",
            "1.2.3.4/a",
            "/8",
            " ::1",
        ] {
            let error = CidrSet::parse(["127.0.0.1", entry]).unwrap_err();
            assert_eq!(error.to_string(), format!("invalid ip address: {entry}"));
        }
    }
}
