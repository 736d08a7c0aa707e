//! Regular expressions as operators write them, compiled once and shared.
//!
//! Operators know PCRE, so a pattern is first turned into the nearest form our engines speak (`pcre.rs`). It then runs
//! in the `regex` crate, in time linear in the text, if that crate knows all of it; otherwise (look-around,
//! back-references, possessive repetition) in `fancy-regex` with a limit on backtracking. `limits.rs` says how large a
//! pattern may be, and what the patterns of an object may come to together; `weight.rs` tells that before any of them is
//! compiled.
//!
//! Invariants: equal patterns with equal flags share one compiled form for as long as somebody holds it; a pattern is
//! compiled once, when first used at the latest; no text makes a match run without bound; those of an
//! object that is being written take a bounded time together.

mod budget;
mod limits;
mod pcre;
mod replace;
mod weight;

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, Weak};

use fancy_regex::CompileError;
use thiserror::Error;

pub use budget::PatternBudget;
use pcre::{Parsed, Verdict};
pub use replace::Replacement;

/// Why a pattern is refused or a match has no answer. The message is the reason alone; callers name the pattern.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PatternError {
    /// The pattern is malformed or too large.
    #[error("{0}")]
    Invalid(String),
    /// With those before it, it comes to more than the patterns of one object may.
    #[error(
        "too much together: with it the patterns of this object come to about {together} instructions, of {most} that they may; spread \
         them over several objects"
    )]
    TooMuch {
        /// Instructions that they would come to.
        together: usize,
        /// Instructions that they may come to.
        most: usize,
    },
    /// The text would need more backtracking than is allowed.
    #[error("the match was given up: it needs too much backtracking")]
    GaveUp,
}

/// Flags of a pattern; none by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags {
    /// `i`: letters match in either case.
    pub case_insensitive: bool,
    /// `m`: `^` and `$` match at line ends.
    pub multi_line: bool,
    /// `s`: `.` matches a line end too.
    pub dot_all: bool,
    /// `x`: blanks and `#` comments in the pattern are ignored.
    pub extended: bool,
}

impl Flags {
    /// Only `i` set.
    pub const CASE_INSENSITIVE: Flags =
        Flags { case_insensitive: true, multi_line: false, dot_all: false, extended: false };

    /// Reads flag letters such as `jo` or `ijo`. `j`, `o` and `u` are hints to other engines and mean nothing here,
    /// as does any other letter.
    pub fn parse(letters: &str) -> Flags {
        Flags {
            case_insensitive: letters.contains('i'),
            multi_line: letters.contains('m'),
            dot_all: letters.contains('s'),
            extended: letters.contains('x'),
        }
    }
}

/// A regular expression. Clones are cheap and share the compiled form.
#[derive(Clone)]
pub struct Pattern(Arc<Shared>);

struct Shared {
    source: Box<str>,
    flags: Flags,
    engine: OnceLock<Engine>,
}

enum Engine {
    Linear(regex::Regex),
    Backtracking(fancy_regex::Regex),
    Broken(PatternError),
}

impl Pattern {
    /// Takes a pattern without flags; see [`Pattern::with_flags`].
    pub fn new(source: &str) -> Result<Pattern, PatternError> {
        Pattern::with_flags(source, Flags::default())
    }

    /// Takes a pattern after checking its syntax, which costs microseconds. What only compiling finds (an unknown
    /// character property, excessive size) shows at [`Pattern::check`] and at the first use.
    pub fn with_flags(source: &str, flags: Flags) -> Result<Pattern, PatternError> {
        if let Some(known) = INTERNED.get(source, flags) {
            return Ok(Pattern(known));
        }
        not_too_long(source)?;
        let (parsed, shared) = (pcre::parse(source, flags), Shared::new(source, flags));
        if !matches!(parsed.verdict, Verdict::Linear(_)) {
            // Rare, and the other engine offers no check apart from compiling.
            shared.engine.get_or_init(|| compile(&parsed)).check()?;
        }
        Ok(Pattern(INTERNED.insert(shared)))
    }

