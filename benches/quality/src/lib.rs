//! Compares picking policies in virtual time: the product's and those of its rivals.
//!
//! A [`workload::Workload`] says which engines there are and what is asked of them. [`world`] runs it on the
//! simulator's engines behind gateways, each with a [`policy::Policy`] of its own, and [`statistics`] sums up what the
//! clients saw. Every policy gets the same requests at the same times, and the same seed gives the same figures. [`live`]
//! does the same in real time, with a real Envoy.

pub mod policies;
pub mod policy;
pub mod workload;
pub mod workloads;

pub mod matrix;
pub mod plot;
pub mod report;
pub mod statistics;
pub mod world;

pub mod live;
pub mod machine;

pub mod lru;
pub mod prompt;
pub mod random;
