//! The layout of one file: a header, then records, each framed, checksummed and sealed.
//!
//! ```text
//! header  8 "MCSTATE\n"   2 version   2 kind   8 number   32 salt   4 CRC-32 of all before
//! record  4 length of what is sealed   8 sequence   4 CRC-32 of length, sequence and what is sealed   sealed bytes
//! ```
//! Integers are little-endian. The checksum tells a torn or flipped record from one under another key; what makes a record
//! trustworthy is the seal: AES-256-GCM, with the header and the sequence as associated data.
//!
//! Nonces: every file has a key of its own, derived (HKDF-SHA256) from the state key and the file's salt of 256 random bits,
//! and the nonce is the record's sequence, which counts from 0. So a pair of key and nonce repeats only if one file seals two
//! records under one sequence. It cannot: a file is written once, from its beginning, by the one [`Writer`] that drew its salt.
//! A file that exists is never gone on with, and a writer that met an error is gone with it.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, rand};
use std::io::{self, Read, Seek, SeekFrom, Write};

const MAGIC: [u8; 8] = *b"MCSTATE\n";
const VERSION: u16 = 1;
const SALT: std::ops::Range<usize> = 20..52;
const HEADER_BYTES: usize = 56;
const FRAME_BYTES: usize = 16;

/// What a file holds; part of its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A whole configuration: its head, and the objects.
    Checkpoint = 1,
    /// The head of a configuration, and changes that lead on from it.
    Changes = 2,
}

/// The key under which the files of a node are sealed.
#[derive(Clone)]
pub(super) struct StateKey(pub(super) [u8; 32]);

impl StateKey {
    /// The cipher of the file with this header.
    fn cipher(&self, header: &[u8; HEADER_BYTES]) -> LessSafeKey {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, &header[SALT]);
        let secret = salt.extract(&self.0);
        let key = secret.expand(&[b"milecastle state file v1"], &AES_256_GCM);
        LessSafeKey::new(UnboundKey::from(key.expect("a key is shorter than what HKDF gives")))
    }
}

/// Seals and opens the records of one file.
struct Sealer {
    key: LessSafeKey,
    header: [u8; HEADER_BYTES],
    sequence: u64,
}

impl Sealer {
    fn new(key: &StateKey, header: [u8; HEADER_BYTES]) -> Self {
        Self { key: key.cipher(&header), header, sequence: 0 }
    }

    fn context(&self) -> (Nonce, Aad<[u8; HEADER_BYTES + 8]>) {
        let (mut nonce, mut data) = ([0; NONCE_LEN], [0; HEADER_BYTES + 8]);
        let sequence = self.sequence.to_le_bytes();
        nonce[..8].copy_from_slice(&sequence);
        data[..HEADER_BYTES].copy_from_slice(&self.header);
        data[HEADER_BYTES..].copy_from_slice(&sequence);
        (Nonce::assume_unique_for_key(nonce), Aad::from(data))
    }
}

/// Writes one file.
pub(super) struct Writer<W> {
    sink: W,
    sealer: Sealer,
    bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a file in an empty sink, with its first record. What the kernel gets is whole: header and record in one write.
    pub(super) fn begin(sink: W, key: &StateKey, kind: Kind, number: u64, first: Vec<u8>) -> io::Result<Self> {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..10].copy_from_slice(&VERSION.to_le_bytes());
        header[10..12].copy_from_slice(&(kind as u16).to_le_bytes());
        header[12..20].copy_from_slice(&number.to_le_bytes());
        rand::fill(&mut header[SALT]).map_err(|_| io::Error::other("the system gives no random bytes"))?;
        let sum = crc32fast::hash(&header[..SALT.end]);
        header[SALT.end..].copy_from_slice(&sum.to_le_bytes());
        let writer = Self { sink, sealer: Sealer::new(key, header), bytes: 0 };
        writer.write(header.to_vec(), first)
    }

    /// Appends a record. The writer is gone with an error, see the module's head.
    pub(super) fn push(self, record: Vec<u8>) -> io::Result<Self> {
        self.write(Vec::new(), record)
    }

    fn write(mut self, mut out: Vec<u8>, mut record: Vec<u8>) -> io::Result<Self> {
        let (nonce, data) = self.sealer.context();
        self.sealer
            .key
            .seal_in_place_append_tag(nonce, data, &mut record)
            .map_err(|_| io::Error::other("a record could not be sealed"))?;
        let length = u32::try_from(record.len()).map_err(|_| io::Error::other("a record of over 4 GiB"))?;
        let (length, sequence) = (length.to_le_bytes(), self.sealer.sequence.to_le_bytes());
        let mut sum = crc32fast::Hasher::new();
        [&length[..], &sequence, &record].into_iter().for_each(|part| sum.update(part));
        out.reserve_exact(FRAME_BYTES + record.len());
        out.extend_from_slice(&length);
        out.extend_from_slice(&sequence);
        out.extend_from_slice(&sum.finalize().to_le_bytes());
        out.extend_from_slice(&record);
        self.sink.write_all(&out)?;
        self.bytes += out.len() as u64;
        self.sealer.sequence += 1;
        Ok(self)
    }

    /// Bytes written so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where they went.
    pub(super) fn sink(&self) -> &W {
        &self.sink
    }
}

