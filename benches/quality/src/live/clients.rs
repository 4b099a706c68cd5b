//! A closed loop of HTTP clients, which do in real time what the world's clients do in virtual time.
//!
//! They begin within a second, at the times that the world would draw; each takes the next conversation when its last one
//! is over, and observes the pauses.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use inferencectl::client::{self, Answer};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::random::Random;
use crate::workload::{Conversation, Turn};
use crate::world::{CLIENTS_BEGIN_WITHIN, PATIENCE, Sample};

/// When a request is given up: the longest answer takes 40 s in a full batch, after a first token within [`PATIENCE`].
const LONGEST: Duration = Duration::from_secs(90);

/// What clients tell of measured conversations.
#[derive(Clone, Copy, Debug)]
pub(super) enum News {
    /// A conversation begins.
    Begins,
    /// A request is over.
    Ended(Sample),
}

/// What the clients share.
pub(super) struct Clients {
    gateway: SocketAddr,
    conversations: Vec<Conversation>,
    measured: Range<usize>,
    next: AtomicUsize,
    news: UnboundedSender<News>,
}

impl Clients {
    pub(super) fn new(
        gateway: SocketAddr,
        conversations: Vec<Conversation>,
        measured: Range<usize>,
        news: UnboundedSender<News>,
    ) -> Clients {
        Clients { gateway, conversations, measured, next: AtomicUsize::new(0), news }
    }

    /// Starts so many clients.
    pub(super) fn start(self, count: usize, seed: u64) -> JoinSet<()> {
        let mut random = Random::with_purpose(seed, 1);
        let shared = Arc::new(self);
        let mut clients = JoinSet::new();
        for _ in 0..count {
            let Some(first) = shared.take() else { break };
            let begins = Duration::from_secs_f64(random.even() * CLIENTS_BEGIN_WITHIN);
            clients.spawn(Arc::clone(&shared).run(first, begins));
        }
        clients
    }

    /// The next conversation.
    fn take(&self) -> Option<usize> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        (next < self.conversations.len()).then_some(next)
    }

    /// One client: conversations until there are no more.
    async fn run(self: Arc<Clients>, first: usize, begins: Duration) {
        let (mut next, mut first_pause) = (Some(first), Some(begins));
        while let Some(index) = next {
            self.converse(index, first_pause.take()).await;
            next = self.take();
        }
    }

    /// One conversation, with another pause before its first turn if there is one.
    async fn converse(&self, index: usize, mut first_pause: Option<Duration>) {
        let Some(conversation) = self.conversations.get(index) else { return };
        let is_measured = self.measured.contains(&index);
        for (number, turn) in conversation.turns.iter().enumerate() {
            sleep(first_pause.take().unwrap_or(turn.pause)).await;
            if is_measured && number == 0 {
                self.tell(News::Begins);
            }
            let sample = self.request(conversation.model(), turn).await;
            if is_measured {
                self.tell(News::Ended(sample));
            }
        }
    }

    fn tell(&self, news: News) {
        // When nobody listens any more, everything is measured.
        let _ = self.news.send(news);
    }

    /// What fails counts as in the world.
    async fn request(&self, model: &str, turn: &Turn) -> Sample {
        let reason = match timeout(LONGEST, self.ask(model, turn)).await {
            Ok(Ok(answer)) if answer.first_byte <= PATIENCE => {
                return Sample { first_token: answer.first_byte, end_to_end: answer.total, failed: false };
            }
            Ok(Ok(_)) => "the first token took too long".to_owned(),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => "no end".to_owned(),
        };
        eprintln!("a request failed: {reason}");
        Sample { first_token: PATIENCE, end_to_end: PATIENCE, failed: true }
    }

    /// Each request has a connection of its own, so that it comes to any of Envoy's workers, as in the world.
    async fn ask(&self, model: &str, turn: &Turn) -> Result<Answer> {
        let body = turn.prompt.json_body(model, turn.output_tokens, true);
        let answer = client::send(self.gateway, client::post("/v1/chat/completions", &[], body)?).await?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        // One event for each token, and [DONE]: a stream that breaks has fewer.
        let events = answer.text().matches("data: ").count();
        ensure!(events == turn.output_tokens + 1, "{events} events for {} tokens", turn.output_tokens);
        Ok(answer)
    }
}
