//! The small HTTP servers beside the traffic: status, control API, Prometheus page.
//!
//! They run on the side runtime, apart from the workers, and answer from memory. A request's body is never read.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// An answer of a side server.
pub(crate) type Answer = Response<Full<Bytes>>;

/// Connections that one side server holds at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 256;
/// How long the head of a request may take, and how long a connection may idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A server bound to its address; it ends when this is dropped.
pub struct SideServer {
    addr: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl SideServer {
    /// Binds and serves on the runtime that this is called on.
    pub(crate) async fn start<F, A>(addr: SocketAddr, answer: F) -> io::Result<Self>
    where
        F: Fn(&Request<Incoming>) -> A + Send + Sync + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let task = tokio::spawn(serve(listener, Arc::new(answer)));
        Ok(Self { addr, task })
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for SideServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<F, A>(listener: TcpListener, answer: Arc<F>)
where
    F: Fn(&Request<Incoming>) -> A + Send + Sync + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: they come back when connections end.
                tracing::warn!(%error, "side listener cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answer = answer(&request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            // What goes wrong here is the client's affair: it left, or it does not speak HTTP.
            let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
            drop(slot);
        });
    }
}

/// An answer with a body and its type.
pub(crate) fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, value: &serde_json::Value) -> Answer {
    answer(status, "application/json", value.to_string())
}

/// 404 with the default page.
pub(crate) fn not_found() -> Answer {
    stock(StatusCode::NOT_FOUND)
}

/// An answer with the default page of its status.
pub(crate) fn stock(status: StatusCode) -> Answer {
    let (status, headers, body) = milecastle_plugin_api::Reply::status(status).into_parts();
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    answer
}
