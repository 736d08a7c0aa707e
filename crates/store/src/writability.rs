//! Whether the database takes writes, by what the last heartbeat of this process met with.
//!
//! A database that answers and refuses writes, as a standby or one whose disk is full, looks well to whoever only reads. What
//! rests on heartbeats is out of date then, in whatever replica is asked: each sees its own nodes alone.

use std::sync::{Mutex, PoisonError};

use crate::error::{Refusal, StoreError};
use crate::store::Store;

/// What the last write said that was tried for this.
#[derive(Debug, Default)]
pub(crate) struct Writability(Mutex<Option<Refusal>>);

impl Writability {
    /// Takes note of how a write ended. One that found no server, or no answer in time, tells nothing.
    pub(crate) fn note<T>(&self, written: &Result<T, StoreError>) {
        let told = match written {
            Ok(_) => None,
            Err(error) => match error.refusal() {
                Some(refusal) => Some(refusal.clone()),
                None => return,
            },
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }
}

impl Store {
    /// Fails while the database refuses writes, as far as the last heartbeat of this process knows
    /// ([`Store::member_beat`]). Nobody is asked.
    pub fn takes_writes(&self) -> Result<(), StoreError> {
        match &*self.0.writability.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(refusal) => Err(StoreError::Unavailable(Box::new(refusal.clone()))),
            None => Ok(()),
        }
    }
}
