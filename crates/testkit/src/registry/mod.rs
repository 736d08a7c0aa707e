//! Registries of services, as far as a gateway asks them: each speaks its product's documented protocol, is told its services by
//! the test, and can be made to fail.
//!
//! [`Dnsmasq`] is the real one; the others are written after the products' documentation. [`Server`] also runs what a test itself
//! writes.

mod consul;
mod dnsmasq;
mod eureka;
mod kubernetes;
mod nacos;
pub(crate) mod server;

pub use consul::Consul;
pub use dnsmasq::Dnsmasq;
pub use eureka::Eureka;
pub use kubernetes::Kubernetes;
pub use nacos::Nacos;
pub use server::{Asked, Body, Fault, Protocol, Server, parameters, whole};
