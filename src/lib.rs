//! The pure core of the Inference Plugin: model-aware routing and load-aware endpoint picking.
//!
//! A gateway filter asks this crate where a request should go, and a poller asks it what an engine's
//! metrics page means. The core does no I/O and reads no clock, environment or entropy: bytes, time and
//! randomness are arguments, so that every decision can be replayed in a test and the same code runs in
//! Envoy, under a simulator and in a browser's Wasm runtime.
//!
//! Modules in reading order: a request comes in ([`exchange`]), its body is read ([`scan`]), the model
//! is looked up ([`models`]), an endpoint is chosen ([`scheduling`]) by the load that the poller saw
//! ([`poller`], [`page`], [`exposition`], [`engine`], [`load`]) and by what this gateway has in flight ([`inflight`]).

#![warn(missing_docs)]

pub mod config;

pub mod exchange;
pub mod gateway;
pub mod headers;
pub mod models;
pub mod prompt;
pub mod refusal;
pub mod restore;
pub mod room;
pub mod rules;
pub mod scan;
pub mod shape;
pub mod target;

pub mod flow;
pub mod saturation;
pub mod scheduling;
pub mod speed;

pub mod acceptance;
pub mod discovery;
pub mod ejection;
pub mod engine;
pub mod exposition;
pub mod inflight;
pub mod lease;
pub mod load;
pub mod orca;
pub mod page;
pub mod poller;
pub mod prefix;
pub mod rates;
pub mod wire;

pub mod hash;
pub mod rng;
pub mod shown;
pub mod stats;
pub mod time;

#[cfg(test)]
mod testing;
