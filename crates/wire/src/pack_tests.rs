use proptest::prelude::*;

use super::*;

/// Small, so that little input makes many chunks.
const SLICE: usize = 64;

const SMALL: Limits = Limits { record_bytes: 1000, total_bytes: 100_000 };

fn object(id: &str, body: &[u8]) -> pb::Object {
    let key = Some(pb::ObjectKey { kind: "route".to_owned(), id: id.to_owned() });
    pb::Object { key, body: Bytes::copy_from_slice(body), created: 1, modified: 2 }
}

fn write(objects: &[pb::Object]) -> Frames {
    let mut writer = Writer::with_slice(SLICE).unwrap();
    objects.iter().for_each(|object| writer.push(object).unwrap());
    writer.finish().unwrap()
}

fn read(chunks: impl IntoIterator<Item = pb::Chunk>, limits: Limits) -> Result<Vec<pb::Object>, PackError> {
    let mut reader = Reader::with_slice(limits, SLICE)?;
    let mut objects = Vec::new();
    for chunk in chunks {
        objects.append(&mut reader.push(&chunk)?);
    }
    if reader.is_complete() { Ok(objects) } else { Err(PackError::Truncated) }
}

/// A frame of bytes that no writer would write.
fn forge(raw: &[u8]) -> pb::Chunk {
    pb::Chunk { index: 0, total: 1, frame: zstd::bulk::compress(raw, 1).unwrap().into() }
}

fn some_objects() -> Vec<pb::Object> {
    (0..6).map(|n| object(&n.to_string(), format!("{{\"uri\":\"/{n}/{}\"}}", "é".repeat(n * 9)).as_bytes())).collect()
}

proptest! {
    #[test]
    fn what_is_written_is_read(bodies in prop::collection::btree_map("[a-z0-9]{0,6}", prop::collection::vec(any::<u8>(), 0..300), 0..20)) {
        let objects: Vec<_> = bodies.iter().map(|(id, body)| object(id, body)).collect();
        let frames = write(&objects);
        prop_assert_eq!(read(frames.chunks(0), SMALL).unwrap(), objects);
    }

    #[test]
    fn noise_is_refused_without_harm(noise in prop::collection::vec(any::<u8>(), 0..200), total in 1_u32..4) {
        let chunk = pb::Chunk { index: 0, total, frame: noise.into() };
        prop_assert!(read([chunk], SMALL).is_err());
    }

    #[test]
    fn records_of_noise_do_no_harm(noise in prop::collection::vec(any::<u8>(), 0..SLICE)) {
        let empty = noise.is_empty();
        let result = read([forge(&noise)], SMALL);
        prop_assert!(empty || result.is_err() || result.is_ok_and(|objects| !objects.is_empty()));
    }
}

#[test]
fn no_records_are_one_empty_chunk() {
    let frames = write(&[]);
    assert_eq!(frames.total(), 1);
    assert_eq!(read(frames.chunks(0), SMALL).unwrap(), []);
}

#[test]
fn no_frame_is_not_an_empty_one() {
    let chunk = |frame: &[u8]| pb::Chunk { index: 0, total: 1, frame: Bytes::copy_from_slice(frame) };
    let empty = forge(b"").frame;
    assert_eq!(read([chunk(&empty)], SMALL).unwrap(), []);
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
    let two = [&empty[..], &empty[..]].concat();
    for frame in [&[][..], &skippable, &two] {
        assert!(matches!(read([chunk(frame)], SMALL), Err(PackError::NotOneFrame { index: 0 })), "{frame:?}");
    }
}

#[test]
fn a_broken_off_reader_goes_on_with_another_replica() {
    let frames = write(&some_objects());
    assert!(frames.total() > 3);
    for stop in 0..frames.total() {
        let mut reader = Reader::<pb::Object>::with_slice(SMALL, SLICE).unwrap();
        let mut objects = Vec::new();
        for chunk in frames.chunks(0).take(stop as usize) {
            objects.append(&mut reader.push(&chunk).unwrap());
        }
        let other = write(&some_objects());
        for chunk in other.chunks(reader.next_chunk()) {
            objects.append(&mut reader.push(&chunk).unwrap());
        }
        assert!(reader.is_complete());
        assert_eq!(objects, some_objects(), "stopped after {stop}");
    }
}

