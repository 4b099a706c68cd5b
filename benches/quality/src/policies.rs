//! The policies that are compared.
//!
//! [`all`] is the one place where the list is made: a policy is a name and a function that builds one gateway's
//! instance of it.

pub mod chwbl;
pub mod epp;
pub mod higress;
pub mod least_request;
pub mod ours;
pub mod round_robin;
pub mod sglang;

mod approximate_prefix;
mod scores;

#[cfg(test)]
pub(crate) mod testing;

use crate::policy::Policy;

/// What a policy may know of the gateway that it runs in.
#[derive(Clone, Copy, Debug)]
pub struct Gateway {
    /// How many endpoints there are; they are named by their indices.
    pub endpoints: usize,
    /// Workers of the gateway.
    pub workers: usize,
    /// Which of the gateways this is.
    pub index: usize,
    /// How many gateways there are.
    pub gateways: usize,
    /// Seeds what the policy draws; differs from gateway to gateway.
    pub seed: u64,
}

/// A policy of the comparison.
#[derive(Clone, Copy)]
pub struct Entry {
    /// As the tables call it.
    pub name: &'static str,
    /// Builds a gateway's instance.
    pub build: fn(&Gateway) -> Box<dyn Policy>,
}

/// Every policy, in the order of the tables.
pub fn all() -> Vec<Entry> {
    vec![
        Entry { name: "round-robin", build: |gateway| Box::new(round_robin::RoundRobin::new(gateway)) },
        Entry { name: "random", build: |gateway| Box::new(round_robin::Random::new(gateway)) },
        Entry { name: "least-request", build: |gateway| Box::new(least_request::LeastRequest::new(gateway)) },
        Entry { name: "epp", build: |gateway| Box::new(epp::Epp::new(gateway, epp::Profile::Default)) },
        Entry { name: "epp+running", build: |gateway| Box::new(epp::Epp::new(gateway, epp::Profile::WithRunning)) },
        Entry { name: "higress", build: |gateway| Box::new(higress::Higress::new(gateway)) },
        Entry { name: "kubeai-chwbl", build: |gateway| Box::new(chwbl::Chwbl::new(gateway)) },
        Entry { name: "sglang", build: |gateway| Box::new(sglang::CacheAware::new(gateway)) },
        Entry { name: "ours", build: |gateway| Box::new(ours::Ours::new(gateway)) },
    ]
}
