//! Which refusals of the first endpoint the host may send on to the next one of the list.

use crate::acceptance::{About, Demand};
use crate::config::PoolId;
use crate::gateway::Gateway;
use crate::time::Timestamp;

/// The statuses for `x-envoy-retriable-status-codes`; `None` when there are none.
///
/// 429 is what a busy engine says, and the next one may have room. Where the request tries what its endpoint has refused
/// before, any refusal of that kind goes on, so that the trial is not at the client's expense.
pub(super) fn statuses(
    gateway: &Gateway,
    pool: PoolId,
    list: &[usize],
    trial: Option<About>,
    demand: Demand,
    now: Timestamp,
) -> Option<String> {
    let next = *list.get(1)?;
    if !gateway.config().pool(pool)?.retry_refused {
        return None;
    }
    let busy: &[u16] = if gateway.has_room(pool, next, demand, now) { About::Room.statuses() } else { &[] };
    let tried = trial.map_or(&[][..], About::statuses);
    let mut statuses: Vec<u16> = busy.iter().chain(tried).copied().collect();
    statuses.sort_unstable();
    statuses.dedup();
    let statuses: Vec<String> = statuses.iter().map(u16::to_string).collect();
    (!statuses.is_empty()).then(|| statuses.join(","))
}
