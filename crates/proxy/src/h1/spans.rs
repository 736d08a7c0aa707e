//! Where the parts of a head stand in its buffer.

use std::mem::MaybeUninit;
use std::ops::Range;

/// Fields that are parsed without touching the heap; a head with more costs one allocation.
const FIELDS_ON_STACK: usize = 64;

/// Where a part of a head stands. Heads are far shorter than 4 GiB: their caps are checked before anything is made of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    start: u32,
    len: u32,
}

/// Where name and value of a field stand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) name: Span,
    pub(super) value: Span,
}

impl Span {
    /// Where `part` stands in `buf`, of which it is a slice.
    pub(super) fn of(part: &[u8], buf: &[u8]) -> Self {
        Self { start: (part.as_ptr() as usize - buf.as_ptr() as usize) as u32, len: part.len() as u32 }
    }

    pub(super) fn range(self) -> Range<usize> {
        self.start as usize..self.end()
    }

    fn end(self) -> usize {
        self.start as usize + self.len as usize
    }
}

/// Adds `next` to the end of `spans`, as a part of the last one where nothing stands between.
pub(super) fn join(spans: &mut Vec<Span>, next: Span) {
    match spans.last_mut() {
        Some(last) if last.end() == next.start as usize => last.len += next.len,
        _ => spans.push(next),
    }
}

impl Field {
    /// The field's line with its end, if it is written as everyone writes it: `name: value`, CR LF.
    pub(super) fn line(self, text: &[u8]) -> Option<Span> {
        let between = &text[self.name.end()..self.value.start as usize];
        let usual = between == b": " && text[self.value.end()..].starts_with(b"\r\n");
        usual.then(|| Span { start: self.name.start, len: self.name.len + self.value.len + 4 })
    }
}

/// Notes where the fields of the head in `buf` stand.
pub(super) fn note(fields: &mut Vec<Field>, parsed: &[httparse::Header<'_>], buf: &[u8]) {
    fields.clear();
    fields.extend(
        parsed
            .iter()
            .map(|field| Field { name: Span::of(field.name.as_bytes(), buf), value: Span::of(field.value, buf) }),
    );
}

/// Parses with room for `most` fields.
pub(super) fn parse<'b, T>(
    most: usize,
    mut parse: impl FnMut(&mut [MaybeUninit<httparse::Header<'b>>]) -> Result<T, httparse::Error>,
) -> Result<T, httparse::Error> {
    let mut on_stack = [const { MaybeUninit::uninit() }; FIELDS_ON_STACK];
    match parse(&mut on_stack[..most.min(FIELDS_ON_STACK)]) {
        Err(httparse::Error::TooManyHeaders) if most > FIELDS_ON_STACK => parse(&mut vec![MaybeUninit::uninit(); most]),
        other => other,
    }
}