/// Why a file, or the rest of it, is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The file system.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Another kind of file, or this one under another name.
    #[error("it is not what its name says: {0}")]
    Foreign(&'static str),
    /// The file ends in the middle.
    #[error("it is cut off")]
    Torn,
    /// A checksum is wrong.
    #[error("it is damaged")]
    Damaged,
    /// Whole, but it does not open.
    #[error("it was sealed with another key, or altered")]
    Sealed,
    /// It opens, and holds something that makes no sense.
    #[error("{0}")]
    Content(String),
}

/// A place in a file, between two records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    offset: u64,
    /// Of the next record.
    sequence: u64,
}

impl Place {
    /// Bytes of the file before it.
    pub(super) fn offset(self) -> u64 {
        self.offset
    }
}

/// Reads one file.
pub(super) struct Reader<R> {
    source: R,
    /// Bytes of the file.
    bytes: u64,
    /// Bytes of the file that were not read yet: no record is longer.
    left: u64,
    sealer: Sealer,
}

impl<R: Read> Reader<R> {
    /// A reader of a file of `bytes` bytes that should be of this kind and number.
    pub(super) fn open(mut source: R, bytes: u64, key: &StateKey, kind: Kind, number: u64) -> Result<Self, ReadError> {
        let left = bytes.checked_sub(HEADER_BYTES as u64).ok_or(ReadError::Torn)?;
        let mut header = [0; HEADER_BYTES];
        source.read_exact(&mut header)?;
        let (told, sum) = header.split_at(SALT.end);
        if !told.starts_with(&MAGIC) {
            return Err(ReadError::Foreign("it does not begin like a file of this kind"));
        }
        if crc32fast::hash(told).to_le_bytes() != *sum {
            return Err(ReadError::Damaged);
        }
        if told[8..10] != VERSION.to_le_bytes() {
            return Err(ReadError::Foreign("its layout is that of another version"));
        }
        if told[10..12] != (kind as u16).to_le_bytes() || told[12..20] != number.to_le_bytes() {
            return Err(ReadError::Foreign("it was renamed or copied"));
        }
        Ok(Self { source, bytes, left, sealer: Sealer::new(key, header) })
    }

    /// Where the next record begins. Without a meaning after an error.
    pub(super) fn place(&self) -> Place {
        Place { offset: self.bytes - self.left, sequence: self.sealer.sequence }
    }

    /// The next record; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, ReadError> {
        if self.left == 0 {
            return Ok(None);
        }
        let left = self.left.checked_sub(FRAME_BYTES as u64).ok_or(ReadError::Torn)?;
        let (mut length, mut sequence, mut sum) = ([0; 4], [0; 8], [0; 4]);
        self.source.read_exact(&mut length)?;
        self.source.read_exact(&mut sequence)?;
        self.source.read_exact(&mut sum)?;
        let bytes = u32::from_le_bytes(length);
        self.left = left.checked_sub(bytes.into()).ok_or(ReadError::Torn)?;
        let mut record = vec![0; bytes as usize];
        self.source.read_exact(&mut record)?;
        let mut computed = crc32fast::Hasher::new();
        [&length[..], &sequence, &record].into_iter().for_each(|part| computed.update(part));
        if computed.finalize() != u32::from_le_bytes(sum) || u64::from_le_bytes(sequence) != self.sealer.sequence {
            return Err(ReadError::Damaged);
        }
        let (nonce, data) = self.sealer.context();
        let plain = self.sealer.key.open_in_place(nonce, data, &mut record).map_err(|_| ReadError::Sealed)?.len();
        record.truncate(plain);
        self.sealer.sequence += 1;
        Ok(Some(record))
    }
}

