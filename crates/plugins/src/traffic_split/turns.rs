//! Smooth weighted round robin: each in proportion to its weight, and spread out.

use std::sync::{Mutex, PoisonError};

/// Whose turn it is. The sessions of all workers take turns with each other.
pub(super) struct Turns {
    weights: Box<[i64]>,
    total: i64,
    current: Mutex<Box<[i64]>>,
}

impl Turns {
    pub(super) fn new(weights: Vec<u32>) -> Self {
        let weights: Box<[i64]> = weights.into_iter().map(i64::from).collect();
        let current = Mutex::new(vec![0; weights.len()].into());
        Self { total: weights.iter().sum(), weights, current }
    }

    /// The place of the next one; `None` if no weight is above zero.
    pub(super) fn next(&self) -> Option<usize> {
        if self.total == 0 {
            return None;
        }
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.iter_mut().zip(&self.weights).for_each(|(now, weight)| *now += weight);
        // The first among equals.
        let (place, most) = current.iter_mut().enumerate().rev().max_by_key(|(_, now)| **now)?;
        *most -= self.total;
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_follow_the_weights() {
        let places = |weights: &[u32], count| {
            let turns = Turns::new(weights.to_vec());
            (0..count).map(|_| turns.next()).collect::<Vec<_>>()
        };
        let some = |places: &[usize]| places.iter().map(|place| Some(*place)).collect::<Vec<_>>();
        assert_eq!(places(&[5, 1, 1], 7), some(&[0, 0, 1, 0, 2, 0, 0]));
        assert_eq!(places(&[1, 1], 4), some(&[0, 1, 0, 1]));
        assert_eq!(places(&[0, 3], 3), some(&[1, 1, 1]));
        assert_eq!(places(&[0, 0], 2), [None, None]);
        assert_eq!(places(&[], 1), [None]);
    }
}
