//! A request's way through the gateway, for traces (`apisix.tracing`).

use std::borrow::Cow;
use std::time::Instant;

/// A part of the way.
#[derive(Debug)]
pub struct Stretch {
    /// What was done.
    pub name: Cow<'static, str>,
    /// Place in the list of the stretch that this one is a part of.
    pub within: Option<usize>,
    /// When it began.
    pub began: Instant,
    /// When it was over; `None` while it goes on.
    pub ended: Option<Instant>,
}

/// The stretches of a request's way, each within the one that was going on when it began. Unless they are noted, all of this does
/// nothing.
#[derive(Debug, Default)]
pub struct Way(Option<Box<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    stretches: Vec<Stretch>,
    /// The innermost that goes on.
    open: Option<usize>,
}

/// A stretch that has begun.
#[derive(Debug, Clone, Copy)]
#[must_use = "it goes on until its end is told"]
pub struct Begun(Option<usize>);

impl Way {
    /// A way of which the stretches are noted.
    pub fn noted() -> Self {
        Self(Some(Box::default()))
    }

    /// Begins a stretch.
    #[inline]
    pub fn begin(&mut self, name: impl FnOnce() -> Cow<'static, str>) -> Begun {
        let Some(noted) = &mut self.0 else { return Begun(None) };
        let (place, within) = (noted.stretches.len(), noted.open);
        noted.stretches.push(Stretch { name: name(), within, began: Instant::now(), ended: None });
        noted.open = Some(place);
        Begun(Some(place))
    }

    /// The innermost stretch that goes on, if it has this name; else a new one.
    #[inline]
    pub fn go_on(&mut self, name: &'static str) -> Begun {
        let innermost = self.0.as_ref().and_then(|noted| noted.open.map(|open| (open, &noted.stretches[open])));
        match innermost {
            Some((place, stretch)) if stretch.name == name => Begun(Some(place)),
            _ => self.begin(|| name.into()),
        }
    }

    /// Ends a stretch, and all within it.
    #[inline]
    pub fn end(&mut self, Begun(place): Begun) {
        if let (Some(noted), Some(place)) = (&mut self.0, place) {
            noted.end(place);
        }
    }

    /// Ends all that go on.
    #[inline]
    pub fn end_all(&mut self) {
        if let Some(noted) = &mut self.0 {
            noted.end(0);
        }
    }

    /// What is noted, in the order of beginnings.
    pub fn stretches(&self) -> &[Stretch] {
        self.0.as_ref().map_or(&[], |noted| &noted.stretches)
    }
}

impl Noted {
    fn end(&mut self, place: usize) {
        let now = Instant::now();
        for stretch in self.stretches.iter_mut().skip(place) {
            stretch.ended.get_or_insert(now);
        }
        self.open = self.stretches.get(place).and_then(|stretch| stretch.within);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_within_each_other_and_end_together() {
        let mut way = Way::noted();
        let outer = way.begin(|| "outer".into());
        let first = way.begin(|| "first".into());
        way.end(first);
        let _second = way.begin(|| "second".into());
        let _inner = way.begin(|| "inner".into());
        way.end(outer);
        let after = [way.go_on("after"), way.go_on("after")];
        assert_eq!(after[0].0, after[1].0);
        let shown: Vec<_> = way.stretches().iter().map(|s| (&*s.name, s.within, s.ended.is_some())).collect();
        let expected = [
            ("outer", None, true),
            ("first", Some(0), true),
            ("second", Some(0), true),
            ("inner", Some(2), true),
            ("after", None, false),
        ];
        assert_eq!(shown, expected);
        way.end_all();
        assert!(way.stretches().iter().all(|stretch| stretch.ended.is_some_and(|ended| ended >= stretch.began)));
    }

    #[test]
    fn nothing_is_noted_unless_it_is_asked_for() {
        let mut way = Way::default();
        let begun = way.begin(|| unreachable!("nobody reads the name"));
        way.end(begun);
        way.end_all();
        assert!(way.stretches().is_empty());
    }
}
