//! Between which revisions something was the case, and what that says of the order of things.

use std::collections::BTreeMap;

use super::{Change, Commit, Span};

/// Some moment of the span had a revision from `low` to `high` in force, both included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) span: Span,
    pub(super) low: u64,
    pub(super) high: u64,
}

/// All pairs of what was surely reached before something began, and what then was the most that can have been in force, where
/// the latter is less.
pub(super) fn steps_back(mut seen: Vec<Seen>) -> Vec<(u64, u64)> {
    let mut ended = seen.clone();
    ended.sort_by_key(|seen| seen.span.ended);
    seen.sort_by_key(|seen| seen.span.begun);
    let (mut ended, mut reached) = (ended.into_iter().peekable(), 0);
    let mut back = Vec::new();
    for later in seen {
        while let Some(earlier) = ended.next_if(|earlier| earlier.span.ended < later.span.begun) {
            reached = reached.max(earlier.low);
        }
        if later.high < reached {
            back.push((reached, later.high));
        }
    }
    back
}

/// The forms that objects had, and in which revisions.
pub(super) struct Forms<'a> {
    /// For each object the revisions that changed it, with the form that it got.
    objects: BTreeMap<&'a str, Vec<(u64, Option<u64>)>>,
}

impl<'a> Forms<'a> {
    pub(super) fn of(commits: &'a [Commit]) -> Self {
        let mut objects: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for commit in commits {
            for change in &commit.changes {
                objects.entry(&change.object).or_default().push((commit.revision, change.version));
            }
        }
        Self { objects }
    }

    /// The revision that made a change; `None` for deletions, which have no name of their own.
    pub(super) fn revision_of(&self, change: &Change) -> Option<u64> {
        let version = change.version?;
        let forms = self.objects.get(change.object.as_str())?;
        forms.iter().find(|(_, form)| *form == Some(version)).map(|(revision, _)| *revision)
    }

    /// The revisions in which an object may have had this form. It may be absent more than once; then from the first time to
    /// the last.
    pub(super) fn bounds(&self, change: &Change) -> Option<(u64, u64)> {
        let empty = Vec::new();
        let forms = self.objects.get(change.object.as_str()).unwrap_or(&empty);
        // Before its first revision it was absent.
        let begins = std::iter::once((0, None)).chain(forms.iter().copied());
        let ends = forms.iter().map(|(next, _)| next - 1).chain(std::iter::once(u64::MAX));
        let mut fitting = begins.zip(ends).filter(|((_, form), _)| *form == change.version);
        let ((low, _), first_end) = fitting.next()?;
        Some((low, fitting.last().map_or(first_end, |(_, end)| end)))
    }
}
