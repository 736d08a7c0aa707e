//! Path patterns (`docs/spec/routing.md` §3).

use std::fmt;
use std::ops::Range;

/// A path pattern of a route, parsed.
///
/// Display gives the pattern as written, which is the variable `_path` of a matched request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    text: Box<str>,
    /// Length of the literal start; the whole text if the pattern is exact.
    prefix: usize,
    exact: bool,
    /// The start is followed by a bare `*` segment and nothing else, as most patterns are: what follows it is `:ext`.
    tail: bool,
    /// Present for other patterns, if the start alone does not decide or there is something to capture.
    shape: Option<Box<Shape>>,
}

/// Name of what a bare `*` segment captures.
const EXT: &str = ":ext";

/// A pattern taken apart at its `*`s: the chunks stand in the path in this order, the first at the start and the last
/// at the end, and any text may stand between two of them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shape {
    chunks: Vec<Vec<Piece>>,
    /// What each gap between two chunks is captured as.
    gaps: Vec<Option<Box<str>>>,
    /// Whether a path with the right start may still not fit.
    decides: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(Box<str>),
    /// `:name`: a non-empty segment.
    Segment(Box<str>),
}

impl PathPattern {
    /// Parses a pattern. `params`: whether `:name` is a parameter, as in the mode `radixtree_uri_with_parameter`;
    /// otherwise `:` is an ordinary character.
    pub fn parse(text: &str, params: bool) -> PathPattern {
        let colon = if params { text.find(':') } else { None };
        let star = text.find('*');
        let prefix = match (colon, star) {
            (Some(colon), Some(star)) => Some(colon.min(star)),
            (colon, star) => colon.or(star),
        };
        let length = prefix.unwrap_or(text.len());
        let tail = text.get(length..) == Some("*") && text.ends_with("/*");
        let shaped = !tail && (colon.is_some() || text.contains("/*"));
        PathPattern {
            text: text.into(),
            prefix: length,
            exact: prefix.is_none(),
            tail,
            shape: shaped.then(|| Box::new(Shape::parse(text, length, params))),
        }
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The parts of a matching path that the pattern names, in the order of the pattern: `(name, value)`. The tail of
    /// a bare `*` segment is named `:ext`. Where a name occurs twice, the later one is the value of the variable.
    /// Empty if the path does not match.
    pub fn captures<'s, 'p>(&'s self, path: &'p str) -> Vec<(&'s str, &'p str)> {
        let mut found = Vec::new();
        if self.tail {
            found.extend(
                self.text.get(..self.prefix).and_then(|start| path.strip_prefix(start)).map(|rest| (EXT, rest)),
            );
        } else if let Some(shape) = &self.shape {
            if shape.fits(path, |name, value| found.push((name, value))) {
                // Collected from the end.
                found.reverse();
            } else {
                found.clear();
            }
        }
        found
    }

    /// The literal start, by which the pattern is found.
    pub(super) fn prefix(&self) -> &[u8] {
        self.text.as_bytes().get(..self.prefix).unwrap_or_default()
    }

    pub(super) fn is_exact(&self) -> bool {
        self.exact
    }

    /// Whether [`PathPattern::fits`] can be false for a path that has the right start.
    pub(super) fn needs_check(&self) -> bool {
        self.shape.as_ref().is_some_and(|shape| shape.decides)
    }

    /// Whether a path that equals the exact pattern, or has the right start, matches.
    pub(super) fn fits(&self, path: &str) -> bool {
        match &self.shape {
            Some(shape) if shape.decides => shape.fits(path, |_, _| {}),
            _ => true,
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Shape {
    /// `prefix`: the length of the literal start that is compared anyway.
    fn parse(text: &str, prefix: usize, params: bool) -> Shape {
        let mut shape = Shape { chunks: Vec::new(), gaps: Vec::new(), decides: true };
        let mut chunk = Vec::new();
        let mut literal = String::new();
        for (at, segment) in text.split('/').enumerate() {
            if at > 0 {
                literal.push('/');
            }
            if let Some(name) = segment.strip_prefix(':').filter(|_| params) {
                end_literal(&mut literal, &mut chunk);
                chunk.push(Piece::Segment(name.into()));
                continue;
            }
            match segment.split_once('*') {
                None => literal.push_str(segment),
                Some((before, after)) => {
                    literal.push_str(before);
                    end_literal(&mut literal, &mut chunk);
                    shape.chunks.push(std::mem::take(&mut chunk));
                    // A `*` within a segment is a gap without a name; the text after it is literal.
                    let name = if after.is_empty() { EXT } else { after };
                    shape.gaps.push(before.is_empty().then(|| name.into()));
                    if !before.is_empty() {
                        literal.push_str(after);
                    }
                }
            }
        }
        end_literal(&mut literal, &mut chunk);
        let open_end = chunk.is_empty();
        shape.chunks.push(chunk);
        // One gap at the very end after the literal start: that decides alone.
        let start = match shape.chunks.first().map(Vec::as_slice) {
            Some([Piece::Literal(start)]) => start.len(),
            _ => 0,
        };
        shape.decides = !(shape.gaps.len() == 1 && open_end && start == prefix);
        shape
    }

    /// Whether the whole path fits. Captures are handed out from the last to the first, also on the way to a failure.
    ///
    /// Going backwards, each chunk takes the last place it can have. That makes earlier gaps as long as possible, and
    /// no choice ever needs to be undone, since an earlier place would only leave less room before it.
    fn fits<'s, 'p>(&'s self, path: &'p str, mut capture: impl FnMut(&'s str, &'p str)) -> bool {
        let Some((first, others)) = self.chunks.split_first() else { return false };
        if others.is_empty() {
            return start_of(first, path, path.len(), &mut capture) == Some(0);
        }
        let mut gap_end = path.len();
        for (at, chunk) in others.iter().enumerate().rev() {
            let last = at + 1 == others.len();
            let mut end = gap_end;
            while start_of(chunk, path, end, |_, _| {}).is_none() {
                if last || end == 0 {
                    return false;
                }
                end -= 1;
            }
            if !last {
                self.capture_gap(at + 1, path, end..gap_end, &mut capture);
            }
            match start_of(chunk, path, end, &mut capture) {
                Some(start) => gap_end = start,
                None => return false,
            }
        }
        match end_of(first, path) {
            Some(start) if start <= gap_end => {
                self.capture_gap(0, path, start..gap_end, &mut capture);
                start_of(first, path, start, &mut capture) == Some(0)
            }
            _ => false,
        }
    }

    fn capture_gap<'s, 'p>(
        &'s self,
        gap: usize,
        path: &'p str,
        range: Range<usize>,
        capture: &mut impl FnMut(&'s str, &'p str),
    ) {
        if let Some(Some(name)) = self.gaps.get(gap) {
            capture(name, path.get(range).unwrap_or_default());
        }
    }
}

fn end_literal(literal: &mut String, chunk: &mut Vec<Piece>) {
    if !literal.is_empty() {
        chunk.push(Piece::Literal(std::mem::take(literal).into()));
    }
}

/// Where a chunk starts that ends at `end`.
fn start_of<'s, 'p>(
    chunk: &'s [Piece],
    path: &'p str,
    end: usize,
    mut capture: impl FnMut(&'s str, &'p str),
) -> Option<usize> {
    let mut end = end;
    for piece in chunk.iter().rev() {
        let before = path.as_bytes().get(..end)?;
        match piece {
            Piece::Literal(text) => end = before.strip_suffix(text.as_bytes())?.len(),
            Piece::Segment(name) => {
                let start = before.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
                if start == end {
                    return None;
                }
                capture(name, path.get(start..end)?);
                end = start;
            }
        }
    }
    Some(end)
}

/// Where a chunk ends that starts with the path.
fn end_of(chunk: &[Piece], path: &str) -> Option<usize> {
    let mut rest = path;
    for piece in chunk {
        rest = match piece {
            Piece::Literal(text) => rest.strip_prefix(&**text)?,
            Piece::Segment(_) => {
                let (segment, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                if segment.is_empty() {
                    return None;
                }
                rest
            }
        };
    }
    Some(path.len() - rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `captures`: `None` if the path does not match.
    fn check(pattern: &str, params: bool, path: &str, captures: Option<&[(&str, &str)]>) {
        let parsed = PathPattern::parse(pattern, params);
        let start = if parsed.is_exact() {
            path.as_bytes() == parsed.prefix()
        } else {
            path.as_bytes().starts_with(parsed.prefix())
        };
        let fits = start && parsed.fits(path);
        assert_eq!(fits.then(|| parsed.captures(path)).as_deref(), captures, "{path} against {pattern}");
    }

    #[test]
    fn patterns_without_parameters() {
        check("/a/b", false, "/a/b", Some(&[]));
        check("/a/b", false, "/a/b/", None);
        check("/a:b", false, "/a:b", Some(&[]));
        check("/a/:b", false, "/a/x", None);
        check("/a*", false, "/a", Some(&[]));
        check("/a*", false, "/abc/d", Some(&[]));
        check("/a/*", false, "/a/", Some(&[(":ext", "")]));
        check("/a/*", false, "/a/x/y", Some(&[(":ext", "x/y")]));
        check("/a/*", false, "/a", None);
        check("/*", false, "/x", Some(&[(":ext", "x")]));
        check("/a/*name", false, "/a/x/y", Some(&[("name", "x/y")]));
        check("/a/*/c", false, "/a/b/c", Some(&[(":ext", "b")]));
        check("/a/*/c", false, "/a/b/c/c", Some(&[(":ext", "b/c")]));
        check("/a/*/c", false, "/a//c", Some(&[(":ext", "")]));
        check("/a/*/c", false, "/a/c", None);
        check("/a/*/c", false, "/a/b/c/", None);
        check("/a/*/c/", false, "/a/b/c/", Some(&[(":ext", "b")]));
        check("/a/*x/m/*y/n", false, "/a/1/m/2/m/3/n", Some(&[("x", "1/m/2"), ("y", "3")]));
        check("/a+b/*", false, "/a+b/c", Some(&[(":ext", "c")]));
        check("/foo*/bar", false, "/foo/x", Some(&[]));
        check("/foo*/*", false, "/foox/y/z", Some(&[(":ext", "z")]));
        check("/foo*/*", false, "/foo", None);
        check("*", false, "/x", Some(&[]));
        check("/é/*/ü", false, "/é/日本/ü", Some(&[(":ext", "日本")]));
    }

    #[test]
    fn patterns_with_parameters() {
        check("/u/:id", true, "/u/7", Some(&[("id", "7")]));
        check("/u/:id", true, "/u/", None);
        check("/u/:id", true, "/u/7/", None);
        check("/u/:id/x", true, "/u/7/x", Some(&[("id", "7")]));
        check("/u/:id/x", true, "/u/7/8/x", None);
        check("/u/:id/*", true, "/u/7/8/x", Some(&[("id", "7"), (":ext", "8/x")]));
        check(
            "/u/:id/*rest/end/:last",
            true,
            "/u/7/8/end/9/end/x",
            Some(&[("id", "7"), ("rest", "8/end/9"), ("last", "x")]),
        );
        check("/a/*/:id", true, "/a/b/c/d", Some(&[(":ext", "b/c"), ("id", "d")]));
        check("/u/a:b", true, "/u/a:b", Some(&[]));
        check("/u/a:b", true, "/u/a:bc", None);
        check("/a:b*", true, "/a:bc", Some(&[]));
        check("/a:b*", true, "/ab", None);
        check("/foo*/:id", true, "/foox/7", Some(&[("id", "7")]));
        check("/u/:a.b/:a.b", true, "/u/1/2", Some(&[("a.b", "1"), ("a.b", "2")]));
    }

    #[test]
    fn a_tail_takes_no_more_than_its_text() {
        for (pattern, expected) in [("/a/*", true), ("/*", true), ("/a*", false), ("/*/*", false), ("/a/*x", false)] {
            let parsed = PathPattern::parse(pattern, true);
            assert_eq!((parsed.tail, parsed.tail && parsed.shape.is_some()), (expected, false), "{pattern}");
        }
        assert_eq!(PathPattern::parse("/:a/*", true).captures("/1/2"), [("a", "1"), (EXT, "2")]);
        assert_eq!(PathPattern::parse("/a/*", true).captures("/b/2"), []);
    }

    #[test]
    fn a_start_that_decides_alone_is_not_checked() {
        for (pattern, expected) in
            [("/a/*", false), ("/a/*x", false), ("/a*", false), ("/a/*/b", true), ("/a*/*", true)]
        {
            assert_eq!(PathPattern::parse(pattern, false).needs_check(), expected, "{pattern}");
        }
        assert!(PathPattern::parse("/:a/*", true).needs_check());
    }
}
