//! `POST /configs/validate`: a whole configuration is judged, nothing stored (`docs/spec/admin-api.md` §14).

use crate::admin::declared::{self, Flaw, PLUGINS, VERSION};
use crate::admin::reply::Reply;
use crate::efforts::Effort;
use crate::state::Image;
use http::{HeaderValue, StatusCode};
use milecastle_model::Kind;
use milecastle_model::schema::lua_type;
use milecastle_snapshot::Compiler;
use serde_json::{Value, json};

/// Whether a media type is YAML's.
pub(crate) fn is_yaml(content_type: &HeaderValue) -> bool {
    content_type.to_str().is_ok_and(|text| text.trim_start().starts_with("application/yaml"))
}

/// The answer to a configuration. The work grows with it.
///
/// # Errors
/// The answer, if it is none, or if `effort` does not go on.
pub(crate) fn configs(
    compiler: &Compiler,
    image: &Image,
    text: &[u8],
    is_yaml: bool,
    effort: &Effort,
) -> Result<Reply, Box<Reply>> {
    let members = declared::read(text, is_yaml)?;
    let mut errors = Vec::new();
    for (name, member) in &members {
        let kind = Kind::from_collection(name).filter(|kind| kind.parent().is_none());
        match (name.strip_suffix(VERSION), kind) {
            (Some(collection), _) if !member.is_number() => {
                let error = format!("{name} must be a number, got {}", lua_type(member));
                errors.push(json!({ "resource_type": collection, "error": error }));
            }
            (None, Some(kind)) => {
                let report = |flaw: Flaw| {
                    errors.push(shown(kind, flaw));
                    false
                };
                declared::collection(compiler, image, kind, member, effort, report)?;
            }
            (None, None) if name == PLUGINS => {
                let error = declared::plugin_list(member);
                errors.extend(error.map(|error| json!({ "resource_type": PLUGINS, "error": error })));
            }
            _ => {}
        }
    }
    if errors.is_empty() {
        return Ok(Reply::json(StatusCode::OK, &json!({})));
    }
    let said = json!({ "error_msg": "Configuration validation failed", "errors": errors });
    Ok(Reply::json(StatusCode::BAD_REQUEST, &said))
}

fn shown(kind: Kind, flaw: Flaw) -> Value {
    let Flaw { index, id, error } = flaw;
    match id {
        Some(id) => json!({ "resource_type": kind.collection(), "resource_id": id, "index": index, "error": error }),
        None => json!({ "resource_type": kind.collection(), "index": index, "error": error }),
    }
}
