//! When to say that an endpoint's metrics are not read, and when that they are again.
//!
//! A server that is frozen refuses, is silent and breaks off by turns, and one that is overloaded answers every other time. What is said must not
//! change with each scrape: trouble is said once it has lasted, and its end once all has been well for as long.

use std::time::Duration;

use super::Seen;
use crate::time::Timestamp;

/// How long something must last to be said: longer than an engine's restart of its server, and short for whoever waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an operator does about it: look after the endpoint, or after what it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Away,
    Page,
}

/// How an endpoint's scrapes have turned out recently.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    failing_since: Option<Timestamp>,
    sound_since: Option<Timestamp>,
    /// The cause, and since when there was no other one.
    cause: Option<(Cause, Timestamp)>,
    said: Option<Cause>,
    has_said_sound: bool,
}

impl Trouble {
    /// Takes in a page, and says whether that is news.
    pub(super) fn handle_page(&mut self, now: Timestamp) -> bool {
        if self.failing_since.is_some() {
            let since = *self.sound_since.get_or_insert(now);
            if !now.is_due(since, PATIENCE) {
                return false;
            }
        }
        (self.failing_since, self.sound_since, self.cause) = (None, None, None);
        let is_news = self.said.take().is_some() || !self.has_said_sound;
        self.has_said_sound = true;
        is_news
    }

    /// Takes in a failure, and says whether that is news.
    pub(super) fn handle_failure(&mut self, seen: &Seen, now: Timestamp) -> bool {
        self.sound_since = None;
        let since = *self.failing_since.get_or_insert(now);
        let cause = if seen.is_away() { Cause::Away } else { Cause::Page };
        let cause_since = match self.cause {
            Some((before, since)) if before == cause => since,
            _ => now,
        };
        self.cause = Some((cause, cause_since));
        let is_news = match self.said {
            None => now.is_due(since, PATIENCE),
            Some(said) => said != cause && now.is_due(cause_since, PATIENCE),
        };
        if is_news {
            self.said = Some(cause);
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    /// What is said while scrapes turn out so, one every 200 ms: `.` is a page, `x` a refused connection, `t` a timeout, `4` an answer
    /// with 404. Each letter is repeated as often as the number after it says.
    fn said(story: &[(char, usize)]) -> Vec<(u64, char)> {
        let mut trouble = Trouble::default();
        let mut said = Vec::new();
        let mut now = Timestamp(1_000_000);
        for letter in story.iter().flat_map(|(letter, times)| std::iter::repeat_n(*letter, *times)) {
            let is_news = match letter {
                '.' => trouble.handle_page(now),
                'x' => trouble.handle_failure(&Seen::Unreachable, now),
                't' => trouble.handle_failure(&Seen::Timeout, now),
                _ => trouble.handle_failure(&Seen::Status(404), now),
            };
            if is_news {
                said.push((now.0 - 1_000_000, letter));
            }
            now = now.after(Duration::from_millis(200));
        }
        said
    }

    #[test]
    fn trouble_is_said_once_and_so_is_its_end() {
        assert_eq!(said(&[('.', 10)]), [(0, '.')]);
        assert_eq!(said(&[('.', 10), ('x', 100), ('.', 100)]), [(0, '.'), (7_000, 'x'), (27_000, '.')]);
        assert_eq!(said(&[('x', 10), ('.', 100)]), [(7_000, '.')], "an engine that has just started");
        assert_eq!(said(&[('.', 1), ('x', 20), ('.', 100)]), [(0, '.')], "a short outage is not reported");
    }

    #[test]
    fn a_frozen_or_overloaded_server_is_one_piece_of_news() {
        let mut story = vec![('.', 10)];
        story.extend([('x', 3), ('t', 1), ('x', 1), ('t', 2)].repeat(50));
        assert_eq!(said(&story), [(0, '.'), (7_000, 'x')]);
        let mut story = vec![('.', 10)];
        story.extend([('t', 1), ('.', 3)].repeat(200));
        assert_eq!(said(&story), [(0, '.'), (7_600, 't')]);
        story.push(('.', 26));
        assert_eq!(said(&story).len(), 3);
    }

    #[test]
    fn another_cause_that_lasts_is_news() {
        assert_eq!(said(&[('x', 50), ('4', 100)]), [(5_000, 'x'), (15_000, '4')]);
        let mut story = vec![('x', 50)];
        story.extend([('4', 5), ('x', 5)].repeat(50));
        assert_eq!(said(&story), [(5_000, 'x')]);
    }

    #[test]
    fn a_clock_that_goes_back_keeps_nothing_quiet_for_ever() {
        let mut trouble = Trouble::default();
        assert!(!trouble.handle_failure(&Seen::Timeout, Timestamp(1_000_000)));
        assert!(trouble.handle_failure(&Seen::Timeout, Timestamp(1_000)));
    }
}
