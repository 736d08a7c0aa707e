//! Protobuf definitions (`docs/spec/resources.md` §9): source text, or a compiled descriptor set in base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use milecastle_model::Fault;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use protox::prost_reflect::DescriptorPool;
use serde_json::Value;

/// The name that a definition has for itself; what is imported is looked for among `google/protobuf/*.proto`.
const NAME: &str = "content.proto";

/// How deeply brackets of source text may lie in each other: the parser descends with them, in the values of options without a
/// limit of its own, and its stack must not depend on what a client sends.
const MAX_DEPTH: usize = 64;

/// The fault of a definition that does not compile. Source text is tried first, so its error is the one that is told.
pub(crate) fn check(body: &Value) -> Option<Fault> {
    let content = body.get("content")?.as_str()?;
    let error = compile(content).err().filter(|_| !is_descriptor_set(content))?;
    Some(Fault::rule("/content", format!("invalid content: {error}")))
}

fn compile(content: &str) -> Result<(), String> {
    if depth(content) > MAX_DEPTH {
        return Err(format!("brackets are nested more than {MAX_DEPTH} deep"));
    }
    let mut resolver = ChainFileResolver::new();
    resolver.add(Content(content.to_owned()));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.open_file(NAME).map(drop).map_err(|error| error.to_string())
}

fn is_descriptor_set(content: &str) -> bool {
    STANDARD.decode(content.trim()).is_ok_and(|bytes| DescriptorPool::decode(&*bytes).is_ok())
}

fn depth(content: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in content.bytes() {
        match byte {
            b'{' | b'[' | b'<' | b'(' => depth += 1,
            b'}' | b']' | b'>' | b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// The definition under its own name.
struct Content(String);

impl FileResolver for Content {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name == NAME { File::from_source(name, &self.0) } else { Err(protox::Error::file_not_found(name)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(content: &str, expected: Option<&str>) {
        let fault = super::check(&json!({ "content": content }));
        match (&fault, expected) {
            (None, None) => {}
            (Some(fault), Some(words)) => {
                assert!(fault.message.starts_with("invalid content: ") && fault.message.contains(words), "{fault}");
            }
            _ => panic!("{content}: {fault:?}"),
        }
    }

    #[test]
    fn source_text() {
        check("syntax = \"proto3\"; message M { string a = 1; } service S { rpc Do (M) returns (M) {} }", None);
        check(
            "syntax = \"proto3\"; import \"google/protobuf/empty.proto\"; message M { google.protobuf.Empty e = 1; }",
            None,
        );
        check("syntax = \"proto3\"; message M { string a = ; }", Some("expected"));
        check("syntax = \"proto3\"; message M { Nowhere a = 1; }", Some("Nowhere"));
        check("syntax = \"proto3\"; import \"other.proto\";", Some("other.proto"));
        check("syntax = \"proto3\"; import \"content.proto\";", Some("content.proto"));
        check("no definition", Some("expected"));
    }

    #[test]
    fn brackets_that_would_take_the_stack() {
        let nested = |n: usize| format!("syntax = \"proto3\";{}{}", "message M {".repeat(n), "}".repeat(n));
        check(&nested(20), None);
        check(&nested(50_000), Some("nested"));
        let option = |n: usize| format!("syntax = \"proto3\"; option (o) = {}{};", "{a ".repeat(n), "}".repeat(n));
        check(&option(MAX_DEPTH), Some("not defined"));
        check(&option(50_000), Some("nested"));
    }

    #[test]
    fn descriptor_sets_in_base64() {
        let mut resolver = ChainFileResolver::new();
        resolver.add(Content("syntax = \"proto3\"; message M { string a = 1; }".to_owned()));
        let mut compiler = protox::Compiler::with_file_resolver(resolver);
        let set = compiler.include_imports(true).open_file(NAME).unwrap().encode_file_descriptor_set();
        check(&STANDARD.encode(&set), None);
        check(&STANDARD.encode(&set[..set.len() - 1]), Some(""));
        check(&STANDARD.encode("text"), Some(""));
    }
}
