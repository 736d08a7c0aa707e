//! Every rule of a specification has a test that names it, and every text that it fixes stands in one.
//!
//! The rules are the numbered lines of a file of `docs/spec`; a section or subsection without any is one itself. Rule 9 of §2 of
//! `admin-api.md` is tested by a function whose name begins with `s2_9_`, rule 6 of §1 of `clients.md` by one that begins with `c1_6_`, §6.3 of
//! `routing.md` by one that begins with `routing_6_3_`.
//! The texts are those in `«…»`, and those of the table of §16 of `admin-api.md`, with placeholders in `<…>`; each is in one piece in a
//! literal of a test.

mod asked;
mod literals;

use super::SourceFile;
use asked::{Manner, asked};
use literals::literals;

/// A specification and its tests.
struct Spec {
    path: &'static str,
    /// What names of tests begin with, before the number of a rule.
    prefix: &'static str,
    /// Where the tests are.
    tests: &'static [&'static str],
    manner: Manner,
    /// Texts that are never sent, and why not.
    never_sent: &'static [(&'static str, &'static str)],
    /// Rules that no test is named after, as names of tests have them, and why not.
    not_ours: &'static [(&'static str, &'static str)],
}

const SPECS: &[Spec] = &[
    Spec {
        path: "docs/spec/admin-api.md",
        prefix: "s",
        // Over HTTP, and of the texts of schemas.
        tests: &["crates/control/tests/admin", "crates/model/src"],
        // §1 is an overview, and is tested all the same.
        manner: Manner { first: 2, numbered_rows: false, fault_texts: Some("16") },
        never_sent: &[
            ("'filter_func' should be a function", "no Lua is run, so none is looked at (docs/compatibility.md)"),
            ("'script' should be a Lua object", "no Lua is run, so none is looked at (docs/compatibility.md)"),
            ("failed to record plugins reload", "there is nothing to reload, so nothing fails (docs/compatibility.md)"),
        ],
        not_ours: &[],
    },
    Spec {
        path: "docs/spec/clients.md",
        prefix: "c",
        tests: &["crates/control/tests/admin"],
        manner: Manner { first: 1, numbered_rows: false, fault_texts: None },
        never_sent: &[],
        not_ours: &[
            ("5_1", "a controller asks adc, which sends what §1 and §2 have"),
            ("5_2", "it adds nothing to §1 and §2"),
        ],
    },
    Spec {
        path: "docs/spec/resources.md",
        prefix: "resources_",
        // The attribute tables through the Admin API, and what the data plane makes of them.
        tests: &[
            "crates/control/tests/admin/resources",
            "crates/model/src/types",
            "crates/snapshot/src/tests",
            "crates/proxy/src/health",
            "crates/proxy/src/secrets",
            "crates/proxy/tests/proxy/health.rs",
            "tests/system/rules/routing",
            "tests/system/discovery",
            "tests/system/secret_managers.rs",
        ],
        manner: Manner { first: 0, numbered_rows: false, fault_texts: None },
        never_sent: &[],
        not_ours: &[("4_5_3", "it is rule 6 of §3 of stream.md, which has a test")],
    },
    data_plane("docs/spec/routing.md", "routing_", &["tests/system/rules/routing"]),
    data_plane(
        "docs/spec/upstream-balancing.md",
        "upstream_",
        &["tests/system/rules/upstream", "tests/system/upstreams.rs", "tests/system/upstreams_http2"],
    ),
    data_plane("docs/spec/tls.md", "tls_", &["tests/system/rules/tls", "tests/system/ocsp.rs"]),
    data_plane("docs/spec/stream.md", "stream_", &["tests/system/rules/stream.rs", "tests/system/stream"]),
    Spec {
        not_ours: &[
            ("2_1", "there is one provider of configuration: the control plane"),
            ("2_2", "what workers report needs no store: it is in the process's memory"),
            ("2_3", "a worker reports by its configuration alone, which is the next condition"),
            ("2_5", "instances are asked for by requests, so no registry has to be ready before"),
        ],
        ..data_plane("docs/spec/control-api.md", "control_", &["tests/system/rules/control.rs"])
    },
];

