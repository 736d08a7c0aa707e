//! A gateway process takes the place of another one (`docs/upgrading.md`).

mod followed;
mod killed;
mod load;
mod one_by_one;
mod site;
mod systemd;

pub(crate) use site::{Long, START, Site};
