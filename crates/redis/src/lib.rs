//! Redis, as workers ask it on the way of a request.
//!
//! A [`Server`] is asked by many workers. Each has one connection of its own, opened by the first question and closed when it has
//! rested; questions go out as they come, and answers come back in their order (pipelining), so a question waits for no other one's
//! answer.
//!
//! Invariants:
//! - A worker neither blocks nor waits for another one: there is no lock on the way of a question.
//! - Each question ends, with its answer or with [`Unanswered`], within [`Terms::patience`] for the connection and as much again
//!   for the answer. What waits is bounded, and so is what is read.
//! - A server that says that it is a replica by now, or otherwise not the one to be asked, is left: its name may lead to another one.
//! - Questions are never sent twice: they count, and nobody knows whether one that was lost has counted.
//! - Neither a log nor an error shows a password, nor what a question holds.
//!
//! Deliberately absent: TLS and names, which the plane's [`milecastle_export::Background`] brings along; RESP3, subscriptions, and
//! blocking commands; what the questions mean.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod connection;
mod resp;
mod server;
#[cfg(test)]
mod tests;

pub use resp::{Value, command};
pub use server::{Server, Servers, Terms, Unanswered};
