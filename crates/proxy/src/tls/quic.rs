//! TLS within QUIC (RFC 9001): as over TCP, but for who carries its bytes.
//!
//! The QUIC library would have one configuration for all names. So a handshake begins with a session of our own, which waits
//! for the whole of the ClientHello, looks up the certificate for its name in the snapshot in force, and goes on with the
//! configuration of that.
//!
//! There is no 0-RTT: what is sent before the handshake is over could be sent again by anybody who has seen it.

use super::server::{Alpn, Ready, info};
use crate::worker::Node;
use milecastle_plugin_api::TlsInfo;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::crypto::{
    ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig, Session, UnsupportedVersion,
};
use quinn::{ConnectionId, Side, TransportErrorCode};
use quinn_proto::TransportError;
use quinn_proto::transport_parameters::TransportParameters;
use rustls::AlertDescription;
use rustls::quic::{Connection, KeyChange, Secrets, ServerConnection, Version};
use rustls::server::Acceptor;
use std::any::Any;
use std::io::{self, Cursor};
use std::sync::Arc;

/// Bytes of a ClientHello: what one record of TLS over TCP holds.
const LONGEST_HELLO: usize = 16 * 1024;
/// Bytes of a handshake message before its payload: its type, and its length.
const MESSAGE_HEAD: usize = 4;

/// TLS for the QUIC connections of a node.
pub(crate) struct QuicTls {
    node: Arc<Node>,
    /// For what happens before a certificate is chosen: first keys, and the proof of a Retry.
    common: Arc<QuicServerConfig>,
}

impl QuicTls {
    /// # Errors
    /// The TLS library has no suite that QUIC begins with.
    pub(crate) fn new(node: Arc<Node>) -> io::Result<Arc<Self>> {
        let nothing = node.tls.without_certificate(&[&rustls::version::TLS13]).map_err(io::Error::other)?;
        let common = Arc::new(QuicServerConfig::try_from(nothing).map_err(io::Error::other)?);
        Ok(Arc::new(Self { node, common }))
    }
}

impl ServerConfig for QuicTls {
    fn initial_keys(&self, version: u32, dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.common.initial_keys(version, dst_cid)
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.common.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, params: &TransportParameters) -> Box<dyn Session> {
        let mut parameters = Vec::new();
        params.write(&mut parameters);
        Box::new(Handshake { tls: self, version, parameters, hello: Vec::new(), begun: None })
    }
}

/// The TLS of one connection.
struct Handshake {
    tls: Arc<QuicTls>,
    version: u32,
    /// Transport parameters, as they are sent.
    parameters: Vec<u8>,
    /// What has come of the ClientHello.
    hello: Vec<u8>,
    begun: Option<Begun>,
}

/// A handshake whose ClientHello has come.
struct Begun {
    session: Connection,
    sni: Option<Arc<str>>,
    ready: Arc<Ready>,
    next_secrets: Option<Secrets>,
}

impl Handshake {
    /// Chooses the certificate for the name in a ClientHello.
    fn begin(&mut self) -> Result<Begun, TransportError> {
        let said = server_name(&self.hello)?;
        let node = &self.tls.node;
        let sni = node.tls.name(said.as_deref());
        let ssl = sni.as_ref().and_then(|sni| node.current.load().certificate(sni).cloned());
        let ssl = ssl.ok_or_else(|| alert(AlertDescription::UnrecognisedName, "no certificate for this name"))?;
        let unusable = |error: rustls::Error| {
            tracing::debug!(%error, "an ssl object cannot be used over QUIC");
            alert(AlertDescription::ProtocolVersion, "HTTP/3 is not offered under this name")
        };
        let ready = node.tls.ready(&ssl, Alpn::Http3).map_err(unusable)?;
        let parameters = std::mem::take(&mut self.parameters);
        let session = ServerConnection::new(ready.config.clone(), Version::V1, parameters).map_err(unusable)?;
        Ok(Begun { session: session.into(), sni, ready, next_secrets: None })
    }
}

impl Begun {
    fn read(&mut self, bytes: &[u8]) -> Result<(), TransportError> {
        self.session.read_hs(bytes).map_err(|error| match self.session.alert() {
            Some(description) => alert(description, &error.to_string()),
            None => {
                TransportError { code: TransportErrorCode::PROTOCOL_VIOLATION, frame: None, reason: error.to_string() }
            }
        })
    }

