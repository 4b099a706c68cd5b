//! A list in pages whose length follows what an item weighs.
//!
//! A pod has three kilobytes or two hundred, and an answer of more than eight megabytes is not read. So a page asks for as many
//! items as make about a megabyte, by the weight of those of the page before, and one that was too long is asked for again with
//! half as many.

/// How long a page should be: it is parsed in one go, in some five milliseconds, by a thread that may have requests to serve.
const PAGE_BYTES: usize = 1 << 20;
/// Items in the first page, of which nothing is known: some 500 KB of usual pods.
const FIRST: usize = 50;
/// More would make the answer of an API server with tiny items long to wait for.
const MOST: usize = 500;

/// Where a list goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pages {
    /// The API's token for the next page; empty for the first.
    token: String,
    limit: usize,
    /// What the pages so far weigh, in bytes.
    bytes: usize,
}

impl Default for Pages {
    fn default() -> Pages {
        Pages { token: String::new(), limit: FIRST, bytes: 0 }
    }
}

impl Pages {
    /// The part of a query that asks for the next page.
    pub(super) fn query(&self) -> String {
        if self.token.is_empty() {
            return format!("limit={}", self.limit);
        }
        let token: String = form_urlencoded::byte_serialize(self.token.as_bytes()).collect();
        format!("limit={}&continue={token}", self.limit)
    }

    /// Begins again, with pages as long as they have come to be.
    pub(super) fn restart(&mut self) {
        (self.token, self.bytes) = (String::new(), 0);
    }

    /// Whether the list is under way.
    pub(super) fn is_begun(&self) -> bool {
        !self.token.is_empty()
    }

    /// What the pages so far weigh, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a page in: how many items it has, how long it is, and the token for the next one. Whether there is one.
    pub(super) fn handle_page(&mut self, items: usize, bytes: usize, token: String) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        if let Some(fitting) = PAGE_BYTES.saturating_mul(items).checked_div(bytes).filter(|_| items > 0) {
            self.limit = fitting.clamp(1, MOST);
        }
        self.token = token;
        self.is_begun()
    }

    /// A page was too long, or broke off, as Envoy does with answers of more than 32 MiB. Whether a shorter one can be asked for.
    pub(super) fn handle_too_long(&mut self) -> bool {
        let can_shrink = self.limit > 1;
        self.limit = (self.limit / 2).max(1);
        can_shrink
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn pages_follow_what_an_item_weighs() {
        let mut pages = Pages::default();
        assert_eq!(pages.query(), "limit=50");
        assert!(pages.handle_page(50, 500_000, "a/b=".to_owned()));
        assert_eq!(pages.query(), "limit=104&continue=a%2Fb%3D");
        assert!(pages.handle_page(104, 104 * 200_000, "c".to_owned()));
        assert_eq!(pages.query(), "limit=5&continue=c");
        assert!(!pages.handle_page(5, 1_000, String::new()));
        pages.restart();
        assert_eq!((pages.query().as_str(), pages.bytes()), ("limit=500", 0));
        assert!(!pages.handle_page(0, 100, String::new()), "an empty list says nothing of items");
        assert_eq!(pages.query(), "limit=500");
    }

    #[test]
    fn a_page_that_is_too_long_is_halved_down_to_one_item() {
        let mut pages = Pages::default();
        let mut limits = Vec::new();
        while pages.handle_too_long() {
            limits.push(pages.query());
        }
        assert_eq!(limits, ["limit=25", "limit=12", "limit=6", "limit=3", "limit=1"]);
        pages.handle_page(1, 7 << 20, "next".to_owned());
        assert_eq!(pages.query(), "limit=1&continue=next");
    }
}
