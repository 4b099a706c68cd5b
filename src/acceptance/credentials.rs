//! Which credentials an endpoint has accepted: who refuses them is at fault, and not the client.

/// More clients than most gateways have at a time.
const MOST: usize = 4096;
/// A hash that no credentials have, as far as anybody will see.
const NONE: u64 = u64::MAX;

/// Credentials that were accepted, each at the place that it leads to, and the endpoint that has refused them since.
#[derive(Debug, Default)]
pub(super) struct Good {
    /// Empty before the first one.
    places: Vec<(u64, u64)>,
}

impl Good {
    /// Notes that an endpoint has accepted credentials.
    pub(super) fn note(&mut self, credentials: u64) {
        if self.places.is_empty() {
            self.places = vec![(NONE, 0); MOST];
        }
        if let Some(place) = self.places.get_mut(credentials as usize % MOST) {
            *place = (credentials, 0);
        }
    }

    /// Whether it is the endpoint's fault that it refuses credentials: somebody has accepted them, and nobody else has refused
    /// them since.
    pub(super) fn has(&mut self, credentials: u64, endpoint: u64) -> bool {
        let place = self.places.get_mut(credentials as usize % MOST).filter(|(good, _)| *good == credentials);
        place.is_some_and(|(_, refused_by)| {
            let is_alone = *refused_by == 0 || *refused_by == endpoint;
            *refused_by = endpoint;
            is_alone
        })
    }
}
