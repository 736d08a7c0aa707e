//! References in string attributes, resolved on the node (`docs/spec/resources.md` §13).

mod aws;
mod environment;
mod fields;
mod gcp;
mod http;
mod manager;
mod sigv4;
#[cfg(test)]
mod tests;
mod vault;

pub use environment::EnvironmentSecrets;
