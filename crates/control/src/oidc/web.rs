//! Asking the provider, over HTTP/1.1.
//!
//! What must stay true: an answer takes bounded time and memory, and no redirect is followed: what is sent reaches the address that it
//! was meant for, or nobody.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use milecastle_settings::Oidc;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::SERVER;

/// Why there is nobody whom the provider's certificate could be of.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file holds no authority.
    #[error("{} holds no authority in PEM (oidc.ca_file): {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Neither does the system.
    #[error("this system trusts no authority: name those of the provider as oidc.ca_file")]
    System,
}

/// Why the provider gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum WebError {
    #[error("`{0}` is no address with https:// or http://")]
    Address(String),
    #[error("no connection: {0}")]
    Connect(#[from] io::Error),
    #[error("the exchange failed: {0}")]
    Exchange(#[from] hyper::Error),
    #[error("no whole answer within oidc.request_timeout")]
    Late,
    #[error("its answer is longer than oidc.max_answer, or broke off")]
    Broken,
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("its answer is no JSON")]
    Form,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// What asks.
pub(super) struct Web {
    tls: TlsConnector,
    patience: Duration,
    most: usize,
}

impl Web {
    pub(super) fn new(settings: &Oidc) -> Result<Self, TrustError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has the suites of these versions")
            .with_root_certificates(trusted(settings)?)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let most = usize::try_from(settings.max_answer.get()).unwrap_or(usize::MAX);
        Ok(Self { tls: Arc::new(config).into(), patience: settings.request_timeout.get(), most })
    }

    /// The JSON at an address, shown to whoever has this proof.
    pub(super) async fn get(&self, address: &str, proof: Option<HeaderValue>) -> Result<Value, WebError> {
        match self.ask(Method::GET, address, proof, Bytes::new()).await? {
            (StatusCode::OK, body) => serde_json::from_slice(&body).map_err(|_| WebError::Form),
            (status, _) => Err(WebError::Status(status)),
        }
    }

    /// What is answered to a form.
    pub(super) async fn post(
        &self,
        address: &str,
        proof: Option<HeaderValue>,
        form: String,
    ) -> Result<(StatusCode, Value), WebError> {
        let (status, body) = self.ask(Method::POST, address, proof, form.into()).await?;
        Ok((status, serde_json::from_slice(&body).map_err(|_| WebError::Status(status))?))
    }

    async fn ask(
        &self,
        method: Method,
        address: &str,
        proof: Option<HeaderValue>,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), WebError> {
        let asked = self.exchange(method, address, proof, body);
        tokio::time::timeout(self.patience, asked).await.unwrap_or(Err(WebError::Late))
    }

    async fn exchange(
        &self,
        method: Method,
        address: &str,
        proof: Option<HeaderValue>,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), WebError> {
        let fault = || WebError::Address(address.to_owned());
        let uri: Uri = address.parse().map_err(|_| fault())?;
        let host = uri.authority().ok_or_else(fault)?.as_str();
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, host)
            .header(USER_AGENT, SERVER)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(CONNECTION, "close")
            .body(Full::new(body))
            .map_err(|_| fault())?;
        request.headers_mut().extend(proof.map(|proof| (AUTHORIZATION, proof)));
        let stream = self.connect(&uri).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let answer = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let whole = Limited::new(answer.into_body(), self.most).collect().await.map_err(|_| WebError::Broken)?;
            Ok::<_, WebError>((status, whole.to_bytes()))
        };
        tokio::pin!(answer);
        tokio::select! {
            biased;
            answered = &mut answer => answered,
            // What has been read of it when the connection ends is there to be taken.
            _ = connection => answer.await,
        }
    }

    async fn connect(&self, uri: &Uri) -> Result<Box<dyn Stream>, WebError> {
        let fault = || WebError::Address(uri.to_string());
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(fault()),
        };
        let host = uri.host().ok_or_else(fault)?.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        stream.set_nodelay(true)?;
        if !secure {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(host).map_err(|_| fault())?;
        Ok(Box::new(self.tls.connect(name, stream).await?))
    }
}

/// The authorities that the provider's certificate may be of.
fn trusted(settings: &Oidc) -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = &settings.ca_file else {
        // Of several that cannot be read, others may do.
        let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let needed = settings.issuer.as_ref().is_some_and(|issuer| issuer.starts_with("https://"));
        return if added > 0 || !needed { Ok(roots) } else { Err(TrustError::System) };
    };
    let fault = |why: String| TrustError::File { path: path.clone(), why };
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let (added, _) = roots.add_parsable_certificates(read.map_err(|error| fault(error.to_string()))?);
    if added == 0 {
        return Err(fault("there is no certificate in it".to_owned()));
    }
    Ok(roots)
}
