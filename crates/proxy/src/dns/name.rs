//! Names of the Domain Name System.

use super::message::BadMessage;
use std::fmt;

/// Longest name, in the form it has in messages (RFC 1035 §2.3.4).
const LONGEST_NAME: usize = 255;
/// Longest label.
const LONGEST_LABEL: usize = 63;

/// A name in the form it has in messages, uncompressed and in lower case, so that equal names are equal bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Reads `www.example.org`, with or without a dot at its end; `None` if it is no name. Letters beyond ASCII are to be
    /// written as A-labels (`xn--…`).
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let mut bytes = Vec::with_capacity(text.len() + 2);
        for label in text.split('.') {
            let length =
                u8::try_from(label.len()).ok().filter(|length| (1..=LONGEST_LABEL).contains(&usize::from(*length)))?;
            if !label.bytes().all(|byte| byte.is_ascii_graphic()) {
                return None;
            }
            bytes.push(length);
            bytes.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
        }
        bytes.push(0);
        (bytes.len() <= LONGEST_NAME).then(|| Self(bytes.into()))
    }

    /// Reads a name of a message that begins at `at`, and says where what follows it begins.
    ///
    /// # Errors
    /// The message ends before the name does, or the name is longer than a name may be, or a pointer of it does not point
    /// backwards.
    pub(super) fn read(message: &[u8], at: usize) -> Result<(Self, usize), BadMessage> {
        let mut bytes = Vec::with_capacity(32);
        let mut at = at;
        let mut end = None;
        // Each pointer must lead before the place where the labels that it ends began: so there is an end.
        let mut start = at;
        loop {
            let length = usize::from(*message.get(at).ok_or(BadMessage::Short)?);
            match length >> 6 {
                0 => {
                    let label = message.get(at + 1..at + 1 + length).ok_or(BadMessage::Short)?;
                    if bytes.len() + 1 + length > LONGEST_NAME {
                        return Err(BadMessage::Name);
                    }
                    bytes.extend_from_slice(&message[at..=at]);
                    bytes.extend(label.iter().map(u8::to_ascii_lowercase));
                    at += 1 + length;
                    if length == 0 {
                        return Ok((Self(bytes.into()), end.unwrap_or(at)));
                    }
                }
                3 => {
                    let low = usize::from(*message.get(at + 1).ok_or(BadMessage::Short)?);
                    let target = (length & 0x3f) << 8 | low;
                    if target >= start {
                        return Err(BadMessage::Name);
                    }
                    end = end.or(Some(at + 2));
                    (at, start) = (target, target);
                }
                _ => return Err(BadMessage::Name),
            }
        }
    }

    /// The bytes of it in a message.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is the name of the root, which as a target means "no such service" (RFC 2782).
    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = &*self.0;
        let mut first = true;
        while let Some((length, tail)) = rest.split_first().filter(|(length, _)| **length > 0) {
            let (label, tail) = tail.split_at(usize::from(*length).min(tail.len()));
            if !std::mem::take(&mut first) {
                f.write_str(".")?;
            }
            write!(f, "{}", label.escape_ascii())?;
            rest = tail;
        }
        if first { f.write_str(".") } else { Ok(()) }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let check = |text: &str, shown: Option<&str>| {
            assert_eq!(Name::parse(text).map(|name| name.to_string()).as_deref(), shown, "{text}");
        };
        check("www.Example.org", Some("www.example.org"));
        check("_http._tcp.svc.", Some("_http._tcp.svc"));
        check(&"a".repeat(63), Some(&"a".repeat(63)));
        let longest = [&*"a".repeat(63), &"b".repeat(63), &"c".repeat(63), &"d".repeat(61)].join(".");
        check(&longest, Some(&longest));
        for text in ["", ".", "a..b", ".a", "a b", "ü.test", &"a".repeat(64), &format!("{longest}e")] {
            check(text, None);
        }
    }

    #[test]
    fn names_of_messages() {
        let check = |message: &[u8], at: usize, expected: Result<(&str, usize), BadMessage>| {
            let read = Name::read(message, at).map(|(name, end)| (name.to_string(), end));
            assert_eq!(read, expected.map(|(name, end)| (name.to_owned(), end)), "{message:?}");
        };
        let message = b"\x01a\x04Test\x00\x01b\xc0\x02\xc0\x08";
        check(message, 0, Ok(("a.test", 8)));
        check(message, 8, Ok(("b.test", 12)));
        check(message, 12, Ok(("b.test", 14)));
        check(b"\x00", 0, Ok((".", 1)));
        check(b"", 0, Err(BadMessage::Short));
        check(b"\x03ab", 0, Err(BadMessage::Short));
        check(b"\x01a", 0, Err(BadMessage::Short));
        check(b"\xc0", 0, Err(BadMessage::Short));
        check(b"\xc0\x00", 0, Err(BadMessage::Name));
        check(b"\x01a\xc0\x00", 0, Err(BadMessage::Name));
        check(b"\xc0\x02\xc0\x00", 2, Err(BadMessage::Name));
        check(b"\x40a\x00", 0, Err(BadMessage::Name));
        let mut long = [&b"\x3f"[..], &[b'a'; 63]].concat().repeat(4);
        long.push(0);
        check(&long, 0, Err(BadMessage::Name));
    }
}