    fn info(&self) -> TlsInfo {
        info(&self.session, self.sni.clone(), self.ready.verifier.as_deref())
    }
}

/// An error of TLS, as QUIC tells it (RFC 9001 §4.8).
fn alert(description: AlertDescription, reason: &str) -> TransportError {
    TransportError { code: TransportErrorCode::crypto(description.into()), frame: None, reason: reason.to_owned() }
}

/// Whether the first message is whole.
fn is_whole(hello: &[u8]) -> Result<bool, TransportError> {
    let Some((&[_, a, b, c], rest)) = hello.split_first_chunk::<MESSAGE_HEAD>() else { return Ok(false) };
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    if length > LONGEST_HELLO - MESSAGE_HEAD {
        return Err(alert(AlertDescription::DecodeError, "the ClientHello is too long"));
    }
    Ok(rest.len() >= length)
}

/// The name that a ClientHello asks for. The library reads it from a record of TLS over TCP alone.
fn server_name(hello: &[u8]) -> Result<Option<String>, TransportError> {
    let unreadable = |reason: &str| alert(AlertDescription::DecodeError, reason);
    let length = u16::try_from(hello.len()).map_err(|_| unreadable("the ClientHello is too long"))?;
    let mut record = vec![22, 3, 1];
    record.extend_from_slice(&length.to_be_bytes());
    record.extend_from_slice(hello);
    let mut acceptor = Acceptor::default();
    let mut rest = &record[..];
    while !rest.is_empty() {
        acceptor.read_tls(&mut rest).map_err(|error| unreadable(&error.to_string()))?;
    }
    match acceptor.accept() {
        Ok(Some(accepted)) => Ok(accepted.client_hello().server_name().map(str::to_owned)),
        Ok(None) => Err(unreadable("no ClientHello")),
        Err((error, _)) => Err(unreadable(&error.to_string())),
    }
}

fn keys(keys: rustls::quic::Keys) -> Keys {
    Keys {
        header: KeyPair { local: Box::new(keys.local.header), remote: Box::new(keys.remote.header) },
        packet: KeyPair { local: Box::new(keys.local.packet), remote: Box::new(keys.remote.packet) },
    }
}

impl Session for Handshake {
    fn initial_keys(&self, dst_cid: &ConnectionId, _side: Side) -> Keys {
        self.tls.common.initial_keys(self.version, dst_cid).expect("a session is begun with a version that is known")
    }

    /// [`TlsInfo`], once the handshake is over.
    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        let begun = self.begun.as_ref().filter(|begun| !begun.session.is_handshaking())?;
        Some(Box::new(begun.info()))
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        self.begun.as_ref().is_none_or(|begun| begun.session.is_handshaking())
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        if let Some(begun) = &mut self.begun {
            begun.read(buf)?;
            return Ok(false);
        }
        self.hello.extend_from_slice(buf);
        if !is_whole(&self.hello)? {
            return Ok(false);
        }
        let mut begun = self.begin()?;
        begun.read(&std::mem::take(&mut self.hello))?;
        self.begun = Some(begun);
        Ok(true)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let said = self.begun.as_ref().and_then(|begun| begun.session.quic_transport_parameters());
        let read = |bytes| TransportParameters::read(Side::Server, &mut Cursor::new(bytes));
        Ok(said.map(read).transpose()?)
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let begun = self.begun.as_mut()?;
        match begun.session.write_hs(buf)? {
            KeyChange::Handshake { keys: new } => Some(keys(new)),
            KeyChange::OneRtt { keys: new, next } => {
                begun.next_secrets = Some(next);
                Some(keys(new))
            }
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let next = self.begun.as_mut()?.next_secrets.as_mut()?.next_packet_keys();
        Some(KeyPair { local: Box::new(next.local), remote: Box::new(next.remote) })
    }

    /// Servers send them.
    fn is_valid_retry(&self, _orig_dst_cid: &ConnectionId, _header: &[u8], _payload: &[u8]) -> bool {
        false
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        let begun = self.begun.as_ref().ok_or(ExportKeyingMaterialError)?;
        let exported = begun.session.export_keying_material(output, label, Some(context));
        exported.map(|_| ()).map_err(|_| ExportKeyingMaterialError)
    }
}
