//! A secret manager as HashiCorp Vault's key/value engine, version 1, is documented to be (`GET /v1/<engine>/<path>`): no package
//! registry has the real one. It looks at the method, the path and the token, and can be made to fail.

use crate::registry::server::{Asked, Body, Protocol, Server, whole};
use http::{Method, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// A Vault server.
pub struct Vault {
    token: String,
    /// By engine and path: `kv/shop`.
    secrets: Mutex<BTreeMap<String, Value>>,
    held: watch::Sender<bool>,
}

impl Vault {
    /// Starts one without secrets, which asks for this token.
    pub fn start(token: &str) -> Server<Self> {
        Server::run(Self { token: token.to_owned(), secrets: Mutex::default(), held: watch::Sender::new(false) })
    }

    /// Says what stands at an engine's path (`kv/shop`): an object of keys and values.
    pub fn set(&self, path: &str, data: Value) {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), data);
    }

    /// Holds answers back from now on; `false` lets them go.
    pub fn hold(&self, back: bool) {
        self.held.send_replace(back);
    }

    fn respond(&self, asked: &Asked) -> Response<Body> {
        if asked.header("x-vault-token") != self.token {
            return whole(403, json!({ "errors": ["permission denied"] }).to_string());
        }
        let secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let path = asked.target.path().strip_prefix("/v1/").filter(|_| asked.method == Method::GET);
        match path.and_then(|path| secrets.get(path)) {
            Some(data) => {
                let lease = json!({
                    "request_id": "8c1d1d4e", "lease_id": "", "renewable": false, "lease_duration": 2_764_800, "data": data,
                    "wrap_info": null, "warnings": null, "auth": null,
                });
                whole(200, lease.to_string())
            }
            None => whole(404, json!({ "errors": [] }).to_string()),
        }
    }
}

impl Protocol for Vault {
    fn answer(self: Arc<Self>, asked: Asked) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        Box::pin(async move {
            let mut held = self.held.subscribe();
            // It cannot be closed: its sender is in here.
            let _free = held.wait_for(|held| !*held).await.is_ok();
            self.respond(&asked)
        })
    }
}
