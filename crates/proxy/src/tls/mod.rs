//! TLS with clients and with upstreams.

mod client_auth;
mod server;
mod upstream;

pub(crate) use server::{ServerTls, accept};
pub(crate) use upstream::UpstreamTls;
