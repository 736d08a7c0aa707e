//! The DP manager on the real store, with nodes that speak real gRPC over real TLS. Every test of a replica runs on SQLite
//! and on PostgreSQL.

mod certificates;
mod copied;
mod drain;
mod hostile;
mod joining;
mod lost_commits;
mod maintenance;
mod moving;
mod receipts;
mod replica;
mod rollouts;
mod routes;
mod stream;

use milecastle_testkit::node::{Got, Member};
use replica::{Replica, delete, on_both, put};
