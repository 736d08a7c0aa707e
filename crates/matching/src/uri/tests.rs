//! Request targets, and the paths they mean.

use super::*;

const SLASHES: UriOptions = UriOptions { match_encoded_slash: true, delete_tail_slash: false, servlet: false };
const TAIL: UriOptions = UriOptions { match_encoded_slash: false, delete_tail_slash: true, servlet: false };
const SERVLET: UriOptions = UriOptions { match_encoded_slash: false, delete_tail_slash: false, servlet: true };

/// `expected`: path, what is ambiguous.
fn check(target: &str, options: &UriOptions, expected: Result<(&str, &str), UriError>) {
    let result = canonical_path(target, options);
    let result = result.as_ref().map(|found| (&*found.path, found.ambiguity.to_string()));
    assert_eq!(result, expected.as_ref().map(|(path, what)| (*path, (*what).to_owned())), "{target}");
}

#[test]
fn paths_are_normalised() {
    let options = UriOptions::default();
    let ok = |target, path, what| check(target, &options, Ok((path, what)));
    ok("/", "/", "");
    ok("/a/b?c=/../", "/a/b", "");
    ok("/a;b/c", "/a;b/c", "");
    ok("/.well-known/x.y/..z", "/.well-known/x.y/..z", "");
    ok("/%61%2Db/%e4%bd%a0", "/a-b/你", "");
    ok("/你", "/你", "");
    ok("/a%3Fb%23c%25", "/a?b#c%", "");
    ok("/a%2525", "/a%25", "");
    ok("//x/../y?q=1", "/y", "dot segment, consecutive slashes");
    ok("/a//b///c//", "/a/b/c/", "consecutive slashes");
    ok("/a//../b", "/b", "dot segment, consecutive slashes");
    ok("/a/./b/.", "/a/b/", "dot segment");
    ok("/a/b/..", "/a/", "dot segment");
    ok("/a/..", "/", "dot segment");
    ok("/a/%2E%2e/b", "/b", "dot segment");
    ok("/a%2Fb", "/a/b", "encoded slash");
    ok("/a%2f..%2fb", "/b", "encoded slash, dot segment");
    ok("/a\\b%5C", "/a\\b\\", "backslash");
    ok("/a%0d%0Ab", "/a\r\nb", "control character");
    ok("/%c4%e3b", "/%C4%E3b", "bytes that are not UTF-8");
    ok("/a#b?c", "/a", "fragment");
}

#[test]
fn malformed_paths_are_refused() {
    let options = UriOptions::default();
    let refused = |target, error| check(target, &options, Err(error));
    refused("", UriError::NotAPath);
    refused("*", UriError::NotAPath);
    refused("a/b", UriError::NotAPath);
    refused("?a", UriError::NotAPath);
    refused("/%", UriError::BadEncoding);
    refused("/%2", UriError::BadEncoding);
    refused("/%2g", UriError::BadEncoding);
    refused("/%+2", UriError::BadEncoding);
    refused("/a%00", UriError::Nul);
    refused("/a\0", UriError::Nul);
    refused("/..", UriError::OutOfRoot);
    refused("/a/../..", UriError::OutOfRoot);
    refused("/.%2e/a", UriError::OutOfRoot);
}

#[test]
fn encoded_slashes_can_be_matched() {
    check("/a%2fb/c%20d", &SLASHES, Ok(("/a%2Fb/c d", "")));
    check("/a%2fb//c", &SLASHES, Ok(("/a/b/c", "encoded slash, consecutive slashes")));
    check("/a%2f/b", &SLASHES, Ok(("/a/b", "encoded slash, consecutive slashes")));
    check("/a%2f../b", &SLASHES, Ok(("/b", "encoded slash, dot segment")));
    check("/a/b", &SLASHES, Ok(("/a/b", "")));
    let both = canonical_path("/a%2fb", &SLASHES).unwrap();
    assert_eq!((&*both.path, both.uri()), ("/a%2Fb", "/a/b"));
    let both = canonical_path("/a%2fb/", &UriOptions { delete_tail_slash: true, ..SLASHES }).unwrap();
    assert_eq!((&*both.path, both.uri()), ("/a%2Fb", "/a/b"));
}

#[test]
fn tail_slashes_can_be_deleted() {
    check("/a/", &TAIL, Ok(("/a", "")));
    check("/a", &TAIL, Ok(("/a", "")));
    check("/", &TAIL, Ok(("/", "")));
    check("/a/b//", &TAIL, Ok(("/a/b", "consecutive slashes")));
    check("/%61/", &TAIL, Ok(("/a", "")));
}

#[test]
fn parameters_can_be_dropped() {
    check("/a;x=1/b;y", &SERVLET, Ok(("/a/b", "")));
    check("/a/;x", &SERVLET, Ok(("/a/", "")));
    check("/a%3Bx/b", &SERVLET, Ok(("/a;x/b", "")));
    check("/a;x/../b", &SERVLET, Ok(("/b", "dot segment")));
    check("/a;x%2Fy/b", &SERVLET, Ok(("/a/b", "")));
    check("/;x/b", &SERVLET, Err(UriError::EmptyWithParameters));
    check("/a/..;/b", &SERVLET, Err(UriError::DotWithParameters));
    check("/a/.;x", &SERVLET, Err(UriError::DotWithParameters));
    check("/a/%2E%2e;x/b", &SERVLET, Err(UriError::DotWithParameters));
    check("/a;x%2Fy/b%2Fc", &UriOptions { match_encoded_slash: true, ..SERVLET }, Ok(("/a/b/c", "encoded slash")));
}

#[test]
fn canonical_targets_say_the_path_in_one_way() {
    let check = |target, expected: &str| {
        assert_eq!(canonical_target(target, &UriOptions::default()).as_deref(), Ok(expected), "{target}");
    };
    check("//a/./b%2Fc?x=%2F#f", "/a/b/c?x=%2F");
    check("/%c4%E3/你 %3f%25", "/%C4%E3/%E4%BD%A0%20%3F%25");
    check("/a/", "/a/");
    check("/a;x//%3Bb", "/a;x/;b");
    assert_eq!(canonical_target("/a;x//%3Bb/c%3B", &SERVLET).as_deref(), Ok("/a/%3Bb/c%3B"));
    assert_eq!(encode_path("/a b?c#d%\u{7f}é"), "/a%20b%3Fc%23d%25%7F%C3%A9");
    assert!(matches!(encode_path("/a/b-c"), Cow::Borrowed("/a/b-c")));
    assert_eq!((query_of("/a?b#c"), query_of("/a#c?b"), query_of("/a?")), (Some("b"), None, Some("")));
}

#[test]
fn canonical_targets_are_borrowed() {
    for target in ["/", "/a/b-c_d~/e.f", "/a?b"] {
        assert!(matches!(canonical_path(target, &UriOptions::default()).unwrap().path, Cow::Borrowed(_)), "{target}");
    }
}
