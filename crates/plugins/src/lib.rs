//! The built-in plugins, a folder each.
//!
//! A folder holds `mod.rs` (the hooks), `config.rs` (the configuration, whose doc comments are its reference page),
//! `tests.rs` and `examples/`. What several plugins need stands beside the folders: [`auth`], [`capture`], [`decode`],
//! [`entropy`], [`exporting`], [`headers`], [`log_entry`]. `docs/adding-a-plugin.md` tells how to add one.
//!
//! Invariants:
//! - The behaviour of a plugin is its file in `docs/spec/plugins/`, to the letter.
//! - A hook neither parses configuration nor compiles a pattern; all of that happens in `compile`.
//! - State of the node (counters, files, metrics) lives in [`milecastle_plugin_api::Shared`], so it outlives snapshots.
//!
//! Deliberately absent: the planes, sockets but for those that exporters send on, beside the workers, and those of
//! `milecastle-redis`, and any way from one plugin into another.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod auth;
mod capture;
mod decode;
mod entropy;
mod exporting;
mod headers;
mod log_entry;

// Plugins of sessions alone.
mod limit_conn;
mod mqtt_proxy;
mod syslog;
mod traffic_split;

use milecastle_plugin_api::PluginDef;

/// Declares the plugins' modules and [`ALL`]. One line a plugin, sorted.
macro_rules! plugins {
    ($($module:ident),* $(,)?) => {
        $(mod $module;)*

        /// The built-in plugins, by name.
        pub static ALL: &[&PluginDef] = &[$(&$module::DEF),*];
    };
}

plugins! {
    file_logger,
    ip_restriction,
    key_auth,
    limit_count,
    long_connections,
    opentelemetry,
    prometheus,
    proxy_rewrite,
    request_id,
    response_rewrite,
    upgrade,
}

/// Declares [`STREAM`]. One line a plugin, sorted.
macro_rules! stream_plugins {
    ($($module:ident),* $(,)?) => {
        /// The built-in plugins of TCP and UDP sessions, by name. Some share name and folder with one of requests.
        pub static STREAM: &[&PluginDef] = &[$(&$module::STREAM),*];
    };
}

stream_plugins! {
    ip_restriction,
    limit_conn,
    long_connections,
    mqtt_proxy,
    prometheus,
    syslog,
    traffic_split,
}

pub use file_logger::reopen as reopen_log_files;

#[cfg(test)]
mod receiver;
#[cfg(test)]
mod tests;
