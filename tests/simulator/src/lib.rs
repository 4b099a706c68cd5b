//! A model-server simulator.
//!
//! [`engine`] is a pure discrete-event machine on virtual time: continuous batching with chunked prefill,
//! KV blocks with a prefix cache, LoRA slots, a waiting queue. [`server`] runs it in real time behind an
//! OpenAI-compatible API and a metrics page in vLLM's format, with switches for the ways in which real
//! servers fail. It shares no code with the product that is tested against it.

pub mod engine;

mod api;
mod driver;
pub mod fault;
pub mod flags;
mod page;
mod reply;
pub mod server;
