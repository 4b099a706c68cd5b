//! The routes: which pool a request goes to.

use std::fmt::Write;

use inference_plugin::config::Pool;
use inference_plugin::headers;
use inference_plugin::shape::{SHAPES, Shape};

use super::{Bootstrap, Filter, READ_PATHS, SERVED_BY, quoted};

impl Bootstrap<'_> {
    pub(super) fn write_routes(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "          route_config:
            name: inference
            # The last route's cluster is meant to be missing.
            validate_clusters: false
            virtual_hosts:
            - name: inference
              domains: [\"*\"]"
        )?;
        if self.filter == Filter::NativeBuffer {
            writeln!(
                out,
                "              response_headers_to_add:
              - header: {{key: {SERVED_BY}, value: \"%UPSTREAM_HOST%\"}}"
            )?;
        }
        writeln!(out, "              routes:")?;
        for pool in &self.config.pools {
            writeln!(
                out,
                "              - match:
                  prefix: /
                  headers:
                  - {{name: {}, string_match: {{exact: {}}}}}",
                headers::BASE_MODEL,
                quoted(&pool.base_model)
            )?;
            write_pool_route(out, pool)?;
        }
        match self.config.pools.as_slice() {
            // Without the plugin nothing says which model it is.
            [only] if self.filter == Filter::NativeBuffer => write_open_route(out, only, "prefix: /"),
            [only] => self.write_open_routes(out, only),
            _ => write_last_route(out),
        }
    }

    /// What names no model, and goes to the only pool there is.
    fn write_open_routes(&self, out: &mut String, pool: &Pool) -> std::fmt::Result {
        writeln!(
            out,
            "              # What names no model goes to the only pool there is, on the paths that clients may use: those of the inference
              # APIs that need no model, and those that `inferencectl render --open-path` lists. An engine's other paths, such as
              # /metrics, are its operator's."
        )?;
        if self.open_paths.iter().any(|path| path == "/") {
            return write_open_route(out, pool, "prefix: /");
        }
        for (method, takes) in METHODS {
            for regex in open_regexes(takes) {
                let path = format!("safe_regex: {{regex: {}}}", quoted(&regex));
                write_open_route(out, pool, &with_method(&path, &format!("exact: {method}")))?;
            }
        }
        for path in &self.open_paths {
            let matches = format!("path_separated_prefix: {}", quoted(path));
            let is_read = READ_PATHS.contains(&path.as_str());
            let matches = if is_read { with_method(&matches, "safe_regex: {regex: GET|HEAD}") } else { matches };
            write_open_route(out, pool, &matches)?;
        }
        write_last_route(out)
    }
}

/// Envoy refuses a regular expression whose program has more than 100 steps: about one for each letter.
const MAX_REGEX: usize = 80;

/// Whether an API takes a method.
type Takes = fn(&Shape) -> bool;

/// The methods of the inference APIs, and which of them take each.
const METHODS: [(&str, Takes); 2] = [("POST", |_| true), ("PUT", |shape| shape.takes_put)];

/// The paths of the inference APIs that take a method and whose requests need no model, in several expressions.
fn open_regexes(takes: Takes) -> Vec<String> {
    let open = || SHAPES.iter().filter(|shape| !shape.needs_model && takes(shape)).map(|shape| shape.suffix);
    let is_covered = |suffix: &str| open().any(|other| other != suffix && suffix.ends_with(other));
    let mut groups: Vec<Vec<&str>> = Vec::new();
    for suffix in open().filter(|suffix| !is_covered(suffix)) {
        let length = |group: &Vec<&str>| group.iter().map(|suffix| suffix.len() + 2).sum::<usize>();
        match groups.last_mut() {
            Some(last) if length(last) + suffix.len() <= MAX_REGEX => last.push(suffix),
            _ => groups.push(vec![suffix]),
        }
    }
    groups.into_iter().map(|group| format!(".*({})/?", group.join("|"))).collect()
}

/// A match of a path with one of the method, where `method` is a string match.
fn with_method(path: &str, method: &str) -> String {
    format!("{path}\n                  headers: [{{name: \":method\", string_match: {{{method}}}}}]")
}

fn write_open_route(out: &mut String, pool: &Pool, matches: &str) -> std::fmt::Result {
    writeln!(out, "              - match:\n                  {matches}")?;
    write_pool_route(out, pool)
}

/// The route that answers 404. It has a cluster, although none of that name is there: filters that look for the settings of the
/// virtual host, such as CORS, find them by routes with a cluster alone, and in front of the plugin every request is on this one.
fn write_last_route(out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "              # What names no model belongs to no pool. The plugin itself answers for unknown models. Filters in front of the
              # plugin see this route, and by it the settings of the virtual host; a direct_response would hide those from CORS.
              - match: {{prefix: /}}
                route: {{cluster: \"no pool\", cluster_not_found_response_code: NOT_FOUND}}"
    )
}

fn write_pool_route(out: &mut String, pool: &Pool) -> std::fmt::Result {
    writeln!(
        out,
        "                route:
                  cluster: {}
                  # No limit on an answer's time as long as it moves; stream_idle_timeout ends what doesn't.
                  timeout: 0s
                  # Each retry goes to the next endpoint of the pick. Nothing is retried that a model server has
                  # begun to answer.
                  retry_policy:
                    retry_on: connect-failure,refused-stream,reset-before-request,retriable-status-codes
                    retriable_status_codes: [503]
                    num_retries: 2
                    retry_back_off: {{base_interval: 0.005s, max_interval: 0.05s}}",
        quoted(&pool.cluster)
    )
}

#[cfg(test)]
mod tests {
    use super::super::OPEN_PATHS;
    use super::*;

    #[test]
    fn the_chart_opens_the_same_paths() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/inference-plugin/templates/_envoy.tpl");
        let chart = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let of_chart: Vec<&str> = chart.lines().filter(|line| line.contains(": \".*(")).collect();
        let wanted: Vec<String> = METHODS
            .into_iter()
            .flat_map(|(method, takes)| open_regexes(takes).into_iter().map(move |regex| (method, regex)))
            .map(|(method, regex)| format!("- {method}: \"{regex}\""))
            .collect();
        assert_eq!(of_chart, wanted, "the chart's openRegexes");
        assert!(READ_PATHS.iter().all(|path| OPEN_PATHS.contains(path)));
    }
}