    /// Takes a pattern and compiles it. In an object that is being written `budget` says what its patterns may still come to; one
    /// that does not fit in is not compiled.
    pub fn compiled(source: &str, flags: Flags, budget: Option<&PatternBudget>) -> Result<Pattern, PatternError> {
        let known = INTERNED.get(source, flags);
        if budget.is_none()
            && let Some(known) = known
        {
            let pattern = Pattern(known);
            pattern.check()?;
            return Ok(pattern);
        }
        not_too_long(source)?;
        let parsed = pcre::parse(source, flags);
        if let Some(budget) = budget {
            budget.take(weight::of(&parsed))?;
        }
        let shared = known.unwrap_or_else(|| Shared::new(source, flags));
        shared.engine.get_or_init(|| compile(&parsed)).check()?;
        Ok(Pattern(INTERNED.insert(shared)))
    }

    /// Compiles the pattern now and reports what is wrong with it.
    pub fn check(&self) -> Result<(), PatternError> {
        self.engine().check()
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0.source
    }

    /// The flags given beside the pattern.
    pub fn flags(&self) -> Flags {
        self.0.flags
    }

    /// Whether the pattern occurs in `text`; false too if there is no answer (see [`PatternError`]).
    pub fn is_match(&self, text: &str) -> bool {
        self.try_is_match(text).unwrap_or(false)
    }

    /// Whether the pattern occurs in `text`.
    pub fn try_is_match(&self, text: &str) -> Result<bool, PatternError> {
        match self.engine() {
            Engine::Linear(regex) => Ok(regex.is_match(text)),
            Engine::Backtracking(regex) => regex.is_match(text).map_err(gave_up),
            Engine::Broken(error) => Err(error.clone()),
        }
    }

    /// Where the pattern first occurs in `text`, in bytes.
    pub fn find(&self, text: &str) -> Result<Option<Range<usize>>, PatternError> {
        match self.engine() {
            Engine::Linear(regex) => Ok(regex.find(text).map(|found| found.range())),
            Engine::Backtracking(regex) => Ok(regex.find(text).map_err(gave_up)?.map(|found| found.range())),
            Engine::Broken(error) => Err(error.clone()),
        }
    }

    /// The groups of the first occurrence in `text`.
    pub fn captures<'t>(&self, text: &'t str) -> Result<Option<Captures<'t>>, PatternError> {
        self.captures_at(text, 0)
    }

    /// The groups of the first occurrence at or after byte `start`; what precedes it is still seen by `^` and `\b`.
    fn captures_at<'t>(&self, text: &'t str, start: usize) -> Result<Option<Captures<'t>>, PatternError> {
        let groups: Option<Vec<Option<Range<usize>>>> = match self.engine() {
            Engine::Linear(regex) => regex
                .captures_at(text, start)
                .map(|groups| groups.iter().map(|group| group.map(|group| group.range())).collect()),
            Engine::Backtracking(regex) => regex
                .captures_from_pos(text, start)
                .map_err(gave_up)?
                .map(|groups| groups.iter().map(|group| group.map(|group| group.range())).collect()),
            Engine::Broken(error) => return Err(error.clone()),
        };
        Ok(groups.map(|groups| Captures { text, groups }))
    }

    #[cfg(test)]
    pub(crate) fn is_compiled(&self) -> bool {
        self.0.engine.get().is_some()
    }

    fn engine(&self) -> &Engine {
        self.0.engine.get_or_init(|| compile(&pcre::parse(&self.0.source, self.0.flags)))
    }
}

impl Shared {
    fn new(source: &str, flags: Flags) -> Arc<Self> {
        Arc::new(Self { source: source.into(), flags, engine: OnceLock::new() })
    }
}

impl Engine {
    fn check(&self) -> Result<(), PatternError> {
        match self {
            Self::Broken(error) => Err(error.clone()),
            Self::Linear(_) | Self::Backtracking(_) => Ok(()),
        }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?}, {:?})", self.as_str(), self.flags())
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.0.source == other.0.source && self.0.flags == other.0.flags
    }
}

impl Eq for Pattern {}

/// The groups of one occurrence. Group 0 is the whole of it.
#[derive(Clone, Debug)]
pub struct Captures<'t> {
    text: &'t str,
    groups: Vec<Option<Range<usize>>>,
}

impl<'t> Captures<'t> {
    /// The text of a group; `None` if there is no such group or it took no part in the match.
    pub fn get(&self, group: usize) -> Option<&'t str> {
        self.range(group).and_then(|range| self.text.get(range))
    }

    /// Where a group matched, in bytes.
    pub fn range(&self, group: usize) -> Option<Range<usize>> {
        self.groups.get(group)?.clone()
    }

    /// How many groups there are, group 0 included; never 0.
    #[expect(clippy::len_without_is_empty, reason = "there is always group 0")]
    pub fn len(&self) -> usize {
        self.groups.len()
    }
}

