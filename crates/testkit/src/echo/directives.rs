//! What a request asks of its answer.

use std::time::Duration;

/// Directives of a request target; see the table in [`super`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Directives {
    pub(super) status: Option<u16>,
    pub(super) delay: Option<Duration>,
    pub(super) large: Option<usize>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) chunked: bool,
    pub(super) close: bool,
    pub(super) eof: bool,
    pub(super) reset: bool,
    pub(super) cut: bool,
    pub(super) hang: bool,
    pub(super) early: bool,
}

impl Directives {
    pub(super) fn of(target: &str) -> Self {
        let mut all = Self::default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut segments = path.split('/').peekable();
        while let Some(segment) = segments.next() {
            if segment == "header" {
                if let (Some(name), Some(value)) = (segments.next(), segments.next()) {
                    all.headers.push((name.to_owned(), value.to_owned()));
                }
            } else {
                let takes_value = matches!(segment, "status" | "delay" | "large");
                let value = if takes_value { segments.next().unwrap_or_default() } else { "" };
                all.apply(segment, value);
            }
        }
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match (name, value.split_once(':')) {
                ("header", Some((name, value))) => all.headers.push((name.to_owned(), value.to_owned())),
                _ => all.apply(name, value),
            }
        }
        all
    }

    fn apply(&mut self, name: &str, value: &str) {
        match name {
            "status" => self.status = value.parse().ok().filter(|s| (200..1000).contains(s)),
            "delay" => self.delay = value.parse().ok().map(Duration::from_millis),
            "large" => self.large = value.parse().ok(),
            "chunked" => self.chunked = true,
            "close" => self.close = true,
            "eof" => self.eof = true,
            "reset" => self.reset = true,
            "cut" => self.cut = true,
            "hang" => self.hang = true,
            "early" => self.early = true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_path_and_query() {
        let all = Directives::of("/api/status/503/delay/5/header/X-A/b?chunked&large=7&header=X-C:d&status=x");
        let expected = Directives {
            delay: Some(Duration::from_millis(5)),
            large: Some(7),
            headers: vec![("X-A".into(), "b".into()), ("X-C".into(), "d".into())],
            chunked: true,
            ..Directives::default()
        };
        assert_eq!(all, expected);
        assert_eq!(Directives::of("/status/503").status, Some(503));
        assert_eq!(Directives::of("/a/b?c=d"), Directives::default());
    }
}
