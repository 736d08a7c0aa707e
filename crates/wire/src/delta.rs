//! Deltas: in one message if they fit, in chunks if not; and their bytes for a log.

use prost::Message as _;

use crate::pack::{Limits, PackError, Reader, Writer, order};
use crate::{MAX_MESSAGE_BYTES, Record as _, pb};

/// Room for what a [`pb::ControlMessage`] puts around a delta.
const ENVELOPE_BYTES: usize = 64;

/// The messages in which a delta travels: itself, with its changes in order, or chunks if it does not fit one message.
///
/// # Errors
/// [`PackError::Order`] if there are two changes of one key (coalesce them first), [`PackError::NoKey`].
pub fn split_delta(mut delta: pb::Delta) -> Result<Vec<pb::Delta>, PackError> {
    if delta.encoded_len() + ENVELOPE_BYTES > MAX_MESSAGE_BYTES {
        let frames = Writer::pack(std::mem::take(&mut delta.changes))?;
        return Ok(frames.chunks(0).map(|chunk| pb::Delta { chunk: Some(chunk), ..delta.clone() }).collect());
    }
    delta.changes.sort_unstable_by(|a, b| a.key().map(order).cmp(&b.key().map(order)));
    check_changes(&delta.changes)?;
    Ok(vec![delta])
}

/// Puts together what [`split_delta`] took apart. One for each stream.
pub struct DeltaAssembler {
    limits: Limits,
    open: Option<Open>,
}

/// A delta of which chunks are due.
struct Open {
    /// Without changes and chunk.
    head: pb::Delta,
    reader: Reader<pb::Change>,
    changes: Vec<pb::Change>,
}

impl DeltaAssembler {
    /// An assembler; the limits hold for each delta.
    pub fn new(limits: Limits) -> Self {
        Self { limits, open: None }
    }

    /// Takes a message; answers with a delta that has all of its changes and no chunk, once it is whole.
    ///
    /// A message that begins a delta drops one that was not finished.
    ///
    /// # Errors
    /// Every [`PackError`] that speaks of reading; the delta it belongs to is lost.
    pub fn push(&mut self, mut delta: pb::Delta) -> Result<Option<pb::Delta>, PackError> {
        let open = self.open.take();
        let Some(chunk) = delta.chunk.take() else {
            check_changes(&delta.changes)?;
            return Ok(Some(delta));
        };
        if !delta.changes.is_empty() {
            return Err(PackError::Foreign("a delta with both changes and a chunk"));
        }
        let mut open = match open {
            Some(open) if chunk.index > 0 && open.head == delta => open,
            _ => Open { head: delta, reader: Reader::new(self.limits)?, changes: Vec::new() },
        };
        open.changes.append(&mut open.reader.push(&chunk)?);
        if open.reader.is_complete() {
            return Ok(Some(pb::Delta { changes: open.changes, ..open.head }));
        }
        self.open = Some(open);
        Ok(None)
    }
}

/// A delta's bytes for a log, whatever its size.
pub fn encode_delta(delta: &pb::Delta) -> Vec<u8> {
    delta.encode_to_vec()
}

/// What [`encode_delta`] wrote.
///
/// # Errors
/// [`PackError::Decode`], [`PackError::Order`], [`PackError::NoKey`].
pub fn decode_delta(bytes: &[u8]) -> Result<pb::Delta, PackError> {
    let delta = pb::Delta::decode(bytes)?;
    check_changes(&delta.changes)?;
    Ok(delta)
}

