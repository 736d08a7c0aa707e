//! A whole configuration: as messages for the stream, and as one blob for a file.

use crate::pack::{Frames, Limits, PackError, Reader, Writer};
use crate::{Digest, pb};

/// Packs the objects of a snapshot.
pub type SnapshotWriter = Writer<pb::Object>;

/// Unpacks the chunks of a snapshot. Lineage and revision are its name: a chunk of another name needs another reader.
pub type SnapshotReader = Reader<pb::Object>;

/// How a blob begins; the digit is the version of its layout.
const MAGIC: [u8; 8] = *b"MCPACK1\n";

/// Packs objects, in whatever order they come.
///
/// # Errors
/// [`PackError::Order`] if a key is there twice, [`PackError::NoKey`].
pub fn pack_snapshot<T: Into<pb::Object>>(objects: impl IntoIterator<Item = T>) -> Result<Frames, PackError> {
    Writer::pack(objects.into_iter().map(Into::into).collect())
}

impl Frames {
    /// The messages of a snapshot, from chunk `first` on.
    pub fn snapshot(
        &self,
        lineage: &str,
        revision: u64,
        digest: Digest,
        first: u32,
    ) -> impl Iterator<Item = pb::Snapshot> {
        let head =
            pb::Snapshot { lineage: lineage.to_owned(), revision, digest: digest.into(), ..pb::Snapshot::default() };
        self.chunks(first).map(move |chunk| pb::Snapshot { chunk: Some(chunk), ..head.clone() })
    }
}

/// Objects as one blob, for a file: the frames of a snapshot, each behind its length. Objects of unknown kinds included.
///
/// # Errors
/// As [`pack_snapshot`].
pub fn encode_objects<T: Into<pb::Object>>(objects: impl IntoIterator<Item = T>) -> Result<Vec<u8>, PackError> {
    let frames = pack_snapshot(objects)?;
    let mut blob = Vec::with_capacity(MAGIC.len() + 4 + frames.bytes() + 4 * frames.as_slice().len());
    blob.extend_from_slice(&MAGIC);
    blob.extend_from_slice(&frames.total().to_le_bytes());
    for frame in frames.as_slice() {
        let length = u32::try_from(frame.len()).expect("a frame is smaller than a message");
        blob.extend_from_slice(&length.to_le_bytes());
        blob.extend_from_slice(frame);
    }
    Ok(blob)
}

/// The objects of a blob of [`encode_objects`].
///
/// # Errors
/// [`PackError::Foreign`] if it is none, [`PackError::Truncated`] if it is cut off, others if it is damaged.
pub fn decode_objects(blob: &[u8], limits: Limits) -> Result<Vec<pb::Object>, PackError> {
    let mut rest = blob.strip_prefix(&MAGIC).ok_or(PackError::Foreign("it does not begin like one"))?;
    let total = take_u32(&mut rest)?;
    let mut reader = SnapshotReader::new(limits)?;
    let mut objects = Vec::new();
    for index in 0..total {
        let length = usize::try_from(take_u32(&mut rest)?).map_err(|_| PackError::Truncated)?;
        let (frame, after) = rest.split_at_checked(length).ok_or(PackError::Truncated)?;
        rest = after;
        objects.append(&mut reader.push(&pb::Chunk { index, total, frame: bytes::Bytes::copy_from_slice(frame) })?);
    }
    match (reader.is_complete(), rest.is_empty()) {
        (true, true) => Ok(objects),
        (true, false) => Err(PackError::Foreign("it goes on after its end")),
        (false, _) => Err(PackError::Truncated),
    }
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, PackError> {
    let (number, after) = rest.split_first_chunk().ok_or(PackError::Truncated)?;
    *rest = after;
    Ok(u32::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(count: u64) -> Vec<pb::Object> {
        (0..count)
            .map(|n| pb::Object {
                key: Some(pb::ObjectKey { kind: "route".to_owned(), id: format!("{n:05}") }),
                body: format!("{{\"uri\":\"/{n}\",\"priority\":{n}}}").into(),
                created: n,
                modified: n + 1,
            })
            .collect()
    }

    #[test]
    fn a_blob_holds_the_objects() {
        for count in [0, 1, 1000] {
            let mut shuffled = objects(count);
            shuffled.reverse();
            let blob = encode_objects(shuffled).unwrap();
            assert_eq!(decode_objects(&blob, Limits::default()).unwrap(), objects(count));
        }
    }

    #[test]
    fn a_blob_cut_anywhere_is_refused() {
        let blob = encode_objects(objects(5)).unwrap();
        for cut in 0..blob.len() {
            assert!(decode_objects(&blob[..cut], Limits::default()).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_blob_damaged_anywhere_is_refused_or_whole() {
        let blob = encode_objects(objects(5)).unwrap();
        let mut refused = 0;
        for at in 0..blob.len() {
            for bit in 0..8 {
                let mut damaged = blob.clone();
                damaged[at] ^= 1 << bit;
                match decode_objects(&damaged, Limits::default()) {
                    // A few bits of a zstd frame say nothing.
                    Ok(read) => assert_eq!(read, objects(5), "byte {at}, bit {bit}"),
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(refused * 100 > blob.len() * 8 * 98, "{refused} of {} were refused", blob.len() * 8);
    }

    #[test]
    fn a_blob_with_something_behind_it_is_refused() {
        let mut blob = encode_objects(objects(1)).unwrap();
        blob.push(0);
        assert!(matches!(decode_objects(&blob, Limits::default()), Err(PackError::Foreign(_))));
    }

    #[test]
    fn messages_carry_their_name_and_stay_small() {
        // Incompressible, so that there are several chunks.
        let mut state = 1_u64;
        let mut big = objects(2);
        for object in &mut big {
            let body: Vec<u8> = std::iter::repeat_with(|| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .take(2 << 20)
            .collect();
            object.body = body.into();
        }
        let frames = pack_snapshot(big.clone()).unwrap();
        let messages: Vec<_> = frames.snapshot("here", 7, Digest::default(), 0).collect();
        assert_eq!(messages.len(), 6);
        let mut reader = SnapshotReader::new(Limits::default()).unwrap();
        let mut read = Vec::new();
        for message in &messages {
            assert!(prost::Message::encoded_len(message) < crate::MAX_MESSAGE_BYTES);
            assert_eq!((message.lineage.as_str(), message.revision, message.digest.len()), ("here", 7, 32));
            read.append(&mut reader.push(message.chunk.as_ref().unwrap()).unwrap());
        }
        assert!(reader.is_complete());
        assert!(read == big, "what was read is what was written");
    }
}
