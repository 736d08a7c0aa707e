//! The one compiler: model objects and the plugin registry in, compiled configuration out.
//!
//! Both planes use it. The control plane asks [`Compiler::check`] before it accepts a write; a node builds a
//! [`Snapshot`] with the same code, so what one accepts the other can run.
//!
//! Invariants:
//! - Building does no I/O and reads no clock. Equal objects give an equal snapshot, whatever the order of the changes
//!   that led there (an object in quarantine, which keeps its last good form, is the exception).
//! - A snapshot never changes. The next one shares by `Arc` whatever a change does not touch; the cost of a change grows
//!   with what it touches, not with the configuration.
//! - A snapshot is built under the settings of its own revision, which are one of its objects: no form of an object outlives
//!   the settings that it was built under.
//! - An object that cannot be built is quarantined and reported, never half-built. It keeps its last good form; without
//!   one, what depends on it answers 503. Nothing ever runs without a plugin that it should have.
//! - What a reference to a secret manager stands for is asked of the registry's resolver, which knows it or not: nothing waits
//!   for it here. Whoever has learned of another value has the objects that hold the reference built again.
//! - References that dangle are legal and compile to the status that `docs/spec/routing.md` §8 gives.
//!
//! Deliberately absent: runtime state (pools, balancers, health, counters), which outlives snapshots and belongs to the
//! data plane.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod certificates;
mod compiled;
mod compiler;
mod credentials;
mod identity;
mod people;
mod plugins;
mod proto;
mod references;
mod route;
mod snapshot;
mod stream;
mod upstream;

pub use certificates::{ClientAuth, CompiledSsl, StapledSsls};
pub use compiled::{CompiledRoute, Outcome, Timeouts, UpstreamRef};
pub use compiler::{Compiler, MetadataOf, Rejected, STREAMS_OFF};
pub use identity::{ClientCertificate, ClientCertificateFault, ClientIdentity};
pub use snapshot::Snapshot;
pub use stream::{CompiledStreamRoute, SessionFacts, StreamOutcome};
pub use upstream::{
    Algorithm, CompiledNode, CompiledUpstream, HashKey, Keepalive, PassHost, ServiceQuery, UpstreamScheme,
    compile as compile_upstream,
};

#[cfg(test)]
mod tests;
