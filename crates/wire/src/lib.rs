//! What travels between control plane and gateway nodes: the generated gRPC types of `proto/milecastle/config/v1`, the
//! only conversions between them and [`milecastle_model`], the [`Digest`] over a configuration, and the packing of
//! whatever is too large for one message.
//!
//! Invariants:
//! - Bodies pass through as the bytes that were written; nothing here parses or re-encodes them.
//! - Whatever comes from the network or the disk may be hostile: decoding is bounded by [`Limits`] and answers with
//!   an error, never with a panic.
//! - A record of a kind that this version does not know is no reason to lose it: it decodes, counts in the digest and can be
//!   stored; only its conversion to the model fails, with [`ConvertError::UnknownKind`].
//! - Equal input gives equal slices on every replica, so that a broken-off snapshot can go on with any of them.
//!
//! Deliberately absent: transport and TLS (`milecastle-pki`), who sends what and when (`control`, `proxy`), files.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod convert;
mod delta;
mod digest;
mod pack;
mod snapshot;

/// The generated messages, clients and server traits of `proto/milecastle/config/v1/config.proto`, which documents them.
pub mod pb {
    tonic::include_proto!("milecastle.config.v1");
}

pub use convert::ConvertError;
pub use delta::{DeltaAssembler, decode_delta, encode_delta, split_delta};
pub use digest::{Digest, DigestKey, InvalidDigest};
pub use pack::{Frames, Limits, PackError, Reader, Record, SLICE_BYTES, Writer};
pub use snapshot::{SnapshotReader, SnapshotWriter, decode_objects, encode_objects, pack_snapshot};

/// The version of the protocol that this crate speaks, for `Hello.protocols`.
pub const PROTOCOL: u32 = 1;

/// No message of this protocol is larger, in bytes (1 MiB). Clients and servers set it as the limit of what they decode.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Upper bounds of `Report.request_times`, in milliseconds; those that the reference has for its latencies.
pub const TIME_BOUNDS_MS: [u64; 15] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000];
