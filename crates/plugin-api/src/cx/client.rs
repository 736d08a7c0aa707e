//! The client's connection.

use milecastle_matching::Var;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// Scheme of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that is left out of a Host header.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// What the TLS handshake with the client settled.
#[derive(Debug, Clone, Default)]
pub struct TlsInfo {
    /// Server name that the client asked for, lower-case.
    pub sni: Option<Arc<str>>,
    /// Protocol version, as `TLSv1.3`.
    pub protocol: &'static str,
    /// Name of the cipher suite.
    pub cipher: Arc<str>,
    /// Group of the key exchange, by the name that OpenSSL gives it, as `prime256v1`; `None` if the handshake had none.
    pub curve: Option<&'static str>,
    /// Application protocol, as `h2`.
    pub alpn: Option<&'static str>,
    /// Whether the session was resumed.
    pub resumed: bool,
    /// `SUCCESS`, `NONE` or `FAILED:reason`.
    pub client_verify: Arc<str>,
    /// DER of the client's certificate.
    pub client_certificate: Option<Arc<[u8]>>,
}

/// What the PROXY header of a connection says, whether or not who sent it is believed.
#[derive(Debug, Clone, Copy)]
pub struct Proxied {
    /// Address of the client.
    pub client: SocketAddr,
    /// The address that it has connected to.
    pub server: SocketAddr,
}

impl Proxied {
    /// The variables `proxy_protocol_*`.
    pub(crate) fn var(&self, name: &str) -> Option<Var<'static>> {
        Some(match name {
            "proxy_protocol_addr" => self.client.ip().to_string().into(),
            "proxy_protocol_port" => self.client.port().to_string().into(),
            "proxy_protocol_server_addr" => self.server.ip().to_string().into(),
            "proxy_protocol_server_port" => self.server.port().to_string().into(),
            _ => return None,
        })
    }
}

/// Facts of a connection that hold for all its requests.
#[derive(Debug)]
pub struct ClientConn {
    /// Address of the peer: on the socket, or as a believed proxy names it by the PROXY protocol.
    pub peer: SocketAddr,
    /// Our own address on the socket.
    pub local: SocketAddr,
    /// Scheme.
    pub scheme: Scheme,
    /// What its PROXY header says, if it has one that names addresses.
    pub proxied: Option<Box<Proxied>>,
    /// TLS, if it is spoken.
    pub tls: Option<TlsInfo>,
    /// When it was opened.
    pub opened: Instant,
    /// Serial number of the connection in this process.
    pub serial: u64,
    /// The peer's address as text, without port.
    pub peer_text: Box<str>,
}
