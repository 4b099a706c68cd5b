//! An endpoint as one VM sees it: what its metrics said, and what this gateway's own traffic has shown.

use std::time::Duration;

use crate::hash;
use crate::inflight::{Inflight, REPORT_LIFE, Report, Work};
use crate::load::{EndpointLoad, Health};
use crate::prefix::{Cache, DEFAULT_CAPACITY};
use crate::saturation::Burden;
use crate::scheduling::labels::Traits;
use crate::speed::{Fit, Line, PRIOR};
use crate::time::Timestamp;

/// This gateway's own requests are noted so often, for comparison with a scrape of that time.
pub(super) const MARK_PERIOD: Duration = Duration::from_millis(25);
/// 400 ms of marks: a scrape is read a few hundred milliseconds after it was sent, at most.
const MARKS: usize = 16;
/// Of two scrapes the newer one counts this much more for what other gateways have there: their requests come and
/// go, and a request on its way is counted by one side only.
const NEWER: f32 = 0.5;
/// A clock may lag by so much without having gone back: prompts and cache hits are not counted at one moment.
const CLOCK_LAG: u64 = 16_384;
/// An engine that says it is idle has had so long to notice a request: decoding an image or splitting a million
/// tokens of text takes a while before its scheduler hears of it.
pub(super) const UNNOTICED: Duration = Duration::from_secs(3);
/// An engine that gives no sign of work for so long, beyond four times what its work should take, hangs.
const SILENCE: Duration = Duration::from_secs(10);
/// The oldest prompt may be nearly done, but its first token isn't there.
const MOST_DONE: f32 = 0.9;
/// Adapters that are remembered as loaded; engines hold a few.
const MAX_RECENT_ADAPTERS: usize = 64;

/// Engines are seldom configured to run fewer requests at a time; what one really runs it shows under load.
const SMALLEST_BATCH: f32 = 16.0;
/// How much one scrape with waiting requests says about the batch.
const BATCH_NEWER: f32 = 0.3;

/// An endpoint as one VM sees it.
#[derive(Debug)]
pub(super) struct EndpointView {
    pub(super) key: u64,
    pub(super) load: EndpointLoad,
    /// What its labels say.
    pub(super) traits: Traits,
    /// What other gateways have there.
    pub(super) others: Others,
    /// Its time to first token, as of the last look.
    pub(super) line: Line,
    fit: Fit,
    /// When it last showed how fast it is.
    timed_at: Timestamp,
    /// The number of this worker's last pick of it for a cold prompt.
    pub(super) last_cold_pick: u64,
    /// Adapters that are probably loaded, by the hashes of their names, the last used one last.
    pub(super) recent_adapters: Vec<u64>,
    marks: [Mark; MARKS],
    next_mark: usize,
    /// When its counters were last seen to move.
    moved_at: Timestamp,
    epoch: u32,
    /// Stands in for the engine's cache clock, where it has no counters.
    own_clock: u64,
    /// How many requests it can run at a time, as far as it has shown.
    batch: f32,
    /// Since when it is no endpoint of the pool any more.
    pub(super) gone_at: Option<Timestamp>,
}

/// Requests at an endpoint that are not this gateway's, by the engine's count.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Others {
    /// All of them.
    pub(super) requests: f32,
    /// Those that wait.
    pub(super) waiting: f32,
}

/// This gateway's requests at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    at: Timestamp,
    requests: u32,
    prefilling: u32,
}

impl EndpointView {
    pub(super) fn new(pool: &str, address: &str, traits: Traits) -> EndpointView {
        EndpointView {
            key: hash::endpoint(pool, address),
            load: EndpointLoad { address: address.to_string(), ..EndpointLoad::default() },
            traits,
            others: Others::default(),
            line: PRIOR,
            fit: Fit::default(),
            timed_at: Timestamp::default(),
            last_cold_pick: 0,
            recent_adapters: Vec::new(),
            marks: [Mark::default(); MARKS],
            next_mark: 0,
            moved_at: Timestamp::default(),
            epoch: 0,
            own_clock: 0,
            batch: SMALLEST_BATCH,
            gone_at: None,
        }
    }

    /// Takes a new scrape in, or the lack of one.
    pub(super) fn handle_load(&mut self, load: EndpointLoad, work: Option<&Work>, now: Timestamp) {
        if self.is_restart(&load) {
            self.epoch = self.epoch.wrapping_add(1);
            self.recent_adapters.clear();
            self.others = Others::default();
        }
        if load.cache_clock != self.load.cache_clock {
            self.moved_at = load.scraped_at;
        }
        if load.scraped_at != self.load.scraped_at {
            self.count_others(&load, work, now);
            self.learn_batch(&load);
            for name in load.adapters.iter().flat_map(|adapters| &adapters.running) {
                self.note_adapter(hash::bytes(name.as_bytes()));
            }
        }
        self.load = load;
    }

