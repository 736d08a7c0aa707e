//! How exporters of log entries, spans and metrics reach their servers, and questions about certificates their responders.

use crate::tls::OnDemandTls;
use milecastle_export::{Background, Connect, Connecting, Duplex, Endpoint, Tls};
use milecastle_settings::Size;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::runtime::Handle;

/// Longest handshake; who uses an outlet has a shorter limit of its own for connecting and asking together.
const HANDSHAKE: Duration = Duration::from_secs(60);

/// Opens connections with the gateway's TLS.
struct Outlet(OnDemandTls);

/// Exporters of a gateway: they run on `side`, the runtime beside the workers. `authorities` is a file in PEM that servers'
/// certificates are verified with where they are; `None`: those of the system. `longest_answer` is
/// [`milecastle_settings::Limits::export_answer`].
pub fn exporters(side: Handle, authorities: Option<PathBuf>, longest_answer: Size) -> Background {
    outlet(side, authorities, longest_answer)
}

/// As [`exporters`], for others that post beside the traffic.
pub(crate) fn outlet(side: Handle, authorities: Option<PathBuf>, longest_answer: Size) -> Background {
    let outlet = Outlet(OnDemandTls::new(authorities, "apisix.ssl.ssl_trusted_certificate"));
    Background::new(side, outlet, longest_answer.as_len())
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
            let stream = self.0.connect(stream, &to.host, verify, HANDSHAKE).await;
            Ok(stream.map_err(|error| io::Error::other(error.to_string()))? as Box<dyn Duplex>)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use milecastle_export::{Carrier, SocketClient};
    use milecastle_testkit::tls::{Authority, server_config};
    use milecastle_testkit::{SOON, TempDir};
    use std::sync::Arc;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    #[tokio::test]
    async fn bytes_over_tls_go_to_those_alone_for_whom_an_authority_stands() {
        let (dir, ours, other) = (TempDir::new(), Authority::new("ours"), Authority::new("other"));
        let config = server_config(&ours.issue(&["localhost"]), &[]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = Endpoint { host: "localhost".into(), port: listener.local_addr().unwrap().port(), tls: Tls::Verified };
        let send = async |authority: &Authority| {
            let trusted = dir.write("trusted.pem", authority.pem());
            let background = Arc::new(exporters(Handle::current(), Some(trusted), Size::kib(1)));
            let mut client = SocketClient::new(background, to.clone(), Carrier::Connection);
            let sent = client.send(b"hello", SOON).await;
            client.close(SOON).await;
            sent
        };
        let receive = async || {
            let (stream, _) = listener.accept().await?;
            let mut stream = TlsAcceptor::from(config.clone()).accept(stream).await?;
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
