use std::net::{IpAddr, Ipv4Addr};

use serde_json::json;

use super::*;
use crate::cidr::CidrSet;
use crate::expr::Expr;
use crate::var::{NoVars, Var, VarName};

/// `host /path priority` with `-` for no host.
fn route(id: u64, text: &str) -> RouteEntry<u64> {
    let parts: Vec<&str> = text.split(' ').collect();
    let mut entry = RouteEntry::new(id.to_string(), id, vec![parts[1].into()], id);
    if parts[0] != "-" {
        entry.hosts.push(parts[0].into());
    }
    entry.priority = parts.get(2).map_or(0, |priority| priority.parse().unwrap());
    entry
}

fn input<'i>(method: &'i str, host: &'i str, path: &'i str) -> MatchInput<'i> {
    MatchInput { path, host, raw_host: host.as_bytes(), method, addr: IpAddr::V4(Ipv4Addr::LOCALHOST) }
}

fn router(mode: RouterMode, routes: Vec<RouteEntry<u64>>) -> Router<u64> {
    let mut router = Router::new(mode);
    routes.into_iter().for_each(|route| router.insert(route));
    router
}

fn winner(router: &Router<u64>, request: &MatchInput<'_>) -> Option<u64> {
    router.find(request, &NoVars).map(|found| *found.value())
}

/// The winner for `host /path` among routes numbered from 1.
fn check(mode: RouterMode, routes: &[&str], request: &str, expected: Option<u64>) {
    let (host, path) = request.split_once(' ').unwrap();
    let routes = (1..).zip(routes).map(|(id, text)| route(id, text)).collect();
    assert_eq!(winner(&router(mode, routes), &input("GET", host, path)), expected, "{request}");
}

#[test]
fn worked_examples() {
    use RouterMode::{HostUri, Uri, UriWithParameter};
    check(HostUri, &["- /a/* 100", "- /a/b 0"], "h /a/b", Some(2));
    check(HostUri, &["- /* 100", "- /a/* 0"], "h /a/x", Some(2));
    check(HostUri, &["- /a/* 1", "- /a/* 5"], "h /a/x", Some(2));
    check(HostUri, &["*.foo.com /x 9", "a.foo.com /* 0"], "a.foo.com /x", Some(2));
    check(HostUri, &["a.foo.com /y", "*.foo.com /*", "- /x"], "a.foo.com /x", Some(2));
    check(Uri, &["*.foo.com /x 9", "a.foo.com /* 0"], "a.foo.com /x", Some(1));
    check(UriWithParameter, &["- /u/:id", "- /u/*"], "h /u/7", Some(1));
    check(UriWithParameter, &["- /u/*", "- /u/:id"], "h /u/7", Some(2));

    let mut by_method = route(1, "- /x");
    by_method.methods = MethodSet::of(["GET"]);
    let router = router(HostUri, vec![by_method, route(2, "- /*")]);
    assert_eq!(winner(&router, &input("POST", "h", "/x")), Some(2));
    assert_eq!(winner(&router, &input("GET", "h", "/x")), Some(1));
}

#[test]
fn hosts_before_paths() {
    use RouterMode::{HostUri, Uri};
    check(HostUri, &["*.com /*", "*.foo.com /*", "* /*"], "a.foo.com /", Some(2));
    check(HostUri, &["*.com /*", "*.foo.com /y", "* /*"], "a.foo.com /", Some(1));
    check(HostUri, &["*.com /*", "*.foo.com /y", "* /*"], "a.org /", Some(3));
    check(HostUri, &["*.com /*", "*.foo.com /y", "* /*"], "com /", Some(3));
    check(HostUri, &["*foo.com /*", "- /*"], "foo.com /", Some(1));
    check(HostUri, &["*foo.com /*", "*.foo.com /*"], "x.foo.com /", Some(2));
    check(HostUri, &["Foo.COM /*"], "foo.com /", Some(1));
    check(HostUri, &["foo.com:80 /*"], "foo.com /", None);
    check(HostUri, &["* /*", "- /x 9"], "anything /x", Some(1));
    check(HostUri, &["* /y", "- /x"], "anything /x", Some(2));
    check(HostUri, &["foo.com /a:b"], "foo.com /a:b", Some(1));
    check(Uri, &["foo.com /*", "- /x"], "foo.com /x", Some(2));
    check(Uri, &["foo.com /x", "- /x 1"], "foo.com /x", Some(2));
    check(Uri, &["foo.com /x", "- /*"], "bar.com /x", Some(2));
}

#[test]
fn longer_prefixes_first_and_failing_candidates_do_not_stop() {
    use RouterMode::{HostUri, UriWithParameter};
    check(HostUri, &["- /a* 9", "- /ab*", "- /a/*"], "h /abc", Some(2));
    check(HostUri, &["- /a* 9", "- /ab*", "- /a/*"], "h /a/c", Some(3));
    check(HostUri, &["- /a* 9", "- /ab*", "- /a/*"], "h /a", Some(1));
    check(HostUri, &["- /a/*/c", "- /a/*"], "h /a/b/d", Some(2));
    check(HostUri, &["- /a/*/c", "- /a/*"], "h /a/b/c", Some(1));
    check(UriWithParameter, &["- /u/:id/x", "- /u/:id", "- /*"], "h /u/7/y", Some(3));
    check(UriWithParameter, &["- /u/:id", "- /u/7"], "h /u/7", Some(2));
    let long = format!("/{}/", "segment/".repeat(40));
    let text = format!("- {long}*");
    check(HostUri, &["- /*", &text], &format!("h {long}x"), Some(2));
    check(HostUri, &["- /*", &text], &format!("h {}", &long[..long.len() - 1]), Some(1));
}

