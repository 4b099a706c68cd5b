//! The subset hint: an earlier filter names the endpoints that a request may go to.
//!
//! Address and port both count; the endpoint picker looks at the address alone, which takes one rank of a
//! data-parallel server for another.

use super::{Candidate, Filter};

/// Keeps the endpoints at these positions.
#[derive(Debug)]
pub struct Subset(pub Vec<usize>);

impl Filter for Subset {
    fn keeps(&self, candidate: &Candidate) -> bool {
        self.0.contains(&candidate.endpoint)
    }

    fn falls_back(&self) -> bool {
        false
    }
}