#[test]
fn a_chunk_out_of_turn_changes_nothing() {
    let frames = write(&some_objects());
    let mut reader = Reader::<pb::Object>::with_slice(SMALL, SLICE).unwrap();
    let mut objects = Vec::new();
    for chunk in frames.chunks(0) {
        let ahead = pb::Chunk { index: chunk.index + 1, total: u32::MAX, ..chunk.clone() };
        assert!(matches!(reader.push(&ahead), Err(PackError::WrongChunk { .. })));
        objects.append(&mut reader.push(&chunk).unwrap());
        assert!(matches!(reader.push(&chunk), Err(PackError::WrongChunk { .. })));
    }
    assert_eq!(objects, some_objects());
}

#[test]
fn every_damaged_byte_is_noticed_or_without_effect() {
    let chunks: Vec<_> = write(&some_objects()).chunks(0).collect();
    for (n, chunk) in chunks.iter().enumerate() {
        for at in 0..chunk.frame.len() {
            for bit in 0..8 {
                let mut frame = chunk.frame.to_vec();
                frame[at] ^= 1 << bit;
                let mut damaged = chunks.clone();
                damaged[n].frame = frame.into();
                if let Ok(objects) = read(damaged, SMALL) {
                    // A few bits of a zstd frame say nothing.
                    assert_eq!(objects, some_objects(), "chunk {n}, byte {at}, bit {bit}");
                }
            }
        }
    }
}

#[test]
fn every_cut_is_noticed() {
    let chunks: Vec<_> = write(&some_objects()).chunks(0).collect();
    for (n, chunk) in chunks.iter().enumerate() {
        assert!(read(chunks[..n].to_vec(), SMALL).is_err());
        for cut in 0..chunk.frame.len() {
            let mut damaged = chunks.clone();
            damaged[n].frame.truncate(cut);
            assert!(read(damaged, SMALL).is_err(), "chunk {n} cut at {cut}");
        }
    }
}

#[test]
fn a_bomb_bursts_at_the_slice() {
    let bomb = forge(&vec![0; 10 << 20]);
    assert!(bomb.frame.len() < 10_000);
    assert!(matches!(read([bomb], SMALL), Err(PackError::Frame { .. } | PackError::SliceSize { .. })));
}

#[test]
fn limits_hold() {
    let objects = [object("1", &[0; 2000])];
    let chunks = || write(&objects).chunks(0).collect::<Vec<_>>();
    assert!(matches!(read(chunks(), SMALL), Err(PackError::TooLarge { what: "record", .. })));
    let limits = Limits { record_bytes: 10_000, total_bytes: 1000 };
    assert!(matches!(read(chunks(), limits), Err(PackError::TooLarge { what: "total", .. })));
    let limits = Limits { record_bytes: 10_000, ..SMALL };
    assert_eq!(read(chunks(), limits).unwrap(), objects);
    // A length prefix alone must not make room for what it promises.
    assert!(matches!(read([forge(&[0xff; 9])], SMALL), Err(PackError::Truncated)));
    assert!(matches!(read([forge(&[0xff; 12])], SMALL), Err(PackError::Decode(_))));
}

#[test]
fn order_is_kept_on_both_sides() {
    let mut writer = Writer::new().unwrap();
    writer.push(&object("2", b"")).unwrap();
    assert!(matches!(writer.push(&object("1", b"")), Err(PackError::Order { id, .. }) if id == "1"));
    assert!(matches!(writer.push(&object("2", b"")), Err(PackError::Order { .. })));
    assert!(matches!(writer.push(&pb::Object::default()), Err(PackError::NoKey)));

    let mut raw = Vec::new();
    for id in ["2", "1"] {
        prost::Message::encode_length_delimited(&object(id, b""), &mut raw).unwrap();
    }
    assert!(matches!(read([forge(&raw)], SMALL), Err(PackError::Order { .. })));
    assert!(matches!(read([forge(&[0])], SMALL), Err(PackError::NoKey)));
}

#[test]
fn packing_sorts() {
    let mut reversed = some_objects();
    reversed.reverse();
    let mut reader = Reader::<pb::Object>::new(Limits::default()).unwrap();
    assert_eq!(reader.push(&Writer::pack(reversed).unwrap().chunk(0).unwrap()).unwrap(), some_objects());
    let twice = vec![object("1", b"a"), object("1", b"b")];
    assert!(matches!(Writer::pack(twice), Err(PackError::Order { .. })));
}
