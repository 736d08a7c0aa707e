//! The HTTP server of a registry, and of others that are asked over HTTP and can be made to fail.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// A body that may come in pieces.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What a product's protocol is.
pub trait Protocol: Send + Sync + 'static {
    /// Answers a question.
    fn answer(self: Arc<Self>, asked: Asked) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
}

/// A question as it was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub target: Uri,
    /// Header fields.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

/// How a registry fails, whatever it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This status.
    Status(u16),
    /// Status 200, and a body that is not what was asked for.
    Garbage,
    /// Status 200, and a body of so many bytes.
    Long(usize),
    /// No answer.
    Silence,
}

/// A registry that runs. Dropping it ends it.
pub struct Server<P> {
    protocol: Arc<P>,
    address: SocketAddr,
    shared: Arc<Shared>,
    running: Option<Running>,
}

#[derive(Default)]
struct Shared {
    fault: Mutex<Option<Fault>>,
    asked: Mutex<Vec<Asked>>,
}

struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Asked {
    /// The parameters of the query.
    pub fn parameters(&self) -> BTreeMap<String, String> {
        parameters(self.target.query().unwrap_or_default())
    }

    /// The value of a header field; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// The parameters of a form or a query.
///
/// # Panics
/// If their percent-encoding is broken.
pub fn parameters(text: &str) -> BTreeMap<String, String> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    };
    text.split('&').filter(|text| !text.is_empty()).map(pair).collect()
}

/// Text without its percent-encoding.
pub(super) fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        bytes.push(match byte {
            b'%' => {
                let (high, low) = (hex(rest.next()), hex(rest.next()));
                u8::try_from(high.expect("a digit") * 16 + low.expect("a digit")).expect("two digits")
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).expect("UTF-8")
}

/// An answer that is there in whole.
///
/// # Panics
/// If there is no such status.
pub fn whole(status: u16, body: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(body.into()).boxed_unsync();
    Response::builder().status(status).header("content-type", "application/json").body(body).expect("a status")
}

impl<P: Protocol> Server<P> {
    /// Starts one on 127.0.0.1.
    ///
    /// # Panics
    /// If it cannot listen, as the other functions here.
    pub fn run(protocol: P) -> Self {
        let address = (Ipv4Addr::LOCALHOST, crate::free_port()).into();
        let mut server = Self { protocol: Arc::new(protocol), address, shared: Arc::default(), running: None };
        server.start();
        server
    }

    /// Where it listens, also while it is stopped.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes it fail from now on; `None` ends that.
    pub fn fail(&self, fault: Option<Fault>) {
        *self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// What it was asked, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it and all of its connections. What it knows it keeps.
    ///
    /// # Panics
    /// If it has panicked.
    pub fn stop(&mut self) {
        if let Some(Running { stop, thread }) = self.running.take() {
            drop(stop);
            thread.join().expect("the registry does not panic");
        }
    }

    /// Starts it again where it was.
    ///
    /// # Panics
    /// If the port is taken.
    pub fn start(&mut self) {
        let listener =
            TcpListener::bind(self.address).unwrap_or_else(|e| panic!("cannot listen on {}: {e}", self.address));
        listener.set_nonblocking(true).expect("a socket can be set");
        let (stop, stopped) = oneshot::channel::<()>();
        let (protocol, shared) = (self.protocol.clone(), self.shared.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, protocol, shared) => {}
                    _ = stopped => {}
                }
            });
        });
        self.running = Some(Running { stop, thread });
    }
}

async fn serve<P: Protocol>(listener: TcpListener, protocol: Arc<P>, shared: Arc<Shared>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let (protocol, shared) = (protocol.clone(), shared.clone());
        connections.spawn(async move {
            let service = service_fn(|request| answer(request, protocol.clone(), shared.clone()));
            // A client may leave at any moment.
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

async fn answer<P: Protocol>(
    request: Request<Incoming>,
    protocol: Arc<P>,
    shared: Arc<Shared>,
) -> Result<Response<Body>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let asked = Asked { method: head.method, target: head.uri, headers: head.headers, body };
    shared.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked.clone());
    let fault = *shared.fault.lock().unwrap_or_else(PoisonError::into_inner);
    match fault {
        None => Ok(protocol.answer(asked).await),
        Some(Fault::Status(status)) => Ok(whole(status, "{}")),
        Some(Fault::Garbage) => Ok(whole(200, "<html>\n")),
        Some(Fault::Long(length)) => Ok(whole(200, vec![b' '; length])),
        Some(Fault::Silence) => std::future::pending().await,
    }
}

impl<P> Deref for Server<P> {
    type Target = P;

    fn deref(&self) -> &P {
        &self.protocol
    }
}

impl<P> Drop for Server<P> {
    fn drop(&mut self) {
        if let Some(Running { stop, thread }) = self.running.take() {
            drop(stop);
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the registry on {} panicked", self.address);
        }
    }
}
