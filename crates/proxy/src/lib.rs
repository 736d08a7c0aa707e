//! The data plane: workers that take requests, match them, run their plugins and get answers from upstreams.
//!
//! [`Gateway`] opens the ports and runs the workers; [`Current`] is where a new snapshot is put in force. The way of a request
//! is told in the module `request`, the clients towards upstreams in `h1` and `h2_client`, HTTP/2 and HTTP/3 with clients in
//! `h2` and `h3`, what a worker owns in `worker`.
//!
//! Invariants:
//! - A request stays on the worker that accepted its connection. On its way it takes no lock that is held across an await,
//!   and wakes no other thread.
//! - A request is pinned to one snapshot. A publication is seen by every request that arrives after it.
//! - A panic is one request's 500.
//! - What a client sends is parsed once, strictly, and what upstreams answer likewise; neither makes a buffer grow without
//!   bound.
//!
//! Deliberately absent: storage, the control plane, every single plugin, and any knowledge of where snapshots come from.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod access_log;
mod backoff;
mod balance;
mod config;
mod control_api;
mod counters;
mod current;
mod deadline;
mod discovery;
mod dns;
pub mod drain;
mod failure;
mod fields;
mod gateway;
mod h1;
mod h2;
mod h2_client;
mod h3;
pub mod handover;
mod health;
mod interim;
mod lasting;
mod metrics_page;
pub mod node;
mod node_metrics;
mod ocsp;
mod outlet;
mod process;
mod proxy_protocol;
mod request;
mod resolve;
mod route_traffic;
mod secrets;
mod side_http;
mod side_servers;
mod socket;
pub mod status;
mod stream;
mod tls;
mod transport;
mod turns;
mod upload;
mod worker;

pub use access_log::{AccessLog, AccessLogError};
pub use config::{ConfigError, GatewayConfig};
pub use counters::{Counters, Totals};
pub use current::Current;
pub use discovery::{Discovery, DiscoveryError};
pub use gateway::{Gateway, GatewayParts, LocalAddr, OnRequestEnd, OnSessionEnd, Served, StartError};
pub use health::{HealthFigures, UpstreamHealth};
pub use node_metrics::{PushError, register_metrics};
pub use outlet::background;
pub use secrets::NodeSecrets;
pub use side_servers::{SideError, SideParts, SideServers};
pub use worker::{ListenError, probe};

/// The parsers of what peers send, for the fuzz targets of `tests/fuzz` and for nothing else.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::dns::{BadMessage, Data, Kind, Message, Name, Record};
    pub use crate::h1::server::{
        BadHead, Length, Parsing as RequestParsing, RequestHead, take_head as take_request_head,
    };
    pub use crate::h1::{Asked, ChunkError, Decoder, Framing, Head, Limits, Malformed, Parsing, Piece, take_head};
    pub use crate::h3::{
        BlockFault, FrameHead, decode as decode_fields, entry as static_field, numbers as http3_numbers,
    };
    pub use crate::ocsp::{Judged, judge};
    pub use crate::proxy_protocol::{
        Header as ProxyHeader, MOST as LONGEST_PROXY_HEADER, Malformed as MalformedProxyHeader,
        parse as parse_proxy_header,
    };
    pub use crate::worker::{Http2Read, read_http2};
}
