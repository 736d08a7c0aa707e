//! What a store promises, asked of both databases.

#![allow(clippy::unwrap_used)]

mod home;

mod access;
mod accounts;
mod api_tokens;
mod audit;
mod availability;
mod checks;
mod events;
mod groups;
mod members;
mod mishaps;
mod once;
mod opening;
mod past;
mod processes;
mod provider;
mod publishing;
mod reading;
mod roles;
mod rollouts;
mod route_samples;
mod samples;
mod sealing;
mod silence;
mod upgrades;
mod warnings;
mod watching;