impl<R: Read + Seek> Reader<R> {
    /// Goes to a place that a reader of this file has come to.
    pub(super) fn go_to(&mut self, place: Place) -> Result<(), ReadError> {
        self.left = self.bytes.checked_sub(place.offset).ok_or(ReadError::Torn)?;
        self.source.seek(SeekFrom::Start(place.offset))?;
        self.sealer.sequence = place.sequence;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: StateKey = StateKey([7; 32]);

    fn written(records: &[&str]) -> Vec<u8> {
        let (first, rest) = records.split_first().unwrap();
        let writer = Writer::begin(Vec::new(), &KEY, Kind::Changes, 3, first.as_bytes().to_vec()).unwrap();
        let writer = rest.iter().fold(writer, |writer, record| writer.push(record.as_bytes().to_vec()).unwrap());
        assert_eq!(writer.bytes(), writer.sink().len() as u64);
        writer.sink
    }

    fn read_as(bytes: &[u8], key: &StateKey, kind: Kind, number: u64) -> (Vec<String>, Option<ReadError>) {
        let mut records = Vec::new();
        let mut reader = match Reader::open(bytes, bytes.len() as u64, key, kind, number) {
            Ok(reader) => reader,
            Err(error) => return (records, Some(error)),
        };
        loop {
            match reader.next() {
                Ok(Some(record)) => records.push(String::from_utf8(record).unwrap()),
                Ok(None) => return (records, None),
                Err(error) => return (records, Some(error)),
            }
        }
    }

    fn read(bytes: &[u8]) -> (Vec<String>, Option<ReadError>) {
        read_as(bytes, &KEY, Kind::Changes, 3)
    }

    #[test]
    fn records_read_back() {
        let (records, fault) = read(&written(&["head", "", "two"]));
        assert_eq!(records, ["head", "", "two"]);
        assert!(fault.is_none());
    }

    #[test]
    fn a_file_cut_anywhere_gives_the_records_before_the_cut() {
        let whole = written(&["head", "one", "two"]);
        let one = written(&["head", "one"]).len();
        for cut in 0..whole.len() {
            let (records, fault) = read(&whole[..cut]);
            assert!(
                records.len() < 3
                    && ["head", "one", "two"].starts_with(&records.iter().map(|r| &**r).collect::<Vec<_>>())
            );
            assert_eq!(records.len() == 2, cut >= one, "{cut}");
            let at_an_end = cut == one || cut == written(&["head"]).len() || cut == HEADER_BYTES;
            assert_eq!(fault.is_none(), at_an_end, "{cut}");
        }
    }

    #[test]
    fn no_bit_flips_unseen() {
        let whole = written(&["head", "one", "two"]);
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let (records, fault) = read(&flipped);
            assert!(fault.is_some() && records.len() < 3, "bit {bit}");
        }
    }

    #[test]
    fn only_this_file_under_this_name_with_this_key_opens() {
        let file = written(&["head"]);
        assert!(matches!(read_as(&file, &StateKey([8; 32]), Kind::Changes, 3).1, Some(ReadError::Sealed)));
        assert!(matches!(read_as(&file, &KEY, Kind::Checkpoint, 3).1, Some(ReadError::Foreign(_))));
        assert!(matches!(read_as(&file, &KEY, Kind::Changes, 4).1, Some(ReadError::Foreign(_))));
        assert!(matches!(read_as(b"", &KEY, Kind::Changes, 3).1, Some(ReadError::Torn)));
        assert!(matches!(read_as(&[b'x'; 99], &KEY, Kind::Changes, 3).1, Some(ReadError::Foreign(_))));
    }

    #[test]
    fn a_file_that_has_grown_is_read_on_from_a_place() {
        let whole = written(&["head", "one", "two"]);
        let one = written(&["head", "one"]).len();
        let open = |bytes: &[u8]| {
            let source = io::Cursor::new(bytes.to_vec());
            Reader::open(source, bytes.len() as u64, &KEY, Kind::Changes, 3).unwrap()
        };
        let mut reader = open(&whole[..one + 5]);
        reader.next().unwrap();
        reader.next().unwrap();
        let place = reader.place();
        assert_eq!(place.offset(), one as u64);
        assert!(matches!(reader.next(), Err(ReadError::Torn)));
        let mut reader = open(&whole);
        reader.go_to(place).unwrap();
        assert_eq!(reader.next().unwrap().unwrap(), b"two");
        assert!(reader.next().unwrap().is_none());
        let mut reader = open(&whole);
        reader.go_to(Place { sequence: 0, ..place }).unwrap();
        assert!(matches!(reader.next(), Err(ReadError::Damaged)));
    }

    #[test]
    fn records_of_one_file_do_not_open_in_another() {
        let (one, other) = (written(&["head", "one"]), written(&["head", "one"]));
        let head = written(&["head"]).len();
        let mixed = [&one[..head], &other[head..]].concat();
        let (records, fault) = read(&mixed);
        assert_eq!(records, ["head"]);
        assert!(matches!(fault, Some(ReadError::Sealed)));
        let twice = [&one[..], &one[head..]].concat();
        assert!(matches!(read(&twice).1, Some(ReadError::Damaged)));
    }

    #[test]
    fn a_length_beyond_the_file_takes_no_memory() {
        let mut file = written(&["head"]);
        file[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(read(&file).1, Some(ReadError::Torn)));
    }
}
