//! Records laid end to end, cut into slices of equal size, each slice compressed by itself.
//!
//! The cut is in the uncompressed bytes: it is the same on every replica whatever its version of zstd makes of it, a
//! record may be larger than a slice, and reading takes memory for one slice and one record, however well the
//! input compresses.

use std::marker::PhantomData;

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{self, CParameter};

use crate::pb;

/// Uncompressed bytes of every slice but the last (768 KiB): even if they do not compress, a message stays below
/// [`MAX_MESSAGE_BYTES`](crate::MAX_MESSAGE_BYTES).
pub const SLICE_BYTES: usize = 768 << 10;

/// zstd's default: on JSON, higher levels gain little and cost the publishing replica much.
const LEVEL: i32 = 3;

/// How a frame with data begins (RFC 8878, section 3.1.1).
const FRAME_MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();

/// The longest length prefix: a varint of 64 bits.
const PREFIX_BYTES: usize = 10;

/// What can be packed: [`pb::Object`] and [`pb::Change`].
pub trait Record: prost::Message + Default + sealed::Sealed {
    /// What the record is about; `None` if a peer left it out.
    fn key(&self) -> Option<&pb::ObjectKey>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for crate::pb::Object {}
    impl Sealed for crate::pb::Change {}
}

impl Record for pb::Object {
    fn key(&self) -> Option<&pb::ObjectKey> {
        self.key.as_ref()
    }
}

impl Record for pb::Change {
    fn key(&self) -> Option<&pb::ObjectKey> {
        match self.change.as_ref()? {
            pb::change::Change::Put(object) => object.key.as_ref(),
            pb::change::Change::Delete(delete) => delete.key.as_ref(),
        }
    }
}

/// How records are ordered: by the kind's name, then by id, as bytes.
pub(crate) fn order(key: &pb::ObjectKey) -> (&str, &str) {
    (&key.kind, &key.id)
}

/// How much a reader takes from a peer before it calls it a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the largest record.
    pub record_bytes: usize,
    /// Uncompressed bytes of everything together, rounded up to a slice.
    pub total_bytes: u64,
}

impl Limits {
    /// Records of 16 MiB, 4 GiB together.
    pub const DEFAULT: Self = Self { record_bytes: 16 << 20, total_bytes: 4 << 30 };
}