fn not_too_long(source: &str) -> Result<(), PatternError> {
    let (is, most) = (source.len(), limits::LONGEST);
    if is <= most {
        return Ok(());
    }
    Err(PatternError::Invalid(format!("too long: it has {is} bytes, of {most} that it may have")))
}

fn compile(Parsed { text, flags, verdict }: &Parsed) -> Engine {
    if matches!(verdict, Verdict::Linear(_)) {
        let built = regex::RegexBuilder::new(text)
            .case_insensitive(flags.case_insensitive)
            .multi_line(flags.multi_line)
            .dot_matches_new_line(flags.dot_all)
            .ignore_whitespace(flags.extended)
            .size_limit(limits::MACHINE)
            .nest_limit(limits::NESTING)
            .build();
        return match built {
            Ok(regex) => Engine::Linear(regex),
            Err(error) => Engine::Broken(invalid(&error)),
        };
    }
    let built = fancy_regex::RegexBuilder::new(text)
        .case_insensitive(flags.case_insensitive)
        .multi_line(flags.multi_line)
        .dot_matches_new_line(flags.dot_all)
        .verbose_mode(flags.extended)
        .delegate_size_limit(limits::part(text))
        .max_prog_size(limits::INSTRUCTIONS)
        .backtrack_limit(limits::STEPS_BACK)
        .build();
    match (built, verdict) {
        (Ok(regex), _) => Engine::Backtracking(regex),
        (Err(fancy_regex::Error::CompileError(error)), _) if matches!(*error, CompileError::PatternTooComplex) => {
            let most = limits::INSTRUCTIONS;
            let text = format!("too large: calls of groups written out, it has more than {most} instructions");
            Engine::Broken(PatternError::Invalid(text))
        }
        (Err(_), Verdict::Doubtful(reason)) => Engine::Broken(PatternError::Invalid(reason.clone())),
        (Err(error), _) => Engine::Broken(invalid(&error)),
    }
}

/// The engines draw the pattern with a caret under the fault over several lines; the last line is the reason.
fn invalid(error: &dyn fmt::Display) -> PatternError {
    let text = error.to_string();
    let reason = text.trim_end().lines().next_back().unwrap_or_default();
    PatternError::Invalid(reason.strip_prefix("error: ").unwrap_or(reason).to_owned())
}

fn gave_up(_: fancy_regex::Error) -> PatternError {
    PatternError::GaveUp
}

/// All patterns somebody holds, so that equal ones are compiled once.
struct Interned(Mutex<InternedMap>);

#[derive(Default)]
struct InternedMap {
    patterns: HashMap<(Box<str>, Flags), Weak<Shared>>,
    /// Dropped patterns are swept out when the map has grown to this size.
    sweep_at: usize,
}

static INTERNED: LazyLock<Interned> = LazyLock::new(|| Interned(Mutex::default()));

