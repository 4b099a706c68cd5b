//! Runs the engine in real time: one task owns it, hears of requests, and passes its events on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

use crate::engine::{Engine, Event, QueueFull, Request, Time};
use crate::flags::Flags;

/// What a request's owner hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Update {
    /// Another token.
    Token { cached_tokens: usize },
    /// That was the last one.
    Finished,
}

/// The engine and those who wait for it.
pub(crate) struct Driver {
    state: Mutex<State>,
    changed: Notify,
    started: Instant,
    flags: Flags,
}

struct State {
    engine: Engine,
    next_id: u64,
    owners: HashMap<u64, mpsc::UnboundedSender<Update>>,
    started_at: Time,
    /// When the engine was stopped, if it is.
    frozen_at: Option<Time>,
    /// How long it has stood still in all.
    lost: Duration,
}

/// A request at the engine; dropping it aborts the request.
pub(crate) struct Running {
    pub(crate) id: u64,
    pub(crate) updates: mpsc::UnboundedReceiver<Update>,
    driver: Weak<Driver>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(driver) = self.driver.upgrade() else { return };
        let mut state = driver.lock();
        state.owners.remove(&self.id);
        state.engine.handle_abort(self.id);
    }
}

impl Driver {
    pub(crate) fn start(flags: &Flags) -> Arc<Driver> {
        let state = State {
            engine: Engine::new(flags.engine()),
            next_id: 1,
            owners: HashMap::new(),
            started_at: Time::ZERO,
            frozen_at: None,
            lost: Duration::ZERO,
        };
        let driver = Arc::new(Driver {
            state: Mutex::new(state),
            changed: Notify::new(),
            started: Instant::now(),
            flags: flags.clone(),
        });
        tokio::spawn(run(Arc::downgrade(&driver)));
        for _ in 0..flags.background_requests {
            tokio::spawn(background(Arc::downgrade(&driver)));
        }
        driver
    }

    pub(crate) fn submit(self: &Arc<Driver>, request: Request) -> Result<Running, QueueFull> {
        let (owner, updates) = mpsc::unbounded_channel();
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        let now = self.now(&state);
        state.engine.handle_request(now, Request { id, ..request })?;
        state.owners.insert(id, owner);
        self.changed.notify_one();
        Ok(Running { id, updates, driver: Arc::downgrade(self) })
    }

    /// Looks at the engine and the virtual time of its start.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Engine, Time) -> T) -> T {
        let state = self.lock();
        look(&state.engine, state.started_at)
    }

    /// Stops the engine where it is, or lets it go on from there.
    pub(crate) fn freeze(&self, frozen: bool) {
        let mut state = self.lock();
        match (frozen, state.frozen_at) {
            (true, None) => state.frozen_at = Some(self.started.elapsed()),
            (false, Some(at)) => {
                state.frozen_at = None;
                state.lost += self.started.elapsed().saturating_sub(at);
            }
            _ => {}
        }
        drop(state);
        self.changed.notify_one();
    }

    /// A new process: every request, counter and cached block is gone.
    pub(crate) fn restart(&self) {
        let mut state = self.lock();
        state.engine = Engine::new(self.flags.engine());
        state.owners.clear();
        state.started_at = self.now(&state);
    }

    /// Virtual time: real time without what the engine stood still.
    fn now(&self, state: &State) -> Time {
        state.frozen_at.unwrap_or_else(|| self.started.elapsed()).saturating_sub(state.lost)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the engine to now; gives the time until its next event.
    fn advance(&self) -> Option<Duration> {
        let mut state = self.lock();
        if state.frozen_at.is_some() {
            return None;
        }
        let now = self.now(&state);
        for event in state.engine.handle_timeout(now) {
            // An owner that is gone aborts its request when it is dropped.
            match event {
                Event::Token { id, cached_tokens } => {
                    if let Some(owner) = state.owners.get(&id) {
                        let _ = owner.send(Update::Token { cached_tokens });
                    }
                }
                Event::Finished { id } => {
                    if let Some(owner) = state.owners.remove(&id) {
                        let _ = owner.send(Update::Finished);
                    }
                }
            }
        }
        state.engine.poll_timeout().map(|at| at.saturating_sub(now))
    }
}

async fn run(driver: Weak<Driver>) {
    loop {
        let Some(driver) = driver.upgrade() else { return };
        // An idle engine looks up now and then, to notice that its server is gone.
        let wait = driver.advance().unwrap_or(Duration::from_secs(1));
        let _ = tokio::time::timeout(wait, driver.changed.notified()).await;
    }
}

/// Keeps one request of the server's own in the engine.
async fn background(driver: Weak<Driver>) {
    loop {
        let Some(strong) = driver.upgrade() else { return };
        let request = Request {
            id: 0,
            prompt_tokens: 200,
            prompt_blocks: Vec::new(),
            output_tokens: 100,
            answer_blocks: Vec::new(),
            lora: None,
        };
        let Ok(mut running) = strong.submit(request) else { return };
        drop(strong);
        while running.updates.recv().await.is_some_and(|update| update != Update::Finished) {}
    }
}
