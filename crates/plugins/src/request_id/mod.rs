//! `request-id`: gives every request an id header (`docs/spec/plugins/request-id.md`).
//!
//! An id is one allocation: header to the upstream, header to the client and variable share it.

mod config;
mod ids;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use config::{Algorithm, Config};
use http::{HeaderName, HeaderValue};
use milecastle_plugin_api::{
    BuildCx, ConfigError, Example, Flow, Hooks, OnRewrite, Plugin, PluginDef, RequestCx, fields,
};

pub(crate) static DEF: PluginDef = PluginDef::of::<RequestId>();

const USUAL: HeaderName = HeaderName::from_static("x-request-id");

struct RequestId {
    header: HeaderName,
    in_response: bool,
    algorithm: Algorithm,
    range: (usize, Box<[char]>),
}

impl Plugin for RequestId {
    type Config = Config;
    const NAME: &'static str = "request-id";
    const PRIORITY: i32 = 12015;
    const EXAMPLES: &'static [Example] = &[
        Example::new("A UUID in `X-Request-Id`", include_str!("examples/default.json")),
        Example::new("Short ids for the upstream only", include_str!("examples/range.json")),
    ];

    fn compile(config: Config, _: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        let mut faults = Vec::new();
        let set: Box<[char]> = config.range_id.char_set.chars().collect();
        if set.iter().any(|character| character.is_control()) {
            faults.push(ConfigError::at("/range_id/char_set", "control characters cannot stand in a header"));
        }
        match config.header_name.parse() {
            Ok(header) if faults.is_empty() => Ok(Self {
                // A name that stands in the program is cloned without being counted.
                header: if header == USUAL { USUAL } else { header },
                in_response: config.include_in_response,
                algorithm: config.algorithm,
                range: (config.range_id.length, set),
            }),
            Ok(_) => Err(faults),
            Err(_) => {
                faults.push(ConfigError::at("/header_name", format!("invalid header name: {}", config.header_name)));
                Err(faults)
            }
        }
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.rewrite()
    }
}

impl OnRewrite for RequestId {
    fn on_rewrite<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a> {
        let sent = fields::get(&cx.request.headers, &self.header).filter(|id| !id.is_empty()).cloned();
        let id = sent.unwrap_or_else(|| {
            let id = self.generate();
            cx.request.headers.insert(&self.header, id.clone());
            id
        });
        if self.in_response {
            cx.default_response_header(self.header.clone(), id.clone());
        }
        cx.set_var("apisix_request_id", id);
        Flow::Next
    }
}

impl RequestId {
    fn generate(&self) -> HeaderValue {
        match self.algorithm {
            Algorithm::Uuid => shared(ids::uuid()),
            Algorithm::Uuidv7 => shared(ids::uuidv7()),
            Algorithm::Nanoid => shared(ids::nanoid()),
            Algorithm::Ksuid => shared(ids::ksuid()),
            Algorithm::RangeId => shared(ids::range_id(self.range.0, &self.range.1)),
        }
    }
}

/// Made so that clones share it from the start: `Bytes` of a vector would allocate again at the first clone.
fn shared(id: impl AsRef<[u8]> + Send + 'static) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from_owner(id)).expect("an id has no control characters")
}
