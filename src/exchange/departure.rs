//! The choice of an endpoint, the place that a request needs there where `maxConcurrency` limits them, and its departure.

use super::answer::Attempt;
use super::edit::set;
use super::{Edit, Exchange, Next, Phase, Resolved, Restore};
use crate::config::{FailureMode, PoolId};
use crate::gateway::{Admission, Gateway, PickRequest};
use crate::headers;
use crate::prompt::Prompt;
use crate::refusal::Refusal;
use crate::scheduling::{Decision, NoOpinion, Tier};
use crate::time::Timestamp;

/// An endpoint that has just filled up is passed over by the next choice; in a burst that happens a few times.
const MAX_TRIES: u8 = 4;

/// What was chosen for a request.
#[derive(Debug)]
pub(super) struct Choice {
    /// Best first.
    pub(super) list: Vec<usize>,
    pub(super) tier: Tier,
    pub(super) prompt: Prompt,
    pub(super) adapter: Option<String>,
}

/// How a request has come to ask for a place.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Claiming {
    /// The number under which it has waited.
    pub(super) waited_as: Option<u64>,
    /// How often it has got none.
    pub(super) tries: u8,
}

impl Exchange {
    /// Chooses an endpoint, and sends the request unless it needs a place there.
    pub(super) fn send(
        &mut self,
        gateway: &mut Gateway,
        pool: PoolId,
        mut resolved: Resolved,
        claiming: Claiming,
        now: Timestamp,
        edits: &mut Vec<Edit>,
    ) -> Next {
        let limit = resolved.priority.filter(|_| resolved.may_be_refused);
        let limit = limit.and_then(|priority| gateway.concurrency_limit(pool, priority));
        let choice = match self.choose(gateway, pool, &mut resolved, limit, now) {
            Ok(choice) => choice,
            Err(refusal) => {
                gateway.handle_released(pool, now);
                return self.refuse(gateway, refusal);
            }
        };
        let first = choice.list.first().copied();
        if let Some(place) = first.zip(limit).and_then(|(at, limit)| gateway.place(pool, at, limit)) {
            self.phase = Phase::Claiming(pool, resolved, Box::new(choice), claiming);
            return Next::Claim(place);
        }
        self.go(gateway, pool, resolved, (choice, claiming), now, edits)
    }

    /// Picks endpoints, unless the request is refused.
    fn choose(
        &mut self,
        gateway: &mut Gateway,
        pool: PoolId,
        resolved: &mut Resolved,
        limit: Option<u32>,
        now: Timestamp,
    ) -> Result<Choice, Refusal> {
        let Resolved { may_be_refused, priority, .. } = *resolved;
        let (target, prompt) = (&resolved.target, std::mem::take(&mut resolved.prompt));
        let base_model = gateway.config().pool(pool).map(|pool| pool.base_model.as_str());
        let adapter = target.clone().filter(|target| Some(target.as_str()) != base_model);
        let request = PickRequest {
            adapter: adapter.as_deref(),
            asked: resolved.asked,
            credentials: self.wishes.credentials,
            prompt: &prompt,
            session: self.wishes.session.map(|(_, session)| session),
            subset: self.wishes.subset.as_deref(),
            slo: self.wishes.slo,
            limit,
        };
        let pick = gateway.pick(pool, request, now);
        let is_hopeless = pick.ttft.zip(self.wishes.slo.ttft).is_some_and(|(expected, hoped)| expected > hoped);
        if may_be_refused && is_hopeless && priority.is_some_and(|priority| priority < 0) {
            return Err(gateway.saturated(pool, now));
        }
        let tier = pick.decision.tier();
        let outside_subset = self.wishes.subset.is_some() && matches!(pick.decision, Decision::NoOpinion(_));
        let is_filtered = pick.decision == Decision::NoOpinion(NoOpinion::AllFiltered) && !outside_subset;
        let list = match pick.decision {
            Decision::Picked { endpoints, .. } => endpoints,
            Decision::NoOpinion(_) => Vec::new(),
        };
        if list.is_empty() && may_be_refused {
            let failure_mode = gateway.config().pool(pool).map(|pool| pool.failure_mode);
            // A subset is an order, and not advice.
            if outside_subset || failure_mode == Some(FailureMode::FailClose) {
                gateway.stats.picked(pool, tier, None);
                self.tier = Some(tier);
                // The endpoints are there, and none of them may take it now.
                return Err(if is_filtered { gateway.saturated(pool, now) } else { gateway.no_endpoint(pool) });
            }
        }
        Ok(Choice { list, tier, prompt, adapter })
    }

    /// Lets the request go to what was chosen, and counts it at the first one.
    fn go(
        &mut self,
        gateway: &mut Gateway,
        pool: PoolId,
        mut resolved: Resolved,
        (choice, claiming): (Choice, Claiming),
        now: Timestamp,
        edits: &mut Vec<Edit>,
    ) -> Next {
        let Choice { list, tier, prompt, adapter } = choice;
        let first = list.first().copied();
        self.phase = Phase::Done;
        self.tier = Some(tier);
        gateway.stats.picked(pool, tier, first);
        let addresses: Vec<&str> = list.iter().filter_map(|index| gateway.address(pool, *index)).collect();
        if !addresses.is_empty() {
            edits.push(set(headers::DESTINATION, addresses.join(",")));
        }
        let names = resolved.client_model.clone().zip(resolved.target.clone());
        self.restorer = names.map(|(client, engine)| Restore::Planned { engine, client });
        let mut attempt =
            Attempt::new(pool, list, prompt, adapter, (resolved.asked, self.wishes.credentials), resolved.streams);
        attempt.send_to(gateway, first, now);
        edits.extend(attempt.retriable(gateway, now).map(|statuses| set(headers::RETRIABLE, statuses)));
        self.attempt = Some(attempt);
        match claiming.waited_as {
            Some(_) => gateway.handle_released(pool, now),
            None => self.edit(gateway, pool, &mut resolved, edits),
        }
        Next::Continue
    }

    /// Takes in whether the place of [`Next::Claim`] was got. Without it another one is asked for, or the request waits or is refused.
    pub fn handle_claimed(&mut self, gateway: &mut Gateway, got: bool, now: Timestamp, edits: &mut Vec<Edit>) -> Next {
        let Phase::Claiming(pool, mut resolved, mut choice, mut claiming) =
            std::mem::replace(&mut self.phase, Phase::Done)
        else {
            return Next::Continue;
        };
        if got {
            return self.go(gateway, pool, resolved, (*choice, claiming), now, edits);
        }
        resolved.prompt = std::mem::take(&mut choice.prompt);
        claiming.tries += 1;
        let limit = resolved.priority.and_then(|priority| gateway.concurrency_limit(pool, priority));
        let has_place = limit.is_none_or(|limit| gateway.has_place(pool, limit));
        if has_place && claiming.tries < MAX_TRIES {
            return self.send(gateway, pool, resolved, claiming, now, edits);
        }
        if let Some(id) = claiming.waited_as {
            gateway.handle_put_back(pool);
            self.phase = Phase::Waiting(pool, resolved, id);
            return Next::Wait(id);
        }
        match gateway.turn_away(pool, &self.applicant(&resolved), now) {
            Admission::Wait(id) => self.wait(gateway, pool, resolved, id, edits),
            Admission::Refuse(refusal) => self.refuse(gateway, refusal),
            Admission::Go => self.go(gateway, pool, resolved, (*choice, claiming), now, edits),
        }
    }
}