#[test]
fn rank_is_priority_then_length_then_order() {
    let mut late = route(1, "- /a/*");
    late.order = 9;
    let mut router = router(RouterMode::HostUri, vec![late, route(2, "- /a/*")]);
    assert_eq!(winner(&router, &input("GET", "h", "/a/x")), Some(2));
    router.insert(route(3, "- /a/*name"));
    assert_eq!(winner(&router, &input("GET", "h", "/a/x")), Some(3));
    router.insert(route(4, "- /a/* 1"));
    assert_eq!(winner(&router, &input("GET", "h", "/a/x")), Some(4));
    router.insert(route(4, "- /a/* -1"));
    assert_eq!(winner(&router, &input("GET", "h", "/a/x")), Some(3));
}

#[test]
fn every_condition_counts() {
    let request = input("GET", "foo.com", "/x");
    let check = |change: fn(&mut RouteEntry<u64>), expected: bool| {
        let mut entry = route(1, "- /x");
        change(&mut entry);
        for mode in [RouterMode::HostUri, RouterMode::Uri, RouterMode::UriWithParameter] {
            let router = router(mode, vec![entry.clone()]);
            let vars = |name: &VarName| (name.as_str() == "arg_a").then(|| Var::from("1"));
            assert_eq!(router.find(&request, &vars).is_some(), expected, "{mode:?}");
        }
    };
    check(|_| {}, true);
    check(|route| route.methods = MethodSet::of(["GET", "PUT"]), true);
    check(|route| route.methods = MethodSet::of(["PUT"]), false);
    check(|route| route.remote_addrs = Some(Arc::new(CidrSet::parse(["127.0.0.0/8"]).unwrap())), true);
    check(|route| route.remote_addrs = Some(Arc::new(CidrSet::parse(["10.0.0.0/8", "::/0"]).unwrap())), false);
    check(|route| route.hosts = vec!["bar.com".into(), "*.com".into()], true);
    check(|route| route.hosts = vec!["bar.com".into()], false);
    check(|route| route.vars = Some(Arc::new(Expr::parse(&json!([["arg_a", "==", "1"]])).unwrap())), true);
    check(|route| route.vars = Some(Arc::new(Expr::parse(&json!([["arg_a", "==", "2"]])).unwrap())), false);
    check(|route| route.filter = Some(Arc::new(|vars| vars.var(&VarName::parse("arg_a")).is_some())), true);
    check(|route| route.filter = Some(Arc::new(|vars| vars.var(&VarName::parse("arg_b")).is_some())), false);
}

#[test]
fn a_match_tells_pattern_host_and_captures() {
    let mut entry = route(1, "- /u/:id/*");
    entry.hosts = vec!["bar.com".into(), "*.Foo.com".into()];
    for mode in [RouterMode::Uri, RouterMode::UriWithParameter, RouterMode::HostUri] {
        let mut router = router(mode, vec![entry.clone()]);
        let path = if mode == RouterMode::UriWithParameter { "/u/7/x/y" } else { "/u/:id/x/y" };
        let found = router.find(&input("GET", "a.foo.com", path), &NoVars).unwrap();
        assert_eq!(found.id().as_ref(), "1");
        assert_eq!(found.pattern().as_str(), "/u/:id/*");
        assert_eq!(found.host().map(|host| &**host), Some("*.foo.com"));
        let captures = found.pattern().captures(path);
        let params = mode == RouterMode::UriWithParameter;
        assert_eq!(captures, if params { vec![("id", "7"), (":ext", "x/y")] } else { vec![(":ext", "x/y")] });
        router.insert(route(1, "- /*"));
        assert_eq!(router.find(&input("GET", "a.foo.com", path), &NoVars).unwrap().host(), None);
    }
}

#[test]
fn hosts_with_ports_are_conditions_on_the_raw_header() {
    let router = router(RouterMode::Uri, vec![route(1, "foo.com:8080 /*"), route(2, "- /*")]);
    let request = MatchInput { raw_host: b"Foo.com:8080", ..input("GET", "foo.com", "/") };
    assert_eq!(winner(&router, &request), Some(1));
    assert_eq!(winner(&router, &input("GET", "foo.com", "/")), Some(2));
}

#[test]
fn removal_leaves_nothing() {
    for mode in [RouterMode::HostUri, RouterMode::Uri, RouterMode::UriWithParameter] {
        let mut router = Router::new(mode);
        for id in 0..200 {
            let mut entry = route(id, "- /a/*");
            entry.uris.extend([
                "/a/*x".into(),
                "/a/*x".into(),
                format!("/b{id}").into(),
                format!("/{}/:id", "c".repeat(id as usize)).into(),
            ]);
            if id % 3 > 0 {
                entry.hosts = vec![format!("h{id}.com").into(), "*.foo.com".into(), "*.FOO.com".into(), "*".into()];
            }
            router.insert(entry);
        }
        assert_eq!(router.len(), 200);
        let full = router.clone();
        for id in 0..200 {
            assert!(router.remove(&id.to_string()));
            assert!(!router.remove(&id.to_string()));
        }
        assert!(router.is_empty() && router.suffixes.is_empty());
        assert!(router.hostless.exact.is_empty() && router.hostless.prefixes.is_empty());
        assert_eq!((router.paths.len(), router.hosts.len()), (0, 0));
        assert_eq!(winner(&router, &input("GET", "h", "/b7")), None);
        assert_eq!(full.len(), 200);
        assert_eq!(winner(&full, &input("GET", "h7.com", "/b7")), Some(7));
    }
}
