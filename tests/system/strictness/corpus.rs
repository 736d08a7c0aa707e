//! The corpus of raw requests in `tests/strictness`; its README says how it is written.

use super::http3;
use milecastle_testkit::frames::{self, END_HEADERS, END_STREAM, kind};
use std::path::{Path, PathBuf};

/// A request, or several on one connection, and what has to become of them.
pub(super) struct Case {
    /// File and line.
    pub(super) at: String,
    /// By the letter of the RFCs nothing is wrong with it.
    pub(super) legal: bool,
    /// Over HTTP/2: the frames of the first stream.
    pub(super) http2: bool,
    pub(super) bytes: Vec<u8>,
    /// The same request as the stream of HTTP/3, if it is one of HTTP/2.
    pub(super) http3: Option<Vec<u8>>,
    /// In the order in which things happen on the connection.
    pub(super) expected: Vec<Expected>,
}

pub(super) enum Expected {
    /// A request reaches the origin, and its answer the client.
    Passed(Passed),
    /// The gateway answers with this status, and the connection ends.
    Refused(u16),
    /// Over HTTP/2: the stream or the connection is reset, or the answer says what is wrong; no origin gets the request.
    Rejected,
    /// The connection ends behind the last answer.
    End,
    /// More would have to come, and the client says that it does not: there is no answer but perhaps 400.
    Unfinished,
}

/// How a request has to look to the origin.
#[derive(Default)]
pub(super) struct Passed {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) host: String,
    pub(super) body: Vec<u8>,
    /// Fields that must be there with this value.
    pub(super) fields: Vec<(String, String)>,
    /// Fields that must not be there.
    pub(super) absent: Vec<String>,
}

/// Where the corpus lies.
pub(super) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("strictness")
}

/// All cases, family by family.
pub(super) fn read() -> Vec<Case> {
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "txt")).collect();
    files.sort();
    files.iter().flat_map(|path| family(path)).collect()
}

fn family(path: &Path) -> Vec<Case> {
    let name = path.file_name().unwrap().to_string_lossy();
    let text = std::fs::read_to_string(path).unwrap();
    let mut cases = Vec::new();
    let mut frame: Vec<&str> = Vec::new();
    let mut open = false;
    for (number, line) in text.lines().enumerate() {
        let at = format!("{name}:{}", number + 1);
        match line.split_at_checked(1) {
            None | Some(("#", _)) => {}
            Some(("|", rest)) => {
                if !open {
                    frame.clear();
                }
                open = true;
                frame.push(rest.strip_prefix(' ').unwrap_or(rest));
                continue;
            }
            Some((mark @ ("+" | "-"), rest)) => {
                let (filling, expected) = rest.rsplit_once("=>").unwrap_or_else(|| panic!("{at}: no =>"));
                let http2 = name.starts_with("http2_");
                let lines = fill(&frame, filling.trim(), &at);
                let (bytes, http3) = match http2 {
                    false => (lay_out(&lines, &at), None),
                    true => {
                        let parts = parts(&lines, &at);
                        (lay_out_frames(&parts), Some(http3::lay_out(&parts)))
                    }
                };
                let expected: Vec<Expected> = expected.split(" & ").map(|item| expectation(item.trim(), &at)).collect();
                cases.push(Case { at, legal: mark == "+", http2, bytes, http3, expected });
            }
            Some(_) => panic!("{at}: begins with none of # | + -"),
        }
        open = false;
    }
    cases
}

/// The lines of a frame with its gap filled.
fn fill(frame: &[&str], filling: &str, at: &str) -> Vec<String> {
    assert!(!frame.is_empty(), "{at}: a case without a frame");
    assert_eq!(filling.is_empty(), !frame.iter().any(|line| line.contains("{}")), "{at}: the frame has a gap or none");
    let filling = if filling == r"\e" { "" } else { filling };
    frame.iter().map(|line| line.replace("{}", filling)).collect()
}

/// The request on the wire: each line ends with CR LF unless it ends with a backslash.
fn lay_out(lines: &[String], at: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        let (line, end): (&str, &[u8]) = line.strip_suffix('\\').map_or((line, b"\r\n"), |open| (open, b""));
        bytes.extend(unescape(line, at));
        bytes.extend(end);
    }
    bytes
}

/// A part of a request over HTTP/2 or HTTP/3.
pub(super) enum Part {
    /// A field of the head.
    Field(Vec<u8>, Vec<u8>),
    /// A frame of the body.
    Data(Vec<u8>),
    /// A field of the trailers.
    Trailer(Vec<u8>, Vec<u8>),
    /// Over HTTP/2 the frame ends, and the fields go on in the next one.
    FrameEnd,
}

