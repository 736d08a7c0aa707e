//! The Domain Name System, as a client of resolvers (RFC 1035, 2782, 2308, 3596, 6891).
//!
//! `message` reads and writes messages, `name` names, `client` asks, and `host` is what this machine makes of a host. Written
//! for what a gateway asks of it: addresses and services, with the time that an answer holds. The system's resolver does not
//! tell that time.
//!
//! Invariants:
//! - An answer counts only if it comes from the server that was asked, with the number and the question that were sent.
//! - Whatever a server sends, reading it ends: names point backwards only, and nothing is longer than its message.
//!
//! Deliberately absent: DNSSEC, recursion, caching across questions.

mod client;
mod host;
mod hosts;
mod message;
mod name;
mod resolv_conf;

pub(crate) use client::{Client, DnsError, Found};
pub(crate) use host::HostLookup;
pub use message::{BadMessage, Data, Kind, Message, Record};
pub use name::Name;
pub(crate) use resolv_conf::ResolvConf;
