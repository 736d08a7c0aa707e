//! How large a pattern of the configuration may be.
//!
//! They are no keys: whether a pattern is accepted must not differ between the control plane, which judges it, and the nodes, which
//! build it, nor from node to node. A value that does is one that is taken and then stands in quarantine on some of them. Those that
//! only look for something in the control plane have smaller ones of their own (`control`, `admin/search.rs`).

/// Longest pattern, in bytes. Of the backtracking engine's program it bounds the number of different parts, and each text in it.
pub(super) const LONGEST: usize = 8 << 10;

/// Largest machine that the linear engine compiles a pattern to, in bytes: that engine's own default
/// (`regex::RegexBuilder::size_limit`), written out so that no version of it moves the line.
pub(super) const MACHINE: usize = 10 << 20;

/// Largest machine of a part that the backtracking engine leaves to the linear one, in bytes: `.{1,1024}` has one of about a MiB.
const PART: usize = 2 << 20;

/// What a part may have in any case, in bytes.
const SMALL_PART: usize = 256 << 10;

/// What the machines of all parts may come to, in bytes: as much as [`INSTRUCTIONS`] that are [`SMALL_PART`]s each.
const PARTS: usize = INSTRUCTIONS * SMALL_PART;

/// Largest machine of a part of this pattern, in bytes: the fewer parts there can be, the more.
pub(super) fn part(pattern: &str) -> usize {
    (PARTS / parts(pattern)).clamp(SMALL_PART, PART)
}

/// Most parts of a pattern that the backtracking engine leaves to the linear one.
///
/// Each alternative of each group gives two of them at most, what it begins and what it ends with, and so does what a `+` makes
/// possessive. A call of a group writes its parts out once more, so where there are calls only the instructions bound how many
/// there are.
pub(super) fn parts(pattern: &str) -> usize {
    if pattern.contains(r"\g") || pattern.contains("?P>") {
        return INSTRUCTIONS;
    }
    let alternatives = 1 + pattern.bytes().filter(|byte| matches!(byte, b'(' | b'|' | b'+')).count();
    2 * alternatives
}

/// Deepest nesting of groups, classes and repetitions: the default of `regex_syntax::ast::parse::ParserBuilder::nest_limit`. The
/// backtracking engine ends at 64 groups by itself.
pub(super) const NESTING: u32 = 250;

/// Most instructions that the backtracking engine compiles a pattern to. It has no bound by itself, and a group that calls itself twice
/// (`(a|b\g<1>\g<1>)`) is written out half a million times. An instruction may hold a text of [`LONGEST`] or a machine of [`part`].
pub(super) const INSTRUCTIONS: usize = 1 << 11;

/// Most instructions that the patterns of one object come to together while it is being written, as `weight.rs` tells them before any
/// is compiled: some 64 MiB of them, six of the largest patterns or hundreds of ordinary ones.
pub(super) const TOGETHER: usize = 1 << 20;

/// Steps a backtracking match may take before it gives up: some milliseconds.
pub(super) const STEPS_BACK: usize = 100_000;