/// A specification of the data plane; its tests run the real binary.
const fn data_plane(path: &'static str, prefix: &'static str, tests: &'static [&'static str]) -> Spec {
    let manner = Manner { first: 1, numbered_rows: true, fault_texts: None };
    Spec { path, prefix, tests, manner, never_sent: &[], not_ours: &[] }
}

/// Every rule without a test, every text that no test has, and exceptions that are none any more.
pub(super) fn check(files: &[SourceFile]) -> Vec<String> {
    SPECS.iter().flat_map(|spec| faults_of(spec, files)).collect()
}

fn faults_of(spec: &Spec, files: &[SourceFile]) -> Vec<String> {
    let Spec { path, prefix, never_sent, not_ours, .. } = *spec;
    let Some(file) = files.iter().find(|file| file.path.as_os_str() == path) else { return Vec::new() };
    let is_place = |file: &&SourceFile| spec.tests.iter().any(|place| file.is_in(place));
    let tests: Vec<&SourceFile> =
        files.iter().filter(|file| file.is_rust() && file.is_test()).filter(is_place).collect();
    let literals: Vec<String> = tests.iter().flat_map(|file| literals(&file.text)).collect();
    let asked = asked(&file.text, spec.manner);
    let untested = asked.rules.iter().filter(|rule| {
        not_ours.iter().all(|(other, _)| other != rule) && !tests.iter().any(|file| names(&file.text, prefix, rule))
    });
    let untested = untested.map(|rule| {
        let section = rule.replace('_', ".");
        format!("{path}: no test has the rule {section}; add one `{prefix}{rule}_…` in {}", spec.tests[0])
    });
    let unseen = asked.texts.iter().filter(|(_, text)| {
        never_sent.iter().all(|(never, _)| never != text) && !literals.iter().any(|literal| has(literal, text))
    });
    let unseen = unseen.map(|(section, text)| format!("{path}: §{section}: no test has the text «{text}»; add one"));
    let stale = never_sent.iter().filter(|(never, _)| asked.texts.iter().all(|(_, text)| text != never));
    let stale = stale.map(|(never, _)| format!("xtask/src/tidy/rules/mod.rs: {path} has no text «{never}» any more"));
    let gone = not_ours.iter().filter(|(other, _)| asked.rules.iter().all(|rule| rule != other));
    let gone = gone.map(|(rule, _)| format!("xtask/src/tidy/rules/mod.rs: {path} has no rule {rule} any more"));
    untested.chain(unseen).chain(stale).chain(gone).collect()
}

/// Whether a source has a test of a rule, and not just of one below it: `s2_9_a_key`, but not `s2_9_1_a_key`.
fn names(source: &str, prefix: &str, rule: &str) -> bool {
    let begins = format!("fn {prefix}{rule}_");
    source.split(&*begins).skip(1).any(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
}

/// Whether a literal has a text, with anything in the places of its placeholders.
fn has(literal: &str, text: &str) -> bool {
    let mut rest = literal;
    pieces(text).into_iter().all(|piece| match rest.split_once(piece) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

/// What stands between placeholders: `<…>`, and an ellipsis.
fn pieces(text: &str) -> Vec<&str> {
    let outside = text.split('<').enumerate().map(|(n, part)| match part.split_once('>') {
        Some((_, after)) if n > 0 => after,
        _ => part,
    });
    outside.flat_map(|part| part.split('…')).filter(|piece| !piece.trim().is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_stand_for_anything() {
        let text = "failed by id [<id>], code: <n>";
        assert!(has("x failed by id [9], code: 404", text) && !has("failed by id 9, code: 404", text));
        assert!(has("then code: 1; failed", "code: …") && !has("failed", "code: …"));
    }

    #[test]
    fn a_test_of_a_part_is_none_of_the_whole() {
        let source = "async fn upstream_8_1_hosts() {}\nfn upstream_9_sockets() {}";
        let has_test = |rule| names(source, "upstream_", rule);
        assert!(has_test("8_1") && has_test("9") && !has_test("8") && !has_test("1"));
    }
}