fn check_changes(changes: &[pb::Change]) -> Result<(), PackError> {
    let mut last = None;
    for change in changes {
        let key = order(change.key().ok_or(PackError::NoKey)?);
        if last.is_some_and(|last| last >= key) {
            return Err(PackError::Order { kind: key.0.to_owned(), id: key.1.to_owned() });
        }
        last = Some(key);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(id: &str, body: Vec<u8>) -> pb::Change {
        let key = Some(pb::ObjectKey { kind: "route".to_owned(), id: id.to_owned() });
        let object = pb::Object { key, body: body.into(), created: 1, modified: 2 };
        pb::Change { change: Some(pb::change::Change::Put(object)) }
    }

    fn delete(id: &str) -> pb::Change {
        let key = Some(pb::ObjectKey { kind: "route".to_owned(), id: id.to_owned() });
        pb::Change { change: Some(pb::change::Change::Delete(pb::Delete { key, revision: 2 })) }
    }

    fn delta(changes: Vec<pb::Change>) -> pb::Delta {
        pb::Delta { lineage: "here".to_owned(), from: 1, to: 2, changes, ..Default::default() }
    }

    /// Sends and receives.
    fn check(changes: Vec<pb::Change>, messages: usize) {
        let mut sorted = delta(changes.clone());
        sorted.changes.sort_by(|a, b| a.key().map(order).cmp(&b.key().map(order)));
        let sent = split_delta(delta(changes)).unwrap();
        assert_eq!(sent.len(), messages);
        let mut assembler = DeltaAssembler::new(Limits::default());
        for (n, message) in sent.into_iter().enumerate() {
            assert!(message.encoded_len() + ENVELOPE_BYTES <= MAX_MESSAGE_BYTES);
            let got = assembler.push(message).unwrap();
            assert_eq!(got.is_some(), n + 1 == messages);
            assert!(got.is_none_or(|got| got == sorted));
        }
    }

    #[test]
    fn small_ones_travel_whole() {
        check(vec![], 1);
        check(vec![put("2", b"{}".to_vec()), delete("1")], 1);
    }

    #[test]
    fn large_ones_travel_in_chunks() {
        check(vec![put("2", vec![b'x'; 3 << 20]), delete("1")], 5);
        check((0..40_000).map(|n| put(&n.to_string(), b"{\"uri\":\"/anything/at/all\"}".to_vec())).collect(), 3);
    }

    #[test]
    fn two_changes_of_one_key_are_refused() {
        let twice = || delta(vec![put("1", vec![]), delete("1")]);
        assert!(matches!(split_delta(twice()), Err(PackError::Order { .. })));
        assert!(matches!(DeltaAssembler::new(Limits::default()).push(twice()), Err(PackError::Order { .. })));
        assert!(matches!(decode_delta(&encode_delta(&twice())), Err(PackError::Order { .. })));
    }

    #[test]
    fn a_delta_that_begins_drops_one_that_was_not_finished() {
        let large = || split_delta(delta(vec![put("1", vec![b'x'; 2 << 20])])).unwrap();
        let mut assembler = DeltaAssembler::new(Limits::default());
        assert!(assembler.push(large().swap_remove(0)).unwrap().is_none());
        assert!(assembler.push(delta(vec![])).unwrap().is_some());
        // What is left of the first has lost its beginning.
        assert!(matches!(assembler.push(large().swap_remove(1)), Err(PackError::WrongChunk { due: 0, got: 1, .. })));
        let whole = large().into_iter().filter_map(|message| assembler.push(message).unwrap()).count();
        assert_eq!(whole, 1);
    }

    #[test]
    fn chunks_of_two_deltas_do_not_mix() {
        let one = split_delta(delta(vec![put("1", vec![b'x'; 2 << 20])])).unwrap();
        let mut other = one.clone();
        for message in &mut other {
            message.to = 3;
        }
        let mut assembler = DeltaAssembler::new(Limits::default());
        assert!(assembler.push(one[0].clone()).unwrap().is_none());
        assert!(matches!(assembler.push(other[1].clone()), Err(PackError::WrongChunk { .. })));
    }

    #[test]
    fn a_log_entry_reads_back() {
        let delta = delta(vec![put("1", vec![b'x'; 2 << 20]), delete("2")]);
        assert!(decode_delta(&encode_delta(&delta)).unwrap() == delta);
    }
}
