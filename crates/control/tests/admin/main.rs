//! The Admin API over real HTTP on the real store, rule by rule: the names of the tests are the numbers of
//! `docs/spec/admin-api.md`. Every test runs on SQLite and on PostgreSQL.

#![allow(clippy::unwrap_used)]

mod gateway;
mod leading;
mod plugins;

mod audit;
mod bad_input;
mod changes;
mod client_adc;
mod client_api7;
mod client_dashboard;
mod client_ingress;
mod drafts;
mod events;
mod examples;
mod idempotency;
mod links;
mod metrics;
mod oidc;
mod people;
mod probes;
mod replicas;
mod resources;
mod rights;
mod roles;
mod rollout;
mod route_metrics;
mod s01_headers;
mod s02_pipeline;
mod s03_keys;
mod s04_matrix;
mod s05_envelopes;
mod s06_identifiers;
mod s07_stored;
mod s08_lists;
mod s09_patch;
mod s10_ttl;
mod s11_checks;
mod s11_stream;
mod s12_describe;
mod s14_validate;
mod s15_configs;
mod s16_texts;
mod s17_liveness;
mod serving;
mod settings;
mod tls;
mod transfer;
mod waiting;
