//! What the API says of itself.

use axum::response::IntoResponse;
use http::{StatusCode, header};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Outcome, json};
use crate::openapi::{self, Doc};

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Version")]
pub(super) struct Version {
    /// Of this replica.
    value: &'static str,
}

pub(super) const VERSION: Doc = Doc::gives::<Version>("The version.");

/// `GET /api/version`.
pub(super) async fn version() -> Outcome {
    Ok(json(StatusCode::OK, &Version { value: env!("CARGO_PKG_VERSION") }))
}

pub(super) const OPENAPI: Doc = Doc::gives::<Map<String, Value>>("This document.");

/// `GET /api/openapi.json`.
pub(super) async fn openapi() -> Outcome {
    Ok(([(header::CONTENT_TYPE, "application/json")], openapi::TEXT.as_str()).into_response())
}
