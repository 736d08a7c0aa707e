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
use trusted::trusted;
use upstream::UpstreamTls;
pub(crate) use upstream::{Profile, TlsTerms, server_name};