    /// Whether another process than before has answered.
    fn is_restart(&self, load: &EndpointLoad) -> bool {
        match (load.started_at, self.load.started_at) {
            (Some(now), Some(before)) => now != before,
            _ => match (load.cache_clock, self.load.cache_clock) {
                (Some(now), Some(before)) => now.saturating_add(CLOCK_LAG) < before,
                _ => self.load.health == Health::Unreachable && load.health == Health::Up,
            },
        }
    }

    fn count_others(&mut self, load: &EndpointLoad, work: Option<&Work>, now: Timestamp) {
        let own = self.own_at(load.scraped_at, work, now);
        let beyond = |count: Option<u32>, own: u32| count.map_or(0, |count| count.saturating_sub(own)) as f32;
        let requests = match (load.waiting, load.running) {
            (None, None) => return,
            (waiting, running) => Some(waiting.unwrap_or(0).saturating_add(running.unwrap_or(0))),
        };
        let fresh = Others { requests: beyond(requests, own.requests), waiting: beyond(load.waiting, own.prefilling) };
        self.others.requests += (fresh.requests - self.others.requests) * NEWER;
        self.others.waiting += (fresh.waiting - self.others.waiting) * NEWER;
    }

    /// This gateway's requests at a time a little ago.
    fn own_at(&self, at: Timestamp, work: Option<&Work>, now: Timestamp) -> Mark {
        let marks = || self.marks.iter().filter(|mark| mark.at != Timestamp::default());
        let before = marks().filter(|mark| mark.at <= at).max_by_key(|mark| mark.at);
        let after = marks().filter(|mark| mark.at > at).min_by_key(|mark| mark.at);
        // A mark that is much older or newer says nothing of then.
        let near = |mark: &&Mark| at.since(mark.at).max(mark.at.since(at)) < MARK_PERIOD * 8;
        before.filter(near).or(after.filter(near)).copied().unwrap_or_else(|| Mark::of(work, now))
    }

    /// What runs while others wait is all that fits; what runs while nobody waits fits at least.
    fn learn_batch(&mut self, load: &EndpointLoad) {
        let Some(running) = load.running.map(|running| running as f32) else { return };
        if load.waiting.unwrap_or(0) == 0 || running > self.batch {
            self.batch = self.batch.max(running);
        } else {
            // A request waits for a moment even where there is room, so one scrape doesn't say it all.
            self.batch += (running - self.batch) * BATCH_NEWER;
        }
    }

    /// What it has to do, as far as that is limited: what the last scrape said, with what this gateway has sent there
    /// and has seen end since. A request that goes there runs while there is room, and waits then.
    pub(super) fn burden(&self, work: Option<&Work>, stale_after: Duration, now: Timestamp) -> Burden {
        let in_flight = work.map_or(0, |work| work.requests);
        if now.since(self.load.scraped_at) >= stale_after {
            return Burden { in_flight, ..Burden::default() };
        }
        let is_idle = in_flight == 0 && self.load.running == Some(0) && self.load.waiting.unwrap_or(0) == 0;
        if is_idle {
            // Some engines' caches count as used by what they have only kept.
            return Burden { waiting: self.load.waiting.map(|_| 0.0), kv_cache_usage: Some(0.0), in_flight };
        }
        let since = in_flight as f32 - self.own_at(self.load.scraped_at, work, now).requests as f32;
        let waiting = self.load.waiting.map(|waiting| {
            let Some(running) = self.load.running else { return (waiting as f32 + since).max(0.0) };
            let room = if waiting > 0 { running as f32 } else { self.batch.max(running as f32) };
            (waiting as f32 + running as f32 + since - room).max(0.0)
        });
        Burden { waiting, kv_cache_usage: self.load.kv_cache_usage, in_flight }
    }

    /// Notes this moment's requests, and takes the pool's newest speed over.
    pub(super) fn handle_look(&mut self, work: Option<&Work>, prior: Line, now: Timestamp) {
        if let Some(mark) = self.marks.get_mut(self.next_mark) {
            *mark = Mark::of(work, now);
        }
        self.next_mark = (self.next_mark + 1) % MARKS;
        self.fit_line(prior, now);
    }

    /// Takes a time to first token in.
    pub(super) fn handle_first_token(&mut self, tokens: f32, seconds: f32, prior: Line, now: Timestamp) {
        self.fit = self.fit.faded(now.since(self.timed_at));
        self.fit.observe(tokens, seconds);
        self.timed_at = now;
        self.fit_line(prior, now);
    }

    fn fit_line(&mut self, prior: Line, now: Timestamp) {
        self.line = self.fit.faded(now.since(self.timed_at)).line(prior);
        // It has done so much in a second: its speed is at least that.
        let done = self.load.rates.map_or(0.0, |rates| rates.prefill_tokens);
        if done * self.line.per_token > 1.0 {
            self.line.per_token = 1.0 / done;
        }
    }

    pub(super) fn handle_sent(&mut self, uncached: u32, adapter: Option<u64>) {
        self.own_clock += u64::from(uncached);
        if let Some(adapter) = adapter {
            self.note_adapter(adapter);
        }
    }

