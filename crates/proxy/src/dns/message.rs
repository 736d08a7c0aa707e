//! Messages of the Domain Name System (RFC 1035 §4).

use super::name::Name;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Size of a message's head.
const HEAD: usize = 12;
/// What we say we take over UDP (RFC 6891): what passes every path in one piece.
const UDP_SIZE: u16 = 1232;
/// The class of the Internet.
const IN: u16 = 1;

/// What kind of record is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// IPv4 address.
    A,
    /// IPv6 address.
    Aaaa,
    /// Service.
    Srv,
}

impl Kind {
    fn code(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Aaaa => 28,
            Self::Srv => 33,
        }
    }
}

/// A message that is none, or not an answer to what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// It ends too early.
    #[error("the message ends too early")]
    Short,
    /// A name of it is none.
    #[error("a name of the message is malformed")]
    Name,
    /// The data of a record are not what its kind asks for.
    #[error("the data of a record are malformed")]
    Data,
    /// It is no answer, or one to something else.
    #[error("the message does not answer what was asked")]
    Other,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// An address.
    Address(IpAddr),
    /// Another name, where the records are.
    Alias(Name),
    /// Where a service is.
    Service {
        /// The lowest is used first.
        priority: u16,
        /// Share among those of one priority.
        weight: u16,
        /// Port.
        port: u16,
        /// The host; the root where there is no such service.
        target: Name,
    },
    /// How long "there is none" holds, in seconds (RFC 2308).
    Negative(u32),
}

/// A record of a kind that is read here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose record it is.
    pub name: Name,
    /// How long it holds, in seconds.
    pub ttl: u32,
    /// What it says.
    pub data: Data,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// How the question fared: 0 is well, 3 is "no such name".
    pub code: u8,
    /// Records are missing: the question is to be asked over TCP.
    pub truncated: bool,
    /// Records of the answer, then of the authority, then what was added, without those of other kinds.
    pub records: Vec<Record>,
}

