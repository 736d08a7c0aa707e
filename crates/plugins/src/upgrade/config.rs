//! Configuration of `upgrade`.

use schemars::JsonSchema;
use serde::Deserialize;

/// Names protocols that clients may change to with `Upgrade` over HTTP/1.1, beside WebSocket where the route has
/// `enable_websocket`: what is not named is left out of the request.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Config {
    /// The protocols, each with its version if clients ask for it with one: `SPDY/3.1`, `tcp`. The case of letters is of no matter;
    /// upstreams read a name as it stands here. `websocket` does what `enable_websocket` does. HTTP and TLS are refused under each
    /// of their names, in every version and draft (`h2c`, `h2-14`, `h3-29`, `HTTP/2.0`, `TLS/1.0`): behind them requests would pass by
    /// routes and plugins.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 64)))]
    pub(super) protocols: Vec<String>,
}
