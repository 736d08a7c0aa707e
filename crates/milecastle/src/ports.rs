//! Ports that are taken already, found before anything starts.
//!
//! Listeners with SO_REUSEPORT would share a port silently with another gateway of the same user, so each is probed
//! with a plain bind first.

use anyhow::bail;
use milecastle_settings::Listener;
use std::io::ErrorKind;
use std::net::TcpListener;

/// Binds each address once and lets it go.
///
/// # Errors
/// Names every address that cannot be bound, why, and the key that changes it.
pub(crate) fn probe(listeners: &[Listener]) -> anyhow::Result<()> {
    let taken: Vec<String> = listeners.iter().filter_map(refusal).collect();
    if taken.is_empty() {
        return Ok(());
    }
    bail!("cannot listen:\n  {}", taken.join("\n  "))
}

fn refusal(Listener { key, address, .. }: &Listener) -> Option<String> {
    let error = TcpListener::bind(address).err()?;
    let why = match error.kind() {
        ErrorKind::AddrInUse => "is in use by another process".to_owned(),
        ErrorKind::PermissionDenied => "needs a privilege (CAP_NET_BIND_SERVICE for ports below 1024)".to_owned(),
        ErrorKind::AddrNotAvailable => "is not an address of this host".to_owned(),
        _ => format!("cannot be bound: {error}"),
    };
    let variable = format!("{}{}", milecastle_settings::ENVIRONMENT_PREFIX, key.to_uppercase().replace('.', "__"));
    Some(if variable.contains('[') {
        format!("{address} {why}: set `{key}` in the configuration file")
    } else {
        format!("{address} {why}: set `{key}` in the configuration file or {variable} in the environment")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_key() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        let listeners = [Listener { key: "gateway.apisix.status.port".into(), address, both: true }];
        let error = probe(&listeners).unwrap_err().to_string();
        assert!(error.contains(&format!("{address} is in use by another process")), "{error}");
        assert!(error.contains("MILECASTLE__GATEWAY__APISIX__STATUS__PORT"), "{error}");
        drop(holder);
        probe(&listeners).unwrap();
    }
}
