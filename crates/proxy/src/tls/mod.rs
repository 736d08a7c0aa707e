//! TLS with clients and with upstreams.

mod client_auth;
mod on_demand;
mod quic;
mod server;
mod sessions;
mod trusted;
mod upstream;

pub(crate) use on_demand::OnDemandTls;
pub(crate) use quic::QuicTls;
pub(crate) use server::{ServerTls, accept};
pub(crate) use trusted::trusted;
pub(crate) use upstream::{Profile, TlsTerms, UpstreamTls, server_name};