/// [`Limits::DEFAULT`].
impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Why records could not be packed or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Records are not in strictly ascending order of their keys.
    #[error("record {kind}/{id} is out of order or there twice")]
    Order {
        /// The kind's name.
        kind: String,
        /// The object's id.
        id: String,
    },
    /// A record without a key.
    #[error("record without a key")]
    NoKey,
    /// Another chunk was due. The reader is as it was before.
    #[error("chunk {got} of {got_total} came, chunk {due} was due")]
    WrongChunk {
        /// The chunk that is due.
        due: u32,
        /// The chunk that came.
        got: u32,
        /// The number of chunks that the message spoke of.
        got_total: u32,
    },
    /// Something else than one zstd frame.
    #[error("chunk {index} is not one zstd frame, or is cut off")]
    NotOneFrame {
        /// The chunk.
        index: u32,
    },
    /// A frame that zstd does not take, or whose checksum is wrong, or that holds more than a slice.
    #[error("chunk {index} is damaged: {source}")]
    Frame {
        /// The chunk.
        index: u32,
        /// What zstd says.
        source: std::io::Error,
    },
    /// A chunk of the wrong size uncompressed.
    #[error("chunk {index} holds {bytes} bytes, which is not what a chunk in its place holds")]
    SliceSize {
        /// The chunk.
        index: u32,
        /// Its uncompressed bytes.
        bytes: usize,
    },
    /// A record that is no protobuf message of its type.
    #[error("record cannot be decoded: {0}")]
    Decode(#[from] prost::DecodeError),
    /// A record or the whole passes the [`Limits`].
    #[error("{what} of {bytes} bytes passes the limit of {limit}")]
    TooLarge {
        /// "record" or "total".
        what: &'static str,
        /// Its size, or a lower bound of it.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The input ends in the middle of something.
    #[error("input is cut off")]
    Truncated,
    /// The input does not begin as it should, or goes on after its end.
    #[error("not a pack of objects: {0}")]
    Foreign(&'static str),
    /// zstd could not compress (out of memory).
    #[error("cannot compress: {0}")]
    Compress(#[source] std::io::Error),
}

/// Compressed slices in their order. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frames(std::sync::Arc<[Bytes]>);

impl Frames {
    /// How many there are; at least one, even if there are no records.
    pub fn total(&self) -> u32 {
        u32::try_from(self.0.len()).expect("2^32 slices would be 3 PiB")
    }

    /// The chunk at `index`; `None` past the end.
    pub fn chunk(&self, index: u32) -> Option<pb::Chunk> {
        let frame = self.0.get(usize::try_from(index).ok()?)?.clone();
        Some(pb::Chunk { index, total: self.total(), frame })
    }

    /// The chunks from `first` on: 0 for all, or what a [`pb::Resume`] asks for.
    pub fn chunks(&self, first: u32) -> impl Iterator<Item = pb::Chunk> {
        (first..self.total()).filter_map(|index| self.chunk(index))
    }

    /// Compressed bytes of all together.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    pub(crate) fn as_slice(&self) -> &[Bytes] {
        &self.0
    }
}

/// Packs records, given in strictly ascending order of (kind's name, id).
pub struct Writer<R> {
    compressor: Compressor<'static>,
    slice: usize,
    /// Uncompressed bytes of the slice that is being filled.
    raw: Vec<u8>,
    frames: Vec<Bytes>,
    last: Option<pb::ObjectKey>,
    records: PhantomData<R>,
}

impl<R: Record> Writer<R> {
    /// A writer without records.
    ///
    /// # Errors
    /// [`PackError::Compress`] when zstd gets no memory.
    pub fn new() -> Result<Self, PackError> {
        Self::with_slice(SLICE_BYTES)
    }

    pub(crate) fn with_slice(slice: usize) -> Result<Self, PackError> {
        let mut compressor = Compressor::new(LEVEL).map_err(PackError::Compress)?;
        compressor.set_parameter(CParameter::ChecksumFlag(true)).map_err(PackError::Compress)?;
        Ok(Self { compressor, slice, raw: Vec::new(), frames: Vec::new(), last: None, records: PhantomData })
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`PackError::Order`], [`PackError::NoKey`], [`PackError::Compress`].
    pub fn push(&mut self, record: &R) -> Result<(), PackError> {
        check_order(&mut self.last, record)?;
        record.encode_length_delimited(&mut self.raw).expect("a Vec has room for every record");
        let mut cut = 0;
        while self.raw.len() - cut >= self.slice {
            self.compress(cut..cut + self.slice)?;
            cut += self.slice;
        }
        self.raw.drain(..cut);
        Ok(())
    }

    /// All slices.
    ///
    /// # Errors
    /// [`PackError::Compress`].
    pub fn finish(mut self) -> Result<Frames, PackError> {
        if !self.raw.is_empty() || self.frames.is_empty() {
            self.compress(0..self.raw.len())?;
        }
        Ok(Frames(self.frames.into()))
    }

    /// Packs records that are in no particular order.
    ///
    /// # Errors
    /// As [`push`](Self::push); [`PackError::Order`] only if a key is there twice.
    pub fn pack(mut records: Vec<R>) -> Result<Frames, PackError> {
        records.sort_unstable_by(|a, b| a.key().map(order).cmp(&b.key().map(order)));
        let mut writer = Self::new()?;
        for record in &records {
            writer.push(record)?;
        }
        writer.finish()
    }

    fn compress(&mut self, range: std::ops::Range<usize>) -> Result<(), PackError> {
        let frame = self.compressor.compress(&self.raw[range]).map_err(PackError::Compress)?;
        self.frames.push(frame.into());
        Ok(())
    }
}

/// Unpacks chunks as they come.
///
/// After an error other than [`PackError::WrongChunk`] the reader is of no more use.
pub struct Reader<R> {
    decompressor: Decompressor<'static>,
    limits: Limits,
    slice: usize,
    next: u32,
    /// Known from the first chunk on.
    total: Option<u32>,
    /// One slice, reused.
    slice_buffer: Vec<u8>,
    /// The beginning of a record that goes on in the next chunk.
    tail: Vec<u8>,
    last: Option<pb::ObjectKey>,
    records: PhantomData<R>,
}

impl<R: Record> Reader<R> {
    /// A reader that waits for chunk 0.
    ///
    /// # Errors
    /// [`PackError::Compress`] when zstd gets no memory.
    pub fn new(limits: Limits) -> Result<Self, PackError> {
        Self::with_slice(limits, SLICE_BYTES)
    }

    pub(crate) fn with_slice(limits: Limits, slice: usize) -> Result<Self, PackError> {
        Ok(Self {
            decompressor: Decompressor::new().map_err(PackError::Compress)?,
            limits,
            slice,
            next: 0,
            total: None,
            slice_buffer: Vec::with_capacity(slice),
            tail: Vec::new(),
            last: None,
            records: PhantomData,
        })
    }

    /// The chunk that is due: what a [`pb::Resume`] asks for.
    pub fn next_chunk(&self) -> u32 {
        self.next
    }

    /// Whether the last chunk has been taken.
    pub fn is_complete(&self) -> bool {
        self.total == Some(self.next)
    }

    /// Takes the chunk that is due; answers with the records that it completes.
    ///
    /// # Errors
    /// Every [`PackError`] that speaks of reading.
    pub fn push(&mut self, chunk: &pb::Chunk) -> Result<Vec<R>, PackError> {
        let &pb::Chunk { index, total, ref frame } = chunk;
        if index != self.next || index >= total || self.total.is_some_and(|known| known != total) {
            return Err(PackError::WrongChunk { due: self.next, got: index, got_total: total });
        }
        // All chunks but the last are full.
        let least = u64::from(total - 1) * self.slice as u64;
        if least > self.limits.total_bytes {
            return Err(PackError::TooLarge { what: "total", bytes: least, limit: self.limits.total_bytes });
        }
        self.total = Some(total);

        // zstd itself would take no frame at all, or one that says "skip me", for an empty slice: and so nothing for an
        // empty configuration.
        if !frame.starts_with(&FRAME_MAGIC) || zstd_safe::find_frame_compressed_size(frame) != Ok(frame.len()) {
            return Err(PackError::NotOneFrame { index });
        }
        self.slice_buffer.clear();
        let bytes = self
            .decompressor
            .decompress_to_buffer(frame, &mut self.slice_buffer)
            .map_err(|source| PackError::Frame { index, source })?;
        let last = index + 1 == total;
        let fits = if last { bytes <= self.slice && (bytes > 0 || total == 1) } else { bytes == self.slice };
        if !fits {
            return Err(PackError::SliceSize { index, bytes });
        }
        self.tail.extend_from_slice(&self.slice_buffer);
        let records = self.take_records()?;
        if last && !self.tail.is_empty() {
            return Err(PackError::Truncated);
        }
        self.next += 1;
        Ok(records)
    }

    /// Takes whole records off the front of `tail`.
    fn take_records(&mut self) -> Result<Vec<R>, PackError> {
        let mut records = Vec::new();
        let mut rest = self.tail.as_slice();
        while !rest.is_empty() {
            let mut body = rest;
            let length = match prost::decode_length_delimiter(&mut body) {
                Ok(length) => length,
                Err(_) if rest.len() < PREFIX_BYTES => break,
                Err(error) => return Err(error.into()),
            };
            if length > self.limits.record_bytes {
                let (bytes, limit) = (length as u64, self.limits.record_bytes as u64);
                return Err(PackError::TooLarge { what: "record", bytes, limit });
            }
            let Some((record, after)) = body.split_at_checked(length) else { break };
            let record = R::decode(record)?;
            check_order(&mut self.last, &record)?;
            records.push(record);
            rest = after;
        }
        let taken = self.tail.len() - rest.len();
        self.tail.drain(..taken);
        Ok(records)
    }
}

fn check_order<R: Record>(last: &mut Option<pb::ObjectKey>, record: &R) -> Result<(), PackError> {
    let key = record.key().ok_or(PackError::NoKey)?;
    if last.as_ref().is_some_and(|last| order(last) >= order(key)) {
        return Err(PackError::Order { kind: key.kind.clone(), id: key.id.clone() });
    }
    *last = Some(key.clone());
    Ok(())
}

#[cfg(test)]
#[path = "pack_tests.rs"]
mod tests;
