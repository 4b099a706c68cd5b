//! The names of the headers that are read and written, all in lower case as Envoy has them.

/// Names the endpoints, best first; steers the `override_host` policy.
pub const DESTINATION: &str = "x-gateway-destination-endpoint";
/// Names the endpoint that served, on the response.
pub const SERVED: &str = "x-gateway-destination-endpoint-served";
/// Tells Envoy's router which further statuses it may retry this request on; the router removes it.
pub const RETRIABLE: &str = "x-envoy-retriable-status-codes";
/// The model that the engine is asked for.
pub const MODEL: &str = "x-gateway-model-name";
/// The base model of the pool; routes match on it.
pub const BASE_MODEL: &str = "x-gateway-base-model-name";
/// The endpoints that a request may go to, from an earlier filter.
pub const SUBSET: &str = "x-gateway-destination-endpoint-subset";
/// The same under its other name; the first one counts where both are there.
pub const SUBSET_TWIN: &str = "x-llm-d-destination-endpoint-subset";
/// Names a session, whose requests `session-affinity-scorer` keeps together.
pub const SESSION: &str = "x-session-id";
/// What a scrape says of the page that it wants. The text format of old is what every server has; some compress what they are not told not to.
pub const SCRAPE: [(&str, &str); 2] =
    [("accept", "text/plain;version=0.0.4,text/plain;q=0.9,*/*;q=0.1"), ("accept-encoding", "identity")];

/// Asks an engine to report its load in the answer.
pub const LOAD_METRICS_FORMAT: &str = "endpoint-load-metrics-format";
/// An engine's report of its load.
pub const LOAD_METRICS: &str = "endpoint-load-metrics";
/// Why a request was refused, on the response.
pub const DROPPED_REASON: &str = "x-llm-d-request-dropped-reason";

/// Names an objective, and so a priority; the second name is the endpoint picker's present one, and counts first.
pub const OBJECTIVE: &str = "x-gateway-inference-objective";
/// Its other name.
pub const OBJECTIVE_TWIN: &str = "x-llm-d-inference-objective";
/// Names the flow that a request waits in.
pub const FAIRNESS_ID: &str = "x-gateway-inference-fairness-id";
/// Its other name, which counts first.
pub const FAIRNESS_ID_TWIN: &str = "x-llm-d-inference-fairness-id";
/// How long a request will wait, as a duration.
pub const TTL: &str = "x-llm-d-inference-ttl";
/// The time to first token that a request hopes for, in milliseconds.
pub const SLO_TTFT: &str = "x-llm-d-slo-ttft-ms";
/// Its other name, which is passed on to the engine where it is believed.
pub const SLO_TTFT_TWIN: &str = "x-slo-ttft-ms";
/// The time for each further token, in milliseconds.
pub const SLO_TPOT: &str = "x-llm-d-slo-tpot-ms";
/// Its other name, which is passed on to the engine where it is believed.
pub const SLO_TPOT_TWIN: &str = "x-slo-tpot-ms";
/// When to try again, in seconds, on a refusal.
pub const RETRY_AFTER: &str = "retry-after";

/// What a client must not send on to Envoy or to a model server: each steers, or speaks to the picker.
///
/// The names of the Endpoint Picker Protocol with their `x-llm-d-*` twins, and those by which llm-d's endpoint picker tells the
/// routing sidecar of a pod which other pods to call: a client that sends one has the pod open connections to any address.
pub const CONTROL: [&str; 23] = [
    DESTINATION,
    SUBSET,
    SERVED,
    MODEL,
    BASE_MODEL,
    "x-gateway-model-name-rewrite",
    OBJECTIVE,
    FAIRNESS_ID,
    "x-llm-d-destination-endpoint",
    SUBSET_TWIN,
    "x-llm-d-destination-endpoint-served",
    "x-llm-d-model-name-rewrite",
    OBJECTIVE_TWIN,
    FAIRNESS_ID_TWIN,
    TTL,
    SLO_TTFT,
    SLO_TPOT,
    SLO_TTFT_TWIN,
    SLO_TPOT_TWIN,
    "x-prefiller-host-port",
    "x-encoder-hosts-ports",
    "x-data-parallel-host-port",
    "x-kv-cache-source-host-port",
];

