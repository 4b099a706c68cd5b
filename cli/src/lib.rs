//! What `inferencectl` is made of; the tests on a real Envoy use the same parts.

pub mod check;
pub mod client;
pub mod demo;
pub mod envoy;
pub mod latency;
pub mod push;
pub mod reference;
pub mod render;
pub mod scrape;
