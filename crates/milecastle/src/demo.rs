//! The demo upstream of `milecastle up`: it answers every request with what it received.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::fmt::Write;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use tokio::net::TcpListener;

/// Where the demo upstream listens if the port is free.
pub(crate) const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1980);

/// Starts the demo upstream on [`ADDRESS`], or on another port of the same host if that one is taken; gives its address.
pub(crate) async fn start() -> io::Result<SocketAddr> {
    let listener = match TcpListener::bind(ADDRESS).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind(SocketAddr::new(ADDRESS.ip(), 0)).await?,
    };
    let bound = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
            // A client that leaves ends its connection, and nothing else.
            tokio::spawn(async move { drop(connection.await) });
        }
    });
    Ok(bound)
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, mut body) = request.into_parts();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, Bytes::len);
    }
    let mut text =
        format!("Hello from the demo upstream. It received:\n\n{} {} {:?}\n", head.method, head.uri, head.version);
    for (name, value) in &head.headers {
        writeln!(text, "{name}: {}", String::from_utf8_lossy(value.as_bytes())).expect("writing to a string");
    }
    writeln!(text, "\nand {length} bytes of body").expect("writing to a string");
    let mut answer = Response::new(Full::new(text.into()));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(answer)
}
