//! What the patterns of one object may come to together.

use std::cell::Cell;

use super::{PatternError, limits};

/// What the patterns of an object that is being written have come to so far, of a million instructions at most
/// (`docs/hardening.md`, "Large regular expressions").
///
/// Nothing that is loaded has one: what was accepted is built.
#[derive(Debug, Default)]
pub struct PatternBudget {
    taken: Cell<usize>,
    exceeded: Cell<bool>,
}

impl PatternBudget {
    /// Takes what a pattern comes to. One that comes first may be as large as any.
    pub(super) fn take(&self, weight: usize) -> Result<(), PatternError> {
        let taken = self.taken.get();
        let together = taken.saturating_add(weight);
        if taken > 0 && together > limits::TOGETHER {
            self.exceeded.set(true);
            return Err(PatternError::TooMuch { together, most: limits::TOGETHER });
        }
        self.taken.set(together);
        Ok(())
    }

    /// Whether a pattern was refused for what came before it.
    pub fn exceeded(&self) -> bool {
        self.exceeded.get()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Flags, Pattern};
    use super::*;

    #[test]
    fn a_pattern_is_refused_for_those_before_it() {
        let budget = PatternBudget::default();
        assert_eq!(budget.take(limits::TOGETHER - 1), Ok(()));
        assert_eq!(budget.take(1), Ok(()));
        assert!(!budget.exceeded());
        let refused = PatternError::TooMuch { together: limits::TOGETHER + 1, most: limits::TOGETHER };
        assert_eq!(budget.take(1), Err(refused));
        assert!(budget.exceeded());
    }

    #[test]
    fn the_first_may_be_as_large_as_any_and_leaves_nothing() {
        let budget = PatternBudget::default();
        assert_eq!(budget.take(2 * limits::TOGETHER), Ok(()));
        assert!(budget.take(1).is_err());
    }

    #[test]
    fn what_is_refused_is_not_compiled() {
        let budget = PatternBudget::default();
        budget.take(limits::TOGETHER).unwrap();
        let loaded = Pattern::new("budget-[0-9]+").unwrap();
        let written = Pattern::compiled("budget-[0-9]+", Flags::default(), Some(&budget));
        assert!(matches!(written, Err(PatternError::TooMuch { .. })));
        assert!(!loaded.is_compiled());
        Pattern::compiled("budget-[0-9]+", Flags::default(), None).unwrap();
        assert!(loaded.is_compiled());
    }
}
