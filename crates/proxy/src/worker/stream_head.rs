//! The head of a request on a stream of its own, over HTTP/2 and HTTP/3: what makes it malformed (RFC 9113 §8.1.1, §8.2, §8.3.1;
//! RFC 9114 §4.1.2, §4.2, §4.3.1).

use crate::fields::Line;
use crate::request::{Head, Seen};
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};

/// Why a head is no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// It has a form, but not one that is taken: servers would read it in several ways.
    Unsound,
    /// It makes no sense.
    Malformed,
}

/// What stands in front of the fields.
#[derive(Debug, Default)]
struct Pseudo {
    method: Option<Method>,
    scheme: Option<Scheme>,
    authority: Option<Authority>,
    path: Option<PathAndQuery>,
}

/// A head while its fields come in.
#[derive(Debug)]
pub(super) struct Reading {
    pseudo: Pseudo,
    fields: HeaderMap,
    most_fields: usize,
    /// Fields beyond that.
    surplus: bool,
    length: Option<u64>,
    fault: Option<Fault>,
}

impl Reading {
    /// Of a head that may have so many fields; they are put into `fields`, which is empty.
    pub(super) fn new(fields: HeaderMap, most_fields: usize) -> Self {
        Self { pseudo: Pseudo::default(), fields, most_fields, surplus: false, length: None, fault: None }
    }

    /// Whether it asks for a head alone, as far as it has come.
    pub(super) fn is_head(&self) -> bool {
        self.pseudo.method == Some(Method::HEAD)
    }

    /// Takes a field in.
    pub(super) fn take(&mut self, line: Line) {
        let fault = match line {
            Line::Field(name, value) => self.field(name, value),
            // They come first.
            Line::Method(_) | Line::Scheme(_) | Line::Authority(_) | Line::Path(_) if !self.fields.is_empty() => {
                Err(Fault::Malformed)
            }
            Line::Method(method) => once(&mut self.pseudo.method, method),
            Line::Scheme(scheme) => once(&mut self.pseudo.scheme, scheme),
            Line::Authority(authority) => once(&mut self.pseudo.authority, authority),
            Line::Path(path) => once(&mut self.pseudo.path, path),
            Line::Unsound(_) => Err(Fault::Unsound),
            Line::Malformed(_) => Err(Fault::Malformed),
        };
        self.fault = self.fault.max(fault.err());
    }

    fn field(&mut self, name: HeaderName, value: HeaderValue) -> Result<(), Fault> {
        if name == header::CONTENT_LENGTH {
            let length = length(&value).ok_or(Fault::Malformed)?;
            // The same once more is one (RFC 9110 §8.6), as over HTTP/1.1.
            if let Some(known) = self.length {
                return if length == known { Ok(()) } else { Err(Fault::Malformed) };
            }
            self.length = Some(length);
        }
        if self.fields.len() < self.most_fields {
            self.fields.append(name, value);
        } else {
            self.surplus = true;
        }
        Ok(())
    }

    /// The head, and the length of the body that it announces.
    pub(super) fn finish(mut self, version: Version) -> Result<(Head, Option<u64>), Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let (method, uri) = self.pseudo.finish()?;
        join_cookies(&mut self.fields);
        let seen = Seen::of(&self.fields);
        let fault = self.surplus.then_some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        Ok((Head { method, uri, version, headers: self.fields, seen, fault }, self.length))
    }
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), Fault> {
    if place.replace(value).is_some() { Err(Fault::Malformed) } else { Ok(()) }
}

impl Pseudo {
    /// Method and target, if all is there that has to be.
    fn finish(self) -> Result<(Method, Uri), Fault> {
        let Self { method, scheme, authority, path } = self;
        let method = method.ok_or(Fault::Malformed)?;
        let mut parts = Parts::default();
        if method == Method::CONNECT {
            if scheme.is_some() || path.is_some() {
                return Err(Fault::Malformed);
            }
            parts.authority = Some(authority.ok_or(Fault::Malformed)?);
        } else {
            let (scheme, path) = scheme.zip(path).ok_or(Fault::Malformed)?;
            if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
                return Err(Fault::Malformed);
            }
            if path.as_str() == "*" && method != Method::OPTIONS {
                return Err(Fault::Unsound);
            }
            // Without an authority the field `Host` has to say it.
            parts.scheme = authority.is_some().then_some(scheme);
            parts.authority = authority;
            parts.path_and_query = Some(path);
        }
        Uri::from_parts(parts).map(|uri| (method, uri)).map_err(|_| Fault::Malformed)
    }
}

/// A length is digits alone.
fn length(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Clients send the pairs of a cookie in fields of their own, which compress better. Plugins and upstreams that speak HTTP/1.1
/// get them as one field (RFC 9113 §8.2.3, RFC 9114 §4.2.1).
fn join_cookies(headers: &mut HeaderMap) {
    // Most requests have one field or none, and cost no list.
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    // An empty pair would leave a blank at the end of the value.
    let crumbs = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).filter(|crumb| !crumb.is_empty());
    let whole = crumbs.collect::<Vec<_>>().join(&b"; "[..]);
    let whole = HeaderValue::from_bytes(&whole).expect("values that are joined by `; ` are a value");
    headers.insert(header::COOKIE, whole);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Name;
    use bytes::Bytes;

    fn read(fields: &[(&str, &str)], most_fields: usize) -> Result<(Head, Option<u64>), Fault> {
        let mut reading = Reading::new(HeaderMap::new(), most_fields);
        let target = [(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")];
        for (name, value) in target.iter().chain(fields) {
            reading.take(Line::new(Name::new(name.as_bytes()), Bytes::copy_from_slice(value.as_bytes())));
        }
        reading.finish(Version::HTTP_2)
    }

    #[test]
    fn crumbs_become_one_cookie_in_order() {
        let (head, _) = read(&[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2; c"), ("cookie", "")], 100).unwrap();
        let cookies: Vec<_> = head.headers.get_all(header::COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c"]);
        assert_eq!(head.fault, None);
    }

    #[test]
    fn fields_have_their_number() {
        let fields = [("a", "1"), ("b", "2"), ("cookie", "c"), ("cookie", "d")];
        assert_eq!(read(&fields, 4).unwrap().0.fault, None);
        assert_eq!(read(&fields, 3).unwrap().0.fault, Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    }

    #[test]
    fn what_makes_no_sense_outweighs_what_is_not_taken() {
        assert_eq!(read(&[("x", " y")], 100).unwrap_err(), Fault::Unsound);
        assert_eq!(read(&[("x", " y"), ("connection", "close")], 100).unwrap_err(), Fault::Malformed);
        assert_eq!(read(&[("connection", "close"), ("x", " y")], 100).unwrap_err(), Fault::Malformed);
        assert_eq!(read(&[("content-length", "5"), ("content-length", "6")], 100).unwrap_err(), Fault::Malformed);
        assert_eq!(read(&[("content-length", "5"), ("content-length", "5")], 100).unwrap().1, Some(5));
    }
}
