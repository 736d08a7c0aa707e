//! The Redis serialization protocol, version 2 (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).

use bytes::{Buf, BytesMut};

/// Longest answer that is read, in bytes: those of scripts are a few numbers.
pub(crate) const LONGEST: usize = 64 << 10;

/// Depth of lists in lists.
const DEEPEST: usize = 4;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    Nil,
    /// A whole number.
    Integer(i64),
    /// A text, short or long.
    Text(Vec<u8>),
    /// Why the question was refused: a code in capitals, and a reason.
    Error(String),
    /// Several answers.
    List(Vec<Value>),
}

/// What came is no answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("what it sent is not the protocol of Redis: see that the port is Redis's, and whether it speaks TLS")]
pub(crate) struct Malformed;

/// A question, of its parts.
pub fn command(parts: &[&[u8]]) -> Vec<u8> {
    let mut text = Vec::with_capacity(16 + parts.iter().map(|part| part.len() + 16).sum::<usize>());
    text.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for part in parts {
        text.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        text.extend_from_slice(part);
        text.extend_from_slice(b"\r\n");
    }
    text
}

/// Takes the first answer off what was read; `None` while it is not complete.
pub(crate) fn take(read: &mut BytesMut) -> Result<Option<Value>, Malformed> {
    let mut rest: &[u8] = read;
    let Some(value) = value(&mut rest, 0)? else {
        return if read.len() > LONGEST { Err(Malformed) } else { Ok(None) };
    };
    let taken = read.len() - rest.len();
    read.advance(taken);
    Ok(Some(value))
}

fn value(rest: &mut &[u8], depth: usize) -> Result<Option<Value>, Malformed> {
    let Some((kind, line)) = line(rest)? else { return Ok(None) };
    Ok(Some(match kind {
        b'+' => Value::Text(line.to_vec()),
        b'-' => Value::Error(String::from_utf8_lossy(line).into_owned()),
        b':' => Value::Integer(number(line)?),
        b'$' | b'*' if line == b"-1" => Value::Nil,
        b'$' => {
            let length = length(line)?;
            let Some((text, after)) = rest.split_at_checked(length) else { return Ok(None) };
            let Some((end, after)) = after.split_at_checked(2) else { return Ok(None) };
            if end != b"\r\n" {
                return Err(Malformed);
            }
            *rest = after;
            Value::Text(text.to_vec())
        }
        b'*' if depth < DEEPEST => {
            let length = length(line)?;
            // Grown as answers are there: the number alone takes no memory.
            let mut list = Vec::new();
            while list.len() < length {
                let Some(member) = value(rest, depth + 1)? else { return Ok(None) };
                list.push(member);
            }
            Value::List(list)
        }
        _ => return Err(Malformed),
    }))
}

/// The kind of the next answer and the rest of its line.
fn line<'a>(rest: &mut &'a [u8]) -> Result<Option<(u8, &'a [u8])>, Malformed> {
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let (line, after) = rest.split_at(end + 1);
    let [kind, line @ .., b'\r', b'\n'] = line else { return Err(Malformed) };
    *rest = after;
    Ok(Some((*kind, line)))
}

fn number(text: &[u8]) -> Result<i64, Malformed> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Malformed)
}

fn length(text: &[u8]) -> Result<usize, Malformed> {
    number(text)?.try_into().ok().filter(|length| *length <= LONGEST).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<Option<Value>, Malformed>, left: &str) {
        let mut read = BytesMut::from(text);
        assert_eq!(take(&mut read), expected, "{text:?}");
        assert_eq!(read, left, "{text:?}");
    }

    #[test]
    fn answers_are_taken_one_by_one() {
        check(":1\r\n:2\r\n", Ok(Some(Value::Integer(1))), ":2\r\n");
        check("+OK\r\n", Ok(Some(Value::Text(b"OK".into()))), "");
        check("-ERR no\r\n", Ok(Some(Value::Error("ERR no".into()))), "");
        check("$4\r\na\r\nb\r\n", Ok(Some(Value::Text(b"a\r\nb".into()))), "");
        check("$-1\r\n", Ok(Some(Value::Nil)), "");
        check("*-1\r\n", Ok(Some(Value::Nil)), "");
        let list = Value::List(vec![Value::Integer(-1), Value::List(vec![Value::Text(b"".into())])]);
        check("*2\r\n:-1\r\n*1\r\n$0\r\n\r\n+next", Ok(Some(list)), "+next");
    }

    #[test]
    fn an_answer_that_is_not_complete_stays() {
        let whole = "*2\r\n:-1\r\n$3\r\nabc\r\n";
        for end in 0..whole.len() {
            let part = whole.get(..end).unwrap();
            check(part, Ok(None), part);
        }
    }

    #[test]
    fn what_is_no_answer_is_found() {
        let deep = "*1\r\n".repeat(DEEPEST + 1);
        let long = format!("+{}", "a".repeat(LONGEST));
        let bad = [
            "HTTP/1.1 400\r\n",
            ":x\r\n",
            ":1\n",
            "\r\n",
            "$-2\r\n",
            "$65537\r\n",
            "$1\r\nab\r\n",
            "*99999\r\n",
            &deep,
            &long,
        ];
        for text in bad {
            check(text, Err(Malformed), text);
        }
    }

    #[test]
    fn parts_are_told_apart_by_their_length() {
        assert_eq!(command(&[b"GET", b"a\r\nb"]), b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n");
    }
}
