//! The names of fields, remembered from one head to the next.
//!
//! An upstream's answers carry the same fields in the same order and spelling nearly always, and so do the requests of many a
//! client. So a name is compared with what stood at its place in the head before, and parsed only if it differs.

use super::Malformed;
use http::HeaderName;

/// Places that are remembered.
const PLACES: usize = 32;
/// Longest name that is remembered.
const LONGEST: usize = 40;

/// What a field of an answer is to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It is for the client.
    EndToEnd,
    Date,
    Server,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    /// It concerns this connection only, and is not read (RFC 9110 §7.6.1).
    HopByHop,
}

impl From<&HeaderName> for Role {
    fn from(name: &HeaderName) -> Self {
        match name.as_str() {
            "date" => Self::Date,
            "server" => Self::Server,
            "content-length" => Self::ContentLength,
            "transfer-encoding" => Self::TransferEncoding,
            "connection" => Self::Connection,
            "upgrade" => Self::Upgrade,
            "te" | "trailer" | "keep-alive" | "proxy-connection" => Self::HopByHop,
            _ => Self::EndToEnd,
        }
    }
}

/// Names by their place in the last heads, each with its role, which is worked out once.
#[derive(Debug)]
pub(super) struct Names<R>(Vec<Name<R>>);

#[derive(Debug)]
struct Name<R> {
    /// As the peer has written it; empty if it is not remembered.
    written: Vec<u8>,
    parsed: HeaderName,
    role: R,
}

impl<R> Default for Names<R> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<R: Copy + for<'n> From<&'n HeaderName>> Names<R> {
    /// The name that is written at a place of the head.
    pub(super) fn parse(&mut self, place: usize, written: &[u8]) -> Result<(&HeaderName, R), Malformed> {
        let known = self.0.get(place).is_some_and(|name| name.written == written);
        let place = place.min(PLACES);
        if !known {
            let parsed = HeaderName::from_bytes(written).map_err(|_| Malformed::Field)?;
            let role = R::from(&parsed);
            // Places are filled in order, for each head asks for all of its own.
            if place == self.0.len() {
                self.0.push(Name { written: Vec::new(), parsed, role });
            } else {
                let name = &mut self.0[place];
                (name.parsed, name.role) = (parsed, role);
            }
            let remembered = &mut self.0[place].written;
            remembered.clear();
            if place < PLACES && written.len() <= LONGEST {
                remembered.extend_from_slice(written);
            }
        }
        let name = &self.0[place.min(self.0.len() - 1)];
        Ok((&name.parsed, name.role))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(names: &mut Names<Role>, written: &[&str]) -> Vec<(String, Role)> {
        let parse = |(place, written): (usize, &&str)| {
            let (name, role) = names.parse(place, written.as_bytes()).unwrap();
            (name.as_str().to_owned(), role)
        };
        written.iter().enumerate().map(parse).collect()
    }

    #[test]
    fn a_remembered_name_is_the_one_that_would_be_parsed() {
        let mut names = Names::default();
        let long = "x".repeat(LONGEST + 1);
        let many: Vec<String> = (0..2 * PLACES).map(|n| format!("X-{n}")).collect();
        let heads: [&[&str]; 6] = [
            &["Server", "Content-Length", "X-A"],
            &["server", "Content-Length", "X-B", "Upgrade", &long],
            &["TE"],
            &many.iter().map(String::as_str).collect::<Vec<_>>(),
            &["Content-Length", "Transfer-Encoding", "CONNECTION", "Upgrade", &long, "Keep-Alive"],
            &["Server", "Content-Length", "X-A"],
        ];
        for head in heads.iter().chain(&heads) {
            assert_eq!(all(&mut names, head), all(&mut Names::default(), head));
        }
        assert_eq!(names.0.len(), PLACES + 1, "no more than the places, and room for the one at hand");
    }

    #[test]
    fn roles_are_known_in_every_spelling() {
        let roles =
            all(&mut Names::default(), &["Content-LENGTH", "Transfer-Encoding", "connection", "Upgrade", "Te", "Date"]);
        let roles: Vec<Role> = roles.into_iter().map(|(_, role)| role).collect();
        use Role::*;
        assert_eq!(roles, [ContentLength, TransferEncoding, Connection, Upgrade, HopByHop, Date]);
        assert_eq!(Names::<Role>::default().parse(0, b"a b").unwrap_err(), Malformed::Field);
    }

    #[test]
    fn a_name_that_cannot_be_parsed_leaves_the_others() {
        let mut names = Names::default();
        all(&mut names, &["Server", "Date"]);
        assert!(names.parse(1, b"a b").is_err());
        assert_eq!(all(&mut names, &["Server", "Date"])[1].0, "date");
    }
}
