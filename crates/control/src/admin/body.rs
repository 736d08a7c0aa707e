//! Reading request bodies (`docs/spec/admin-api.md` §2 step 9).

use crate::admin::reply::Reply;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::time::Duration;

/// How long a client may take to send a body.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much of a body that is too large is read and thrown away, so that a client that sends first and reads then sees the
/// answer. Beyond it the connection is cut.
const THROWN_AWAY: usize = 64 << 20;

/// The whole body.
pub(crate) async fn read(body: Body, max: usize) -> Result<Bytes, Box<Reply>> {
    match tokio::time::timeout(PATIENCE, collect(body, max)).await {
        Ok(read) => read,
        Err(_) => Err(refuse("it did not arrive in time")),
    }
}

async fn collect(mut body: Body, max: usize) -> Result<Bytes, Box<Reply>> {
    let mut kept = BytesMut::new();
    let mut size = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| refuse(error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        size += data.len();
        if size <= max {
            kept.extend_from_slice(&data);
        } else if size > THROWN_AWAY {
            break;
        }
    }
    if size > max {
        return Err(refuse(format!("request size {size} is greater than the maximum size {max} allowed")));
    }
    Ok(kept.freeze())
}

/// The body as JSON whatever its media type; `None` if it is empty.
pub(crate) async fn read_json(body: Body, max: usize) -> Result<Option<Value>, Box<Reply>> {
    let text = read(body, max).await?;
    if text.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        let raw = String::from_utf8_lossy(&text);
        let answer = json!({ "error_msg": format!("invalid request body: {error}"), "req_body": raw });
        Box::new(Reply::json(StatusCode::BAD_REQUEST, &answer))
    })
}

fn refuse(why: impl AsRef<str>) -> Box<Reply> {
    Box::new(Reply::bad(format!("invalid request body: {}", why.as_ref())))
}
