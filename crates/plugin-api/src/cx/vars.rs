//! Variables of a request (`docs/spec/plugins/_variables.md`).

use super::RequestCx;
use milecastle_matching::{Lookup, Var, VarName};

impl Lookup for RequestCx {
    fn var(&self, name: &VarName) -> Option<Var<'_>> {
        let _ = name;
        None
    }
}
