//! What the project promises, checked from outside the core: bytes that VMs share, the words of errors,
//! clever code against naive twins, operation sequences against their bounds, and the tidiness of the tree.

#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::string_slice,
    reason = "a test reads files, and may panic: only what ships must not"
)]

mod config;
mod conformance;
mod forms;
mod golden;
mod picking;
mod sequences;
mod shown;
mod tidy;
mod twins;