fn parts(lines: &[String], at: &str) -> Vec<Part> {
    let items = lines.iter().flat_map(|line| line.split(" && ")).filter(|item| !item.is_empty());
    items
        .map(|item| {
            if item == "/" {
                return Part::FrameEnd;
            }
            if let Some(data) = item.strip_prefix("> ") {
                let data = if data == r"\e" { "" } else { data };
                return Part::Data(unescape(data, at));
            }
            let (item, trailer) = item.strip_prefix(". ").map_or((item, false), |item| (item, true));
            // The colon of a pseudo-header field is none between name and value.
            let (colon, rest) = item.split_at(usize::from(item.starts_with(':')));
            let (name, value) = rest.split_once(": ").unwrap_or_else(|| panic!("{at}: no field: {item}"));
            let value = if value == r"\e" { "" } else { value };
            let (name, value) = (unescape(&format!("{colon}{name}"), at), unescape(value, at));
            if trailer { Part::Trailer(name, value) } else { Part::Field(name, value) }
        })
        .collect()
}

/// The frames of a request on stream 1, of which the last ends it.
fn lay_out_frames(parts: &[Part]) -> Vec<u8> {
    let mut frames: Vec<(u8, Vec<u8>)> = vec![(kind::HEADERS, Vec::new())];
    let mut trailers = false;
    for part in parts {
        match part {
            Part::FrameEnd => frames.push((kind::CONTINUATION, Vec::new())),
            Part::Data(data) => frames.push((kind::DATA, data.clone())),
            Part::Field(name, value) | Part::Trailer(name, value) => {
                let trailer = matches!(part, Part::Trailer(..));
                if trailer && !std::mem::replace(&mut trailers, true) {
                    frames.push((kind::HEADERS, Vec::new()));
                }
                frames.last_mut().unwrap().1.extend(frames::field(name, value));
            }
        }
    }
    let last_of_block = |at: usize| frames.get(at + 1).is_none_or(|(next, _)| *next != kind::CONTINUATION);
    let last = frames.iter().rposition(|(kind, _)| *kind != kind::CONTINUATION).unwrap();
    let flags = |at: usize, kind: u8| {
        let end = if at == last { END_STREAM } else { 0 };
        if kind != kind::DATA && last_of_block(at) { end | END_HEADERS } else { end }
    };
    frames
        .iter()
        .enumerate()
        .flat_map(|(at, (kind, payload))| frames::frame(*kind, flags(at, *kind), 1, payload))
        .collect()
}

fn expectation(item: &str, at: &str) -> Expected {
    if let Ok(status) = item.parse() {
        return Expected::Refused(status);
    }
    match item {
        "rejected" => return Expected::Rejected,
        "end" => return Expected::End,
        "unfinished" => return Expected::Unfinished,
        _ => {}
    }
    let text = |word: &str| String::from_utf8(unescape(word, at)).unwrap_or_else(|_| panic!("{at}: not UTF-8"));
    let mut words = item.split(' ');
    let mut word = || words.next().unwrap_or_else(|| panic!("{at}: method, target and host are expected"));
    let (method, target, host) = (text(word()), text(word()), text(word()));
    let host = if host == "-" { String::new() } else { host };
    let mut passed = Passed { method, target, host, ..Passed::default() };
    for word in words {
        if let Some(body) = word.strip_prefix('"') {
            passed.body = unescape(body.strip_suffix('"').unwrap_or_else(|| panic!("{at}: no end of the body")), at);
        } else if let Some(name) = word.strip_prefix('!') {
            passed.absent.push(text(name));
        } else {
            let (name, value) = word.split_once('=').unwrap_or_else(|| panic!("{at}: {word}"));
            passed.fields.push((text(name), text(value)));
        }
    }
    Expected::Passed(passed)
}

/// `\r`, `\n`, `\t`, `\0`, `\s` (a space), `\\`, `\xHH`, and `\(N:TEXT)` for TEXT N times.
fn unescape(text: &str, at: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, escape)) = rest.split_once('\\') {
        bytes.extend(before.as_bytes());
        let (kind, behind) = escape.split_at_checked(1).unwrap_or_else(|| panic!("{at}: a lone backslash"));
        rest = behind;
        match kind {
            "r" => bytes.push(b'\r'),
            "n" => bytes.push(b'\n'),
            "t" => bytes.push(b'\t'),
            "0" => bytes.push(0),
            "s" => bytes.push(b' '),
            "\\" => bytes.push(b'\\'),
            "x" => {
                let (digits, behind) = behind.split_at_checked(2).unwrap_or_else(|| panic!("{at}: \\x"));
                bytes.push(u8::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("{at}: \\x{digits}")));
                rest = behind;
            }
            "(" => {
                let (inner, behind) = behind.split_once(')').unwrap_or_else(|| panic!("{at}: no )"));
                let (times, inner) = inner.split_once(':').unwrap_or_else(|| panic!("{at}: no : in \\()"));
                let times = times.parse().unwrap_or_else(|_| panic!("{at}: {times} is no number"));
                bytes.extend(unescape(inner, at).repeat(times));
                rest = behind;
            }
            other => panic!("{at}: \\{other}"),
        }
    }
    bytes.extend(rest.as_bytes());
    bytes
}