impl Interned {
    fn get(&self, source: &str, flags: Flags) -> Option<Arc<Shared>> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.patterns.get(&(source.into(), flags)).and_then(Weak::upgrade)
    }

    /// Keeps `shared`, or gives the one that another thread kept meanwhile.
    fn insert(&self, shared: Arc<Shared>) -> Arc<Shared> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (shared.source.clone(), shared.flags);
        if let Some(known) = map.patterns.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        map.patterns.insert(key, Arc::downgrade(&shared));
        if map.patterns.len() > map.sweep_at {
            map.patterns.retain(|_, pattern| pattern.strong_count() > 0);
            map.sweep_at = 64 + 2 * map.patterns.len();
        }
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, flags: &str, text: &str, expected: Option<&str>) {
        let found = Pattern::with_flags(pattern, Flags::parse(flags)).unwrap().find(text).unwrap();
        assert_eq!(found.map(|range| &text[range]), expected, "{pattern:?} {flags:?} in {text:?}");
    }

    #[test]
    fn patterns_find() {
        check("b+", "", "abbc", Some("bb"));
        check("^B", "i", "bc", Some("b"));
        check("^b$", "m", "a\nb\nc", Some("b"));
        check("a.b", "", "a\nb", None);
        check("a.b", "s", "a\nb", Some("a\nb"));
        check("a b # c", "x", "ab", Some("ab"));
        check(r"(?<!x)y", "", "xyzy", Some("y"));
        check(r"(\w)\1", "", "abccd", Some("cc"));
        check(r"^(?!/admin)", "", "/admin/x", None);
        check(r"a++a", "", "aaa", None);
        check(r"(?i)(?=ab)A", "", "xab", Some("a"));
    }

    #[test]
    fn equal_patterns_are_shared_while_held() {
        let one = Pattern::new("shared-pattern-[0-9]+").unwrap();
        let two = Pattern::new("shared-pattern-[0-9]+").unwrap();
        let other = Pattern::with_flags("shared-pattern-[0-9]+", Flags::CASE_INSENSITIVE).unwrap();
        assert!(Arc::ptr_eq(&one.0, &two.0));
        assert!(!Arc::ptr_eq(&one.0, &other.0));
        assert!(!one.is_compiled(), "compiled before use");
        assert!(one.is_match("a shared-pattern-7"));
        assert!(two.is_compiled());
    }

    #[test]
    fn faults_are_reasons_on_one_line() {
        for pattern in ["(", "[a", r"(?<x", "*", r"(?=a"] {
            let Err(PatternError::Invalid(reason)) = Pattern::new(pattern) else { panic!("{pattern} was accepted") };
            assert!(!reason.is_empty() && !reason.contains('\n'), "{reason:?}");
        }
        let unknown = Pattern::new(r"\p{Nonsense}").unwrap();
        assert!(unknown.check().is_err());
        assert!(!unknown.is_match("a"));
    }

    #[test]
    fn what_is_too_large_is_refused_by_either_engine() {
        let nested = format!("{}a{}", "(".repeat(300), ")".repeat(300));
        for large in [r"a{1000}{1000}", r"(?=a)(?:\w{1000}){1000}", &*nested] {
            assert!(Pattern::new(large).and_then(|pattern| pattern.check()).is_err(), "{large}");
        }
        // Each part of a pattern counts by itself, and may be as large as a class of Unicode needs.
        assert!(Pattern::new(r"(?=[ab]{100000})x").is_err());
        for ordinary in [r"(?=a)\p{L}+", r"^(?!.*\.\.).{1,1024}$", r"^/(?!admin)[^/]{1,255}/[^/]{1,255}/[^/]{1,255}"] {
            assert!(Pattern::new(ordinary).is_ok(), "{ordinary}");
        }
        // Where there may be very many, each has to be smaller.
        let many = |alternatives| format!("(?=a{}).{{1,1024}}", "|a".repeat(alternatives));
        assert!(Pattern::new(&many(100)).is_ok());
        assert!(Pattern::new(&many(1100)).is_err());
        // A group that calls itself is written out, 2^19 times here.
        let Err(PatternError::Invalid(reason)) = Pattern::new(r"(a|b\g<1>\g<1>)") else { panic!("it was accepted") };
        assert!(reason.starts_with("too large"), "{reason}");
        // So is each call, with the group's text.
        assert!(Pattern::new(&format!("(x){}", r"\g<1>".repeat(1500))).is_err());
        let longest = "x".repeat(limits::LONGEST);
        assert!(Pattern::new(&longest).is_ok());
        let Err(PatternError::Invalid(reason)) = Pattern::new(&(longest + "x")) else { panic!("it was accepted") };
        assert!(reason.starts_with("too long"), "{reason}");
    }

    #[test]
    fn runaway_backtracking_gives_up() {
        let pattern = Pattern::new(r"^(?=(a+)+$)(a|aa)+b\1$").unwrap();
        let text = "a".repeat(64) + "!b";
        assert!(!pattern.is_match(&text));
        let slow = Pattern::new(r"(?:(a)|(a)|a\1)*\2c$").unwrap();
        assert_eq!(slow.try_is_match(&"a".repeat(64)), Err(PatternError::GaveUp));
    }

    #[test]
    fn captures_and_their_ranges() {
        let pattern = Pattern::new(r"^/(\w+)(/x)?/(\d+)").unwrap();
        let captures = pattern.captures("/user/42").unwrap().unwrap();
        assert_eq!(captures.len(), 4);
        assert_eq!((captures.get(0), captures.get(1), captures.get(2)), (Some("/user/42"), Some("user"), None));
        assert_eq!((captures.range(3), captures.get(4)), (Some(6..8), None));
        assert!(pattern.captures("nothing").unwrap().is_none());
    }
}