    /// Notes that it has refused a request, and so has no more of its adapter than before.
    pub(super) fn forget_adapter(&mut self, adapter: u64) {
        self.recent_adapters.retain(|known| *known != adapter);
    }

    fn note_adapter(&mut self, adapter: u64) {
        self.recent_adapters.retain(|known| *known != adapter);
        if self.recent_adapters.len() == MAX_RECENT_ADAPTERS {
            self.recent_adapters.remove(0);
        }
        self.recent_adapters.push(adapter);
    }

    /// Its KV cache.
    pub(super) fn cache(&self) -> Cache {
        Cache {
            endpoint: self.key,
            epoch: self.epoch,
            clock: self.load.cache_clock.unwrap_or(self.own_clock),
            capacity: self.load.capacity_tokens.unwrap_or(DEFAULT_CAPACITY),
        }
    }

    /// What an answer has said after the last scrape.
    pub(super) fn newer_report(&self, work: Option<&Work>, now: Timestamp) -> Option<Report> {
        let report = work.and_then(|work| work.report);
        report.filter(|report| report.at > self.load.scraped_at && now.since(report.at) < REPORT_LIFE)
    }

    /// What other gateways have there, by whatever is newest; what is old is no news.
    pub(super) fn others_now(&self, work: Option<&Work>, stale_after: Duration, now: Timestamp) -> Others {
        let is_fresh = now.since(self.load.scraped_at) < stale_after;
        let scraped = if is_fresh { self.others } else { Others::default() };
        let Some(waiting) = self.newer_report(work, now).and_then(|report| report.waiting) else { return scraped };
        let own = work.map_or(0, |work| work.prefilling);
        let waiting = waiting.saturating_sub(own) as f32;
        Others { requests: (scraped.requests - scraped.waiting).max(0.0) + waiting, waiting }
    }

    /// Prompt tokens that are to be computed there before a new request's.
    ///
    /// Engines take prompts one after the other, so since the last first token, or since there was nothing to do
    /// before, it has worked on the oldest one.
    pub(super) fn tokens_ahead(
        &self,
        work: Option<&Work>,
        others_waiting: f32,
        usual_tokens: f32,
        now: Timestamp,
    ) -> f32 {
        let others = others_waiting * usual_tokens;
        let Some(work) = work.filter(|work| work.prefill_tokens > 0) else { return others };
        let since = work.answered_at.max(work.prefilling_since);
        let done = now.since(since).as_secs_f32() / self.line.per_token;
        let tokens = work.prefill_tokens as f32;
        let oldest = tokens / work.prefilling.max(1) as f32;
        tokens - done.min(oldest * MOST_DONE) + others
    }

    /// Whether it takes requests and never answers: it says that it is idle while a request is there that had time
    /// to be noticed, or nothing at all has moved for long. Requests from before `let_in_at` were judged already.
    pub(super) fn is_stalled(
        &self,
        inflight: &Inflight,
        usual_tokens: f32,
        let_in_at: Timestamp,
        now: Timestamp,
    ) -> bool {
        let Some(work) = inflight.work(self.key).filter(|work| work.requests > 0) else { return false };
        if let Some(sent_at) = inflight.unanswered_since(self.key, self.load.scraped_at.before(UNNOTICED))
            && sent_at >= let_in_at
            && work.answered_at < sent_at
            && self.says_idle()
        {
            return true;
        }
        let usual = self.line.seconds(self.tokens_ahead(Some(work), 0.0, usual_tokens, now)).clamp(0.0, 600.0);
        let patience = SILENCE + Duration::from_secs_f32(usual * 4.0);
        // Of the scrape's time and not of now: where scrapes stop, nothing can be seen to move.
        let sent = inflight.unanswered_since(self.key, self.load.scraped_at.before(patience));
        sent.is_some_and(|sent_at| {
            sent_at >= let_in_at && work.answered_at < sent_at && self.has_not_moved_since(sent_at)
        })
    }

    /// Whether its metrics speak against it: it had time to notice a request that was sent then, and shows no work.
    pub(super) fn shows_no_work_since(&self, sent_at: Timestamp) -> bool {
        let had_time = self.load.scraped_at >= sent_at.after(UNNOTICED);
        had_time && (self.says_idle() || self.has_not_moved_since(sent_at))
    }

    fn says_idle(&self) -> bool {
        let is_idle = self.load.running == Some(0) && self.load.waiting.unwrap_or(0) == 0;
        is_idle && self.load.health == Health::Up
    }

    /// Without counters an answer that is not streamed cannot be told from none.
    fn has_not_moved_since(&self, sent_at: Timestamp) -> bool {
        self.load.cache_clock.is_some() && self.moved_at < sent_at
    }
}

impl Mark {
    fn of(work: Option<&Work>, at: Timestamp) -> Mark {
        let (requests, prefilling) = work.map_or((0, 0), |work| (work.requests, work.prefilling));
        Mark { at, requests, prefilling }
    }
}
