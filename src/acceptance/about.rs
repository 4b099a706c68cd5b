//! What a refusal is about, and which tally counts it.

use super::Standing;

/// What a request is, as far as its being refused may depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// A hash of the model and the API that are asked for; `None` without a model, where nobody knows what an endpoint
    /// should have.
    pub asked: Option<u64>,
    /// The prompt's tokens.
    pub tokens: u32,
    /// A hash of the client's credentials; 0 without any.
    pub credentials: u64,
}

/// What a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// The endpoint: whatever it is asked for, it would refuse.
    Endpoint,
    /// Who asks.
    Credentials,
    /// A lack of room.
    Room,
    /// The model or the API.
    Asked,
    /// The request, and so perhaps its length.
    Size,
}

impl About {
    /// All of them, with their names in metrics.
    pub const ALL: [(About, &'static str); 5] = [
        (About::Endpoint, "endpoint"),
        (About::Credentials, "credentials"),
        (About::Room, "room"),
        (About::Asked, "model"),
        (About::Size, "request"),
    ];

    /// What an endpoint's refusal with this status is about.
    pub fn of(status: u16) -> About {
        match status {
            404 | 405 | 410 => About::Asked,
            400 | 413 | 414 | 422 | 431 => About::Size,
            429 | 503 => About::Room,
            401 | 402 | 403 | 407 => About::Credentials,
            _ => About::Endpoint,
        }
    }

    /// The statuses of such a refusal that another endpoint may well not give.
    pub fn statuses(self) -> &'static [u16] {
        match self {
            About::Endpoint | About::Credentials => &[401, 402, 403, 429],
            About::Room => &[429],
            About::Asked => &[404, 405, 410],
            About::Size => &[400, 413, 414, 422, 431],
        }
    }

    /// The tally that counts it.
    pub(super) fn key(self, demand: Demand) -> Option<u64> {
        match self {
            About::Endpoint => Some(ENDPOINT),
            About::Credentials => Some(demand.credentials >> 2 | 1 << 62),
            About::Room => Some(ROOM),
            About::Asked => demand.asked.map(|asked| asked >> 1 | 1 << 63),
            About::Size => Some(SIZE),
        }
    }
}

/// Keys of tallies; those of what is asked have the highest bit, and those of credentials the next one.
const ENDPOINT: u64 = 0;
pub(super) const ROOM: u64 = 1;
pub(super) const SIZE: u64 = 2;

/// What a limit of this kind would be about.
pub(super) fn measure(key: u64, standing: Standing, demand: Demand) -> Option<u32> {
    match key {
        ROOM => Some(standing.in_flight),
        SIZE => Some(demand.tokens),
        _ => None,
    }
}
