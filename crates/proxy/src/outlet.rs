//! How exporters of log entries, spans and metrics reach their servers, and questions about certificates and secrets those who answer
//! them.

use crate::config::GatewayConfig;
use crate::resolve::Resolver;
use crate::tls::OnDemandTls;
use milecastle_export::{Background, Connect, Connecting, Duplex, Endpoint, Resolving, Tls};
use milecastle_settings::Size;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

/// Longest handshake; who uses an outlet has a shorter limit of its own for connecting and asking together.
const HANDSHAKE: Duration = Duration::from_secs(60);

/// Opens connections with the gateway's TLS, and asks its resolvers.
struct Outlet {
    tls: OnDemandTls,
    resolver: Arc<Resolver>,
}

/// The way out of a gateway for exporters and questions to other servers: they run on `side`, the runtime beside the workers.
/// `longest_answer` is the longest that is read of one, such as [`milecastle_settings::Limits::export_answer`].
pub fn background(side: Handle, config: &GatewayConfig, longest_answer: Size) -> Background {
    outlet(Resolver::new(side.clone(), config.dns.clone()), side, config.authorities(), longest_answer)
}

/// As [`background()`], over this resolver. `authorities` is a file in PEM that servers' certificates are verified
/// with where they are; `None`: those of the system.
pub(crate) fn outlet(
    resolver: Arc<Resolver>,
    side: Handle,
    authorities: Option<PathBuf>,
    longest_answer: Size,
) -> Background {
    let tls = OnDemandTls::new(authorities, "apisix.ssl.ssl_trusted_certificate");
    Background::new(side, Outlet { tls, resolver }, longest_answer.as_len())
}

impl Connect for Outlet {
    fn connect<'a>(&'a self, to: &'a Endpoint) -> Connecting<'a> {
        Box::pin(async move {
            let stream = TcpStream::connect((to.host.as_str(), to.port)).await?;
            stream.set_nodelay(true)?;
            let verify = match to.tls {
                Tls::None => return Ok(Box::new(stream) as Box<dyn Duplex>),
                Tls::Unverified => false,
                Tls::Verified => true,
            };
            let stream = self.tls.connect(stream, &to.host, verify, HANDSHAKE).await;
            Ok(stream.map_err(|error| io::Error::other(error.to_string()))? as Box<dyn Duplex>)
        })
    }

    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        Box::pin(async move {
            match host.parse::<IpAddr>() {
                Ok(literal) => vec![literal],
                Err(_) => self.resolver.resolve(&Arc::from(host), Instant::now()).await.to_vec(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_export::{Carrier, SocketClient};
    use milecastle_plugin_api::NodeFacts;
    use milecastle_settings::Gateway;
    use milecastle_testkit::tls::{Authority, server_config};
    use milecastle_testkit::{SOON, TempDir};
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, UdpSocket};
    use tokio_rustls::TlsAcceptor;

    fn config(settings: &Gateway) -> GatewayConfig {
        let facts = NodeFacts { hostname: "host-1".into(), version: "1.2.3", tracing: false };
        GatewayConfig::new(settings, &facts).unwrap()
    }

    #[tokio::test]
    async fn datagrams_go_to_names_and_addresses() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let background = Arc::new(background(Handle::current(), &config(&Gateway::default()), Size::kib(1)));
        let mut room = [0; 8];
        for host in ["127.0.0.1", "localhost"] {
            let to = Endpoint { host: host.into(), port, tls: Tls::None };
            SocketClient::new(background.clone(), to, Carrier::Datagrams).send(b"hello", SOON).await.unwrap();
            let (length, _) = tokio::time::timeout(SOON, server.recv_from(&mut room)).await.unwrap().unwrap();
            assert_eq!(&room[..length], b"hello");
        }
    }

    #[tokio::test]
    async fn bytes_over_tls_go_to_those_alone_for_whom_an_authority_stands() {
        let (dir, ours, other) = (TempDir::new(), Authority::new("ours"), Authority::new("other"));
        let server = server_config(&ours.issue(&["localhost"]), &[]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = Endpoint { host: "localhost".into(), port: listener.local_addr().unwrap().port(), tls: Tls::Verified };
        let send = async |authority: &Authority| {
            let mut settings = Gateway::default();
            settings.apisix.ssl.ssl_trusted_certificate =
                dir.write("trusted.pem", authority.pem()).display().to_string();
            let background = background(Handle::current(), &config(&settings), Size::kib(1));
            let mut client = SocketClient::new(Arc::new(background), to.clone(), Carrier::Connection);
            let sent = client.send(b"hello", SOON).await;
            client.close(SOON).await;
            sent
        };
        let receive = async || {
            let (stream, _) = listener.accept().await?;
            let mut stream = TlsAcceptor::from(server.clone()).accept(stream).await?;
            let mut got = Vec::new();
            // The client says that it ends (RFC 5425 §4.4): without that the end would be an error.
            stream.read_to_end(&mut got).await?;
            Ok::<_, io::Error>(got)
        };
        let (sent, got) = tokio::join!(send(&ours), receive());
        sent.unwrap();
        assert_eq!(got.unwrap(), b"hello");
        let (sent, got) = tokio::join!(send(&other), receive());
        assert!(sent.is_err() && got.is_err(), "{sent:?}");
    }
}
