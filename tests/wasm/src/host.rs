//! The state that hostcalls work on.

use std::collections::BTreeMap;

use wasmtime::{Memory, TypedFunc};

use crate::{Header, Process};

/// A callout that a VM made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCall {
    /// Names it in the answer.
    pub token: u32,
    /// The cluster.
    pub cluster: String,
    /// The headers.
    pub headers: Vec<Header>,
    /// After this time it shall fail, in milliseconds.
    pub timeout: u32,
}

impl HttpCall {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        std::str::from_utf8(value).ok()
    }
}

/// An answer that a filter gave itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalResponse {
    /// The status.
    pub status: u32,
    /// The headers.
    pub headers: Vec<Header>,
    /// The body.
    pub body: String,
}

/// The header maps that are there at the moment.
#[derive(Default)]
pub(crate) struct Maps {
    pub(crate) request: Option<Vec<Header>>,
    pub(crate) request_trailers: Option<Vec<Header>>,
    pub(crate) response: Option<Vec<Header>>,
    pub(crate) response_trailers: Option<Vec<Header>>,
    pub(crate) call_response: Option<Vec<Header>>,
}

/// Which hostcalls fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// All of them.
    All,
    /// Those with this name.
    Named(String),
    /// From this one on, counted from 0.
    From(u32),
    /// This one alone, counted from 0.
    Only(u32),
}

pub(crate) struct Host {
    pub(crate) process: Process,
    pub(crate) config: Vec<u8>,
    pub(crate) memory: Option<Memory>,
    pub(crate) allocate: Option<TypedFunc<u32, u32>>,
    pub(crate) maps: Maps,
    sent_request: Vec<Header>,
    pub(crate) request_body: Vec<u8>,
    pub(crate) call_body: Vec<u8>,
    pub(crate) local_response: Option<LocalResponse>,
    pub(crate) properties: BTreeMap<String, Vec<u8>>,
    pub(crate) calls: Vec<HttpCall>,
    pub(crate) refuse_calls: bool,
    /// Which hostcalls are refused, by their names, and with which status.
    pub(crate) refused: Option<(Refused, i32)>,
    /// How many hostcalls were made since that was set.
    pub(crate) made: u32,
    next_token: u32,
    metric_names: Vec<String>,
    metric_values: Vec<u64>,
    pub(crate) logs: Vec<String>,
    pub(crate) tick_period: u32,
    pub(crate) effective_context: u32,
    /// The contexts whose requests were let go on.
    pub(crate) resumed: Vec<u32>,
}

impl Host {
    pub(crate) fn new(process: Process, config: Vec<u8>) -> Host {
        Host {
            process,
            config,
            memory: None,
            allocate: None,
            maps: Maps::default(),
            sent_request: Vec::new(),
            request_body: Vec::new(),
            call_body: Vec::new(),
            local_response: None,
            properties: BTreeMap::new(),
            calls: Vec::new(),
            refuse_calls: false,
            refused: None,
            made: 0,
            next_token: 1,
            metric_names: Vec::new(),
            metric_values: Vec::new(),
            logs: Vec::new(),
            tick_period: 0,
            effective_context: 0,
            resumed: Vec::new(),
        }
    }

    /// The status with which this hostcall is refused, if it is.
    pub(crate) fn refusal(&mut self, name: &str) -> Option<i32> {
        let (refused, status) = self.refused.as_ref()?;
        // Two calls are the SDK's own. Envoy refuses callouts with these statuses alone; and the context of a callout's answer is
        // the one that Envoy is calling.
        let is_callout = name == "proxy_http_call" && ![2, 10].contains(status);
        let is_answer = name == "proxy_set_effective_context" && self.maps.call_response.is_some();
        if is_callout || is_answer {
            return None;
        }
        let number = self.made;
        self.made += 1;
        let is_refused = match refused {
            Refused::All => true,
            Refused::Named(refused) => refused == name,
            Refused::From(first) => number >= *first,
            Refused::Only(only) => number == *only,
        };
        is_refused.then_some(*status)
    }

    pub(crate) fn attach(&mut self, memory: Memory, allocate: TypedFunc<u32, u32>) {
        self.memory = Some(memory);
        self.allocate = Some(allocate);
    }

    /// Once the headers have gone on, Envoy takes them away from the filter.
    pub(crate) fn close_request_headers(&mut self) {
        if let Some(headers) = self.maps.request.take() {
            self.sent_request = headers;
        }
    }

    pub(crate) fn request(&self) -> &[Header] {
        self.maps.request.as_ref().unwrap_or(&self.sent_request)
    }

    pub(crate) fn next_token(&mut self) -> u32 {
        self.next_token += 1;
        self.next_token
    }

    pub(crate) fn define_metric(&mut self, name: String) -> u32 {
        let index = self.metric_names.iter().position(|known| *known == name).unwrap_or_else(|| {
            self.metric_names.push(name);
            self.metric_values.push(0);
            self.metric_names.len() - 1
        });
        u32::try_from(index).unwrap_or(u32::MAX)
    }

    pub(crate) fn metric_mut(&mut self, id: u32) -> Option<&mut u64> {
        self.metric_values.get_mut(usize::try_from(id).ok()?)
    }

    pub(crate) fn metric(&self, name: &str) -> Option<u64> {
        let index = self.metric_names.iter().position(|known| known == name)?;
        self.metric_values.get(index).copied()
    }
}
