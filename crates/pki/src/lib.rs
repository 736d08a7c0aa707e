//! Who is who in a cluster: its certificate authority, the tokens that let a node join, node and server certificates,
//! and the TLS between nodes and control plane.
//!
//! A [`GroupToken`] carries the fingerprint of the cluster's CA, so a joining node knows whom to trust before it
//! holds anything: [`join_client_config`] accepts only a server whose certificate that CA signed. The node makes its key,
//! the [`Ca`] signs a short-lived certificate with an identity that the control plane chose, and from then on both
//! sides trust that CA and nothing else ([`NodeKeys::client_config`], [`server_config`]).
//!
//! Apart from all that, [`ListenerTls`] is the TLS of listeners whose certificates operators bring.
//!
//! Invariants:
//! - There is no unverified TLS, on no path, with no switch.
//! - A private key of a node never leaves the node. What a signing request says besides its public key is ignored.
//! - Secrets do not show in `Debug`, in errors or in logs; they leave by methods that say so in their name.
//! - Nodes verify the server by the one name [`CLUSTER_NAME`], whatever address they dialled: so control replicas may
//!   stand behind a load balancer or move without new certificates.
//! - Connections to the control plane are TLS 1.3 without resumption: every connection proves afresh that its
//!   certificate is still valid.
//! - The clock is an argument; only rustls looks at the system's own, during handshakes.
//!
//! Deliberately absent: where the CA's key is kept and how it is sealed (`store`), which tokens and nodes are revoked and
//! when a stream is cut (`control`), when to renew (`proxy` asks [`NodeKeys::needs_renewal`]), replacing the CA.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod ca;
mod fingerprint;
mod identity;
mod listen;
mod node;
mod public;
mod tls;
mod token;
pub mod transport;

pub use ca::{Ca, Issued, PkiError, ServerCertificate};
pub use fingerprint::{Fingerprint, InvalidFingerprint};
pub use identity::{IdentityError, NodeCertificate, NodeIdentity};
pub use listen::{ListenTlsError, ListenerTls, register_listener_metrics};
pub use node::{KeyRequest, NodeKeys, NodeKeysError};
pub use public::{chain_ends, each_end, first_end};
pub use tls::{ServerIdentity, TrustError, join_client_config, server_config};
pub use token::{GroupToken, TokenError, TokenHash};

/// The name that every DP manager's certificate carries and every node asks for.
pub const CLUSTER_NAME: &str = "dp-manager.milecastle.internal";
