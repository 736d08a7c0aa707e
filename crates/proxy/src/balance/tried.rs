//! Which nodes a request has been to.

/// Nodes that were tried for one request, by their place in the upstream's list.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    first: u64,
    /// Places from 64 on.
    more: Vec<usize>,
}

impl Tried {
    pub(super) fn add(&mut self, place: usize) {
        match 1_u64.checked_shl(u32::try_from(place).unwrap_or(u32::MAX)) {
            Some(bit) => self.first |= bit,
            None => self.more.push(place),
        }
    }

    pub(super) fn has(&self, place: usize) -> bool {
        match 1_u64.checked_shl(u32::try_from(place).unwrap_or(u32::MAX)) {
            Some(bit) => self.first & bit != 0,
            None => self.more.contains(&place),
        }
    }

    /// Whether no node has been tried.
    pub(crate) fn is_empty(&self) -> bool {
        self.first == 0 && self.more.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_any_size_are_remembered() {
        let mut tried = Tried::default();
        assert!(tried.is_empty());
        for place in [0, 63, 64, 5_000_000_000] {
            assert!(!tried.has(place));
            tried.add(place);
            assert!(tried.has(place) && !tried.is_empty(), "{place}");
        }
        assert!(!tried.has(1) && !tried.has(65));
    }
}