/// How the names in `CONTROL` begin.
const CONTROL_PREFIXES: [&str; 7] =
    ["x-gateway-", "x-llm-d-", "x-slo-", "x-prefiller-", "x-encoder-", "x-data-parallel-", "x-kv-cache-"];

/// Those of them that `trustedHeaders` may name. Each is believed under the name that is trusted, and not under its twin: a
/// filter that sets one name doesn't remove the other.
pub const TRUSTABLE: [&str; 11] = [
    FAIRNESS_ID,
    FAIRNESS_ID_TWIN,
    OBJECTIVE,
    OBJECTIVE_TWIN,
    TTL,
    SLO_TTFT,
    SLO_TTFT_TWIN,
    SLO_TPOT,
    SLO_TPOT_TWIN,
    SUBSET,
    SUBSET_TWIN,
];

/// What holds for the exact bytes of a body: RFC 9530's digests and the older ones, S3's checksums, and Azure's and AWS's hashes that
/// signatures are made of. They are dropped where the body changes, from headers and from trailers.
pub const DIGESTS: [&str; 13] = [
    "content-digest",
    "repr-digest",
    "digest",
    "content-md5",
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc32c",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-sha1",
    "x-amz-checksum-sha256",
    "x-amz-content-sha256",
    "x-ms-content-sha256",
    "x-ms-content-crc64",
    "x-content-sha256",
];

/// HTTP message signatures (RFC 9421): what they cover, and they themselves.
pub const SIGNATURES: [&str; 2] = ["signature-input", "signature"];
/// Names the exact bytes of an answer.
pub const ETAG: &str = "etag";

/// The control header with this name, if it is one.
pub fn control(name: &str) -> Option<&'static str> {
    // Few headers begin so, and most of the others fail at their first letter.
    if !name.starts_with("x-") || !CONTROL_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        return None;
    }
    find(&CONTROL, name)
}

/// The digest with this name, if it is one that holds for the exact bytes of a body. AWS's says in some requests that it
/// holds for nothing: then it stays.
pub fn digest(name: &str, value: &[u8]) -> Option<&'static str> {
    // The shortest has six bytes, and all of them end so.
    if !name.ends_with("digest") && !name.ends_with("md5") && !name.starts_with("x-") {
        return None;
    }
    find(&DIGESTS, name).filter(|_| !value.starts_with(b"UNSIGNED-PAYLOAD"))
}

/// Whether the value of `signature-input` says that a signature covers something that changes with a body.
pub fn covers_body(signature_input: &[u8]) -> bool {
    let covers = |name: &str| {
        let quoted = format!("\"{name}\"");
        signature_input.windows(quoted.len()).any(|window| window.eq_ignore_ascii_case(quoted.as_bytes()))
    };
    covers("content-length") || DIGESTS.into_iter().any(covers)
}

fn find(names: &[&'static str], name: &str) -> Option<&'static str> {
    names.iter().copied().find(|known| *known == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn what_may_be_trusted_is_removed_otherwise() {
        for name in TRUSTABLE {
            assert!(CONTROL.contains(&name), "{name}");
        }
        for name in CONTROL {
            assert_eq!(control(name), Some(name));
        }
        // The engine's own header, which picks a rank of the same engine.
        for name in ["x-slo-other", "x-data-parallel-rank", "x-request-id"] {
            assert_eq!(control(name), None, "{name}");
        }
    }

    #[test]
    fn digests_are_known_by_their_names() {
        for name in DIGESTS {
            assert_eq!(digest(name, b"x"), Some(name));
        }
        for name in ["x-request-id", "want-content-digest", "content-type", "x-md5"] {
            assert_eq!(digest(name, b"x"), None, "{name}");
        }
        assert_eq!(digest("x-amz-content-sha256", b"UNSIGNED-PAYLOAD"), None, "it holds for any body");
    }

    #[test]
    fn a_signature_says_what_it_covers() {
        for (input, wanted) in [
            (r#"sig1=("@method" "@authority" "content-digest");created=1"#, true),
            (r#"a=("@path"), b=("Content-Length")"#, true),
            (r#"sig1=("@method" "@authority");keyid="content""#, false),
            ("", false),
        ] {
            assert_eq!(covers_body(input.as_bytes()), wanted, "{input}");
        }
    }
}
