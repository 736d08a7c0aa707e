//! The answer of a resolver: the reader against an obvious one.
//!
//! Input: a byte that chooses the kind that was asked for, two of flags, six of counts, and what follows the question for
//! `a.test`.

use milecastle_proxy::fuzzing::{Data, Kind, Message, Name};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Panics if the input shows a fault.
pub(crate) fn try_input(data: &[u8]) {
    let [choice, high, low, a, b, c, d, e, f, rest @ ..] = data else { return };
    let (kind, code) = [(Kind::A, 1), (Kind::Aaaa, 28), (Kind::Srv, 33)][usize::from(choice % 3)];
    let head = [0, 7, *high, *low, 0, 1, *a, *b, *c, *d, *e, *f];
    let message = [&head[..], b"\x01a\x04test\x00", &[0, code, 0, 1], rest].concat();
    let name = Name::parse("a.test").expect("a name");
    let Ok(read) = Message::answer(&message, 7, &name, kind) else { return };
    assert!(high & 0xf8 == 0x80, "only answers to queries are read");
    assert_eq!(read.truncated, high & 2 != 0);
    assert_eq!(read.code, low & 0xf);
    let records = [[a, b], [c, d], [e, f]].map(|[high, low]| usize::from(*high) << 8 | usize::from(*low)).iter().sum();
    let (expected, whole) = obvious(&message, 24, records);
    assert!(whole || read.truncated, "what is cut off is refused");
    let shown: Vec<String> =
        read.records.iter().map(|record| format!("{} {} {}", record.name, record.ttl, show(&record.data))).collect();
    assert_eq!(shown, expected);
    assert!(read.negative_ttl().is_none_or(|ttl| ttl <= i32::MAX as u32));
}

fn show(data: &Data) -> String {
    match data {
        Data::Address(ip) => format!("address {ip}"),
        Data::Alias(name) => format!("alias {name}"),
        Data::Service { priority, weight, port, target } => format!("service {priority} {weight} {port} {target}"),
        Data::Negative(seconds) => format!("negative {seconds}"),
    }
}

/// The records from `at` on as text, until one is malformed; and whether there were as many as there should be.
fn obvious(message: &[u8], mut at: usize, count: usize) -> (Vec<String>, bool) {
    let mut found = Vec::new();
    for _ in 0..count {
        let Some((text, next)) = record(message, at) else { return (found, false) };
        found.extend(text);
        at = next;
    }
    (found, true)
}

fn record(message: &[u8], at: usize) -> Option<(Option<String>, usize)> {
    let (owner, at) = name(message, at)?;
    let word = |at: usize| Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?));
    let long = |at: usize| Some(u32::from_be_bytes(message.get(at..at + 4)?.try_into().ok()?));
    let (kind, class, ttl, length) = (word(at)?, word(at + 2)?, long(at + 4)?, usize::from(word(at + 8)?));
    let (at, end) = (at + 10, at + 10 + length);
    let message = message.get(..end)?;
    let word = |at: usize| Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?));
    let (text, used) = match (kind, class) {
        (1, 1) => {
            let octets: [u8; 4] = message.get(at..at + 4)?.try_into().ok()?;
            (format!("address {}", IpAddr::from(Ipv4Addr::from(octets))), at + 4)
        }
        (28, 1) => {
            let octets: [u8; 16] = message.get(at..at + 16)?.try_into().ok()?;
            (format!("address {}", IpAddr::from(Ipv6Addr::from(octets))), at + 16)
        }
        (5, 1) => {
            let (target, used) = name(message, at)?;
            (format!("alias {target}"), used)
        }
        (33, 1) => {
            let (target, used) = name(message, at + 6)?;
            (format!("service {} {} {} {target}", word(at)?, word(at + 2)?, word(at + 4)?), used)
        }
        (6, 1) => {
            let (_, used) = name(message, at)?;
            let (_, used) = name(message, used)?;
            let minimum: [u8; 4] = message.get(used + 16..used + 20)?.try_into().ok()?;
            (format!("negative {}", u32::from_be_bytes(minimum)), used + 20)
        }
        _ => return Some((None, end)),
    };
    let ttl = if ttl >> 31 == 1 { 0 } else { ttl };
    (used == end).then_some((Some(format!("{owner} {ttl} {text}")), end))
}

/// A name, and where what follows it begins.
fn name(message: &[u8], at: usize) -> Option<(String, usize)> {
    let (labels, end) = labels(message, at)?;
    let length: usize = labels.iter().map(|label| label.len() + 1).sum();
    let text: Vec<String> = labels.iter().map(|label| label.escape_ascii().to_string()).collect();
    (length < 255).then(|| (if text.is_empty() { ".".to_owned() } else { text.join(".") }, end))
}

/// The labels from `start` on; a pointer leads to a place before that.
fn labels(message: &[u8], start: usize) -> Option<(Vec<Vec<u8>>, usize)> {
    let (mut at, mut found) = (start, Vec::new());
    loop {
        let length = usize::from(*message.get(at)?);
        match length {
            0 => return Some((found, at + 1)),
            1..=63 => {
                found.push(message.get(at + 1..at + 1 + length)?.to_ascii_lowercase());
                at += 1 + length;
            }
            192..=255 => {
                let target = (length - 192) << 8 | usize::from(*message.get(at + 1)?);
                if target >= start {
                    return None;
                }
                found.extend(labels(message, target)?.0);
                return Some((found, at + 2));
            }
            _ => return None,
        }
    }
}
