//! The client's connection.

use std::net::SocketAddr;
use std::sync::Arc;

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
    /// Application protocol, as `h2`.
    pub alpn: Option<&'static str>,
    /// Whether the session was resumed.
    pub resumed: bool,
    /// `SUCCESS`, `NONE` or `FAILED:reason`.
    pub client_verify: Arc<str>,
    /// DER of the client's certificate.
    pub client_certificate: Option<Arc<[u8]>>,
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
    /// TLS, if it is spoken.
    pub tls: Option<TlsInfo>,
    /// Serial number of the connection in this process.
    pub serial: u64,
    /// The peer's address as text, without port.
    pub peer_text: Box<str>,
}