impl Message {
    /// A question for records of one kind, with recursion.
    pub(super) fn question(id: u16, name: &Name, kind: Kind) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + name.bytes().len() + 15);
        // One question, one additional record: EDNS.
        for word in [id, 0x0100, 1, 0, 0, 1] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend(name.bytes());
        bytes.extend(kind.code().to_be_bytes());
        bytes.extend(IN.to_be_bytes());
        bytes.extend([0, 0, 41]);
        bytes.extend(UDP_SIZE.to_be_bytes());
        bytes.extend([0; 6]);
        bytes
    }

    /// Reads the answer to a question.
    ///
    /// # Errors
    /// The bytes are no message, or one that does not answer this question.
    pub fn answer(bytes: &[u8], id: u16, name: &Name, kind: Kind) -> Result<Self, BadMessage> {
        let mut reader = Reader { bytes, at: 0 };
        let (its_id, flags) = (reader.u16()?, reader.u16()?);
        let [questions, answers, authorities, additional] =
            [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
        let is_answer = flags & 0x8000 != 0 && flags & 0x7800 == 0;
        if its_id != id || !is_answer || questions != 1 {
            return Err(BadMessage::Other);
        }
        let asked = (reader.name()?, reader.u16()?, reader.u16()?);
        if asked != (name.clone(), kind.code(), IN) {
            return Err(BadMessage::Other);
        }
        let truncated = flags & 0x0200 != 0;
        let mut records = Vec::new();
        for _ in 0..u32::from(answers) + u32::from(authorities) + u32::from(additional) {
            match reader.record() {
                Ok(record) => records.extend(record),
                // What is missing of a truncated message is asked for again.
                Err(_) if truncated => break,
                Err(bad) => return Err(bad),
            }
        }
        Ok(Self { code: (flags & 0xf) as u8, truncated, records })
    }

    /// How long "there is none" holds, in seconds; `None` if nobody says.
    pub fn negative_ttl(&self) -> Option<u32> {
        self.records.iter().find_map(|record| match record.data {
            Data::Negative(minimum) => Some(minimum.min(record.ttl)),
            _ => None,
        })
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn u16(&mut self) -> Result<u16, BadMessage> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, BadMessage> {
        self.array().map(u32::from_be_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadMessage> {
        let found = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>()).ok_or(BadMessage::Short)?;
        self.at += N;
        Ok(*found)
    }

    fn name(&mut self) -> Result<Name, BadMessage> {
        let (name, end) = Name::read(self.bytes, self.at)?;
        self.at = end;
        Ok(name)
    }

    /// A record; `None` if it is of a kind that is of no use here.
    fn record(&mut self) -> Result<Option<Record>, BadMessage> {
        let name = self.name()?;
        let (kind, class, ttl, length) = (self.u16()?, self.u16()?, self.u32()?, usize::from(self.u16()?));
        let end = self.at + length;
        if end > self.bytes.len() {
            return Err(BadMessage::Short);
        }
        // Names in the data may point before it; so the whole message is read, up to the end of the data.
        let mut data = Reader { bytes: &self.bytes[..end], at: self.at };
        let read = match (kind, class) {
            (1, IN) => Some(Data::Address(Ipv4Addr::from(data.array::<4>()?).into())),
            (28, IN) => Some(Data::Address(Ipv6Addr::from(data.array::<16>()?).into())),
            (5, IN) => Some(Data::Alias(data.name()?)),
            (33, IN) => {
                let (priority, weight, port) = (data.u16()?, data.u16()?, data.u16()?);
                Some(Data::Service { priority, weight, port, target: data.name()? })
            }
            (6, IN) => {
                let (_, _) = (data.name()?, data.name()?);
                let [_, _, _, _, minimum] = [data.u32()?, data.u32()?, data.u32()?, data.u32()?, data.u32()?];
                Some(Data::Negative(minimum))
            }
            _ => None,
        };
        if read.is_some() && data.at != end {
            return Err(BadMessage::Data);
        }
        self.at = end;
        // A time with the first bit set is none (RFC 2181 §8).
        let ttl = if ttl > i32::MAX as u32 { 0 } else { ttl };
        Ok(read.map(|data| Record { name, ttl, data }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    /// An answer with number 7 to the question for `a.test`, of a kind; `sections` counts what follows.
    fn message(flags: u16, kind: Kind, sections: [u16; 3], rest: &[u8]) -> Vec<u8> {
        let mut bytes = Message::question(7, &name("a.test"), kind);
        bytes.truncate(bytes.len() - 11);
        bytes[2..4].copy_from_slice(&flags.to_be_bytes());
        for (place, count) in [6, 8, 10].into_iter().zip(sections) {
            bytes[place..place + 2].copy_from_slice(&count.to_be_bytes());
        }
        [&bytes, rest].concat()
    }

    fn read(bytes: &[u8], kind: Kind) -> Result<Message, BadMessage> {
        Message::answer(bytes, 7, &name("A.test"), kind)
    }

    const OWN: &[u8] = b"\xc0\x0c";

    fn record(kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(data.len()).unwrap();
        [OWN, &kind.to_be_bytes(), &[0, 1], &ttl.to_be_bytes(), &length.to_be_bytes(), data].concat()
    }

    #[test]
    fn questions_are_as_specified() {
        let question = Message::question(0x0102, &name("a.test"), Kind::Srv);
        assert_eq!(question, b"\x01\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x01a\x04test\x00\x00\x21\x00\x01\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00");
    }

    #[test]
    fn records_of_every_kind_are_read() {
        let rest = [
            record(1, 60, &[192, 0, 2, 1]),
            record(28, 61, &Ipv6Addr::LOCALHOST.octets()),
            record(5, 62, b"\x01b\xc0\x0e"),
            record(33, 63, b"\x00\x01\x00\x02\x1f\x90\x01b\x04test\x00"),
            record(16, 64, b"\x01x"),
            record(6, u32::MAX, &[&b"\x00\x00"[..], &[0; 16], &[0, 0, 0, 9]].concat()),
        ]
        .concat();
        let read = read(&message(0x8180, Kind::A, [4, 1, 1], &rest), Kind::A).unwrap();
        let data: Vec<(u32, Data)> = read.records.iter().map(|record| (record.ttl, record.data.clone())).collect();
        let service = Data::Service { priority: 1, weight: 2, port: 8080, target: name("b.test") };
        assert_eq!(
            data,
            [
                (60, Data::Address("192.0.2.1".parse().unwrap())),
                (61, Data::Address("::1".parse().unwrap())),
                (62, Data::Alias(name("b.test"))),
                (63, service),
                (0, Data::Negative(9)),
            ]
        );
        assert!(read.records.iter().all(|record| record.name == name("a.test")));
        assert_eq!((read.code, read.truncated, read.negative_ttl()), (0, false, Some(0)));
    }

    #[test]
    fn what_is_no_answer_to_the_question_is_refused() {
        let good = message(0x8180, Kind::A, [1, 0, 0], &record(1, 60, &[192, 0, 2, 1]));
        assert!(read(&good, Kind::A).is_ok());
        assert_eq!(read(&good, Kind::Aaaa), Err(BadMessage::Other));
        assert_eq!(Message::answer(&good, 8, &name("a.test"), Kind::A), Err(BadMessage::Other));
        assert_eq!(Message::answer(&good, 7, &name("b.test"), Kind::A), Err(BadMessage::Other));
        assert_eq!(read(&message(0x0100, Kind::A, [0, 0, 0], &[]), Kind::A), Err(BadMessage::Other));
        assert_eq!(read(&message(0xa180, Kind::A, [0, 0, 0], &[]), Kind::A), Err(BadMessage::Other));
        for cut in 0..good.len() {
            assert_eq!(read(&good[..cut], Kind::A), Err(BadMessage::Short), "{cut}");
        }
        let bad = |kind: u16, data: &[u8]| read(&message(0x8180, Kind::A, [1, 0, 0], &record(kind, 1, data)), Kind::A);
        assert_eq!(bad(1, &[1, 2, 3]), Err(BadMessage::Short));
        assert_eq!(bad(1, &[1, 2, 3, 4, 5]), Err(BadMessage::Data));
        assert_eq!(bad(5, b"\x01b\x00x"), Err(BadMessage::Data));
        assert_eq!(bad(33, &[0; 6]), Err(BadMessage::Short));
    }

    #[test]
    fn a_truncated_message_says_so_whatever_is_missing() {
        let whole = message(0x8380, Kind::A, [2, 0, 0], &record(1, 60, &[192, 0, 2, 1]));
        let read = read(&whole, Kind::A).unwrap();
        assert_eq!((read.truncated, read.records.len()), (true, 1));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let whole = message(0x8180, Kind::A, [9, 9, 9], &bytes);
            if let Ok(read) = read(&whole, Kind::A) {
                prop_assert!(read.records.len() <= bytes.len() / 11);
            }
        }
    }
}
