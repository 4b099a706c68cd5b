//! What the project promises, checked from outside the core: bytes that VMs share, the words of errors,
//! clever code against naive twins, operation sequences against their bounds, and the tidiness of the tree.

mod config;
mod golden;
mod picking;
mod sequences;
mod tidy;
mod twins;
