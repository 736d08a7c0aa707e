//! What a node reads from the control plane and from its disk: no bytes make it panic or take memory without bound.
//!
//! Input: a byte that says what the rest is (0: a blob of objects, 1: a delta of the log, 2: frames, 3: the uncompressed
//! records of one frame, which no fuzzer would get past the checksum). The run's memory limit is part of the check.

use bytes::Bytes;
use milecastle_wire::{DeltaAssembler, DigestKey, Limits, Reader, decode_delta, decode_objects, encode_delta};
use milecastle_wire::{encode_objects, pb};

const LIMITS: Limits = Limits { record_bytes: 64 << 10, total_bytes: 4 << 20 };

/// Panics if the input shows a fault.
pub(crate) fn try_input(data: &[u8]) {
    let [what, data @ ..] = data else { return };
    match what % 4 {
        0 => {
            if let Ok(objects) = decode_objects(data, LIMITS) {
                check(&objects);
            }
        }
        1 => {
            if let Ok(delta) = decode_delta(data) {
                assert_eq!(decode_delta(&encode_delta(&delta)).as_ref().ok(), Some(&delta));
                if let Ok(Some(whole)) = DeltaAssembler::new(LIMITS).push(delta) {
                    assert!(whole.chunk.is_none());
                }
            }
        }
        2 => frames(data),
        _ => records(data),
    }
}

/// Frames, each behind two bytes of its length; the byte before all says how many there are to be.
fn frames(data: &[u8]) {
    let Some((total, mut rest)) = data.split_first() else { return };
    let mut reader = Reader::<pb::Object>::new(LIMITS).expect("zstd gets its memory");
    let mut objects = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk() {
        let (frame, after) = after.split_at(after.len().min(usize::from(u16::from_le_bytes(*length))));
        rest = after;
        let index = reader.next_chunk();
        let chunk = pb::Chunk { index, total: u32::from(*total), frame: Bytes::copy_from_slice(frame) };
        match reader.push(&chunk) {
            Ok(more) => objects.extend(more),
            Err(_) => return,
        }
    }
    if reader.is_complete() {
        check(&objects);
    }
}

fn records(data: &[u8]) {
    let frame = zstd::bulk::compress(data, 1).expect("zstd gets its memory");
    let chunk = pb::Chunk { index: 0, total: 1, frame: frame.into() };
    let mut reader = Reader::<pb::Object>::new(LIMITS).expect("zstd gets its memory");
    if let Ok(objects) = reader.push(&chunk) {
        check(&objects);
    }
    let delta = pb::Delta { chunk: Some(chunk), ..pb::Delta::default() };
    if let Ok(Some(whole)) = DeltaAssembler::new(LIMITS).push(delta) {
        assert_eq!(decode_delta(&encode_delta(&whole)).ok(), Some(whole));
    }
}

/// What was read can be written again, and converted or refused.
fn check(objects: &[pb::Object]) {
    let key = DigestKey::of_lineage("fuzz");
    for object in objects {
        assert!(object.body.len() <= LIMITS.record_bytes);
        let converted = milecastle_model::Object::try_from(object);
        if let Ok(converted) = converted {
            assert_eq!(key.object(&converted), key.wire_object(object));
            assert_eq!(&pb::Object::from(&converted), object);
        }
    }
    let blob = encode_objects(objects.iter().cloned()).expect("objects that were read are in order");
    assert_eq!(decode_objects(&blob, LIMITS).ok().as_deref(), Some(objects));
}
