//! The tables, in Markdown; the best of each column in bold.

use std::fmt::Write;

use crate::matrix::Table;
use crate::statistics::Summary;
use crate::workload::Workload;

/// What a report says about its making.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The day, as YYYY-MM-DD.
    pub date: String,
    /// The processor.
    pub cpu: String,
    /// Seeds of each run.
    pub seeds: u64,
    /// How long everything took, in seconds.
    pub seconds: f64,
}

/// A column: its title, its value, how to print it, and which value is best.
struct Column {
    title: &'static str,
    value: fn(&Summary) -> f64,
    decimals: usize,
    best: Best,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Best {
    Least,
    Most,
}

const COLUMNS: [Column; 9] = [
    column("TTFT mean ms", |row| row.first_token_mean, 0, Best::Least),
    column("p50", |row| row.first_token_p50, 0, Best::Least),
    column("p90", |row| row.first_token_p90, 0, Best::Least),
    column("p99", |row| row.first_token_p99, 0, Best::Least),
    column("end to end ms", |row| row.end_to_end_mean, 0, Best::Least),
    column("tokens/s", |row| row.tokens_per_second, 0, Best::Most),
    column("hit rate %", |row| row.hit_rate * 100.0, 1, Best::Most),
    column("load spread", |row| row.load_spread, 3, Best::Least),
    column("errors", |row| row.errors, 1, Best::Least),
];

const fn column(title: &'static str, value: fn(&Summary) -> f64, decimals: usize, best: Best) -> Column {
    Column { title, value, decimals, best }
}

/// What comes before the tables.
pub fn head(origin: &Origin) -> String {
    let Origin { date, cpu, seeds, seconds } = origin;
    format!(
        "# Picking quality\n\n\
         Written by `./build.sh bench quality` on {date}, {cpu}; {seconds:.0} s of wall time, {seeds} seeds. The times in the\n\
         tables are virtual: the engines are the simulator's, and the same seeds give the same figures on any machine.\n\n\
         Every policy gets the same requests. Percentiles are over the pooled requests of all seeds, everything else is a mean\n\
         over seeds. A failed request counts with a TTFT of 30 s, and `errors` is the number of them per seed. `load spread` is\n\
         the coefficient of variation of the endpoints' work. The load of an open workload is a share of what round robin\n\
         sustains when saturated. The time that a policy itself takes to pick, and what lies between client and gateway, are not\n\
         in the figures. The best of each column is bold.\n\n\
         What to know of the rivals: each is written from its published formulas, with the state that its original keeps, and none\n\
         was tuned. The `epp` rows are the endpoint picker's default, and that with running requests at weight 1; they name one\n\
         endpoint, as the endpoint picker does, and scrape every 50 ms, `ours` every 200 ms. `higress` keeps its state in each of the\n\
         gateway's four workers, as its original does in each of Envoy's; with a single worker it would do better. For three A10 its\n\
         authors have published 312, 205, 686 and 1107 ms for round robin (mean, p50, p90, p99), near `chat` at 80 %, and 254, 143,\n\
         571 and 1574 ms for the endpoint picker, far from it: their conversations are not published, and the time that a call of\n\
         the endpoint picker takes is in theirs and not here. `kubeai-chwbl` hashes the first 100 characters of the first user\n\
         message, `least-request` is Envoy's choice of two, and `sglang` has its circuit breaker. `docs/results/quality/live.md` runs\n\
         one workload through Envoy in real time.\n"
    )
}

/// A workload's section.
pub fn section(workload: &Workload, tables: &[Table]) -> String {
    let mut text = format!("\n## {}\n\n{}\n\n![TTFT]({}.svg)\n", workload.name, workload.about, workload.name);
    for table in tables {
        let requests = table.rows.first().map_or(0.0, |(_, summary)| summary.requests);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n{} % ({}), {requests:.0} requests per seed:\n", table.load, table.demand);
        text.push_str(&markdown(table));
    }
    text
}

fn markdown(table: &Table) -> String {
    let mut text = String::from("| policy |");
    for column in &COLUMNS {
        let _ = write!(text, " {} |", column.title);
    }
    text.push_str("\n|---|");
    text.push_str(&"---:|".repeat(COLUMNS.len()));
    text.push('\n');
    for (name, summary) in &table.rows {
        let _ = write!(text, "| {name} |");
        for column in &COLUMNS {
            let _ = write!(text, " {} |", cell(column, summary, table));
        }
        text.push('\n');
    }
    text
}

/// Rows that print alike are equally good; a column where all do has no best.
fn cell(column: &Column, summary: &Summary, table: &Table) -> String {
    let rounded = |summary: &Summary| {
        let scale = 10f64.powi(column.decimals as i32);
        ((column.value)(summary) * scale).round() / scale
    };
    let values = || table.rows.iter().map(|(_, summary)| rounded(summary));
    let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    let best = if column.best == Best::Least { least } else { most };
    let text = format!("{:.*}", column.decimals, (column.value)(summary));
    if rounded(summary) == best && least < most { format!("**{text}**") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::summarize;
    use crate::world::Measured;

    #[test]
    fn the_best_is_bold_unless_all_are() {
        let empty = summarize(&[Measured::default()]);
        let row = |first_token_mean, hit_rate| Summary { first_token_mean, hit_rate, ..empty.clone() };
        let rows = vec![("a", row(10.2, 0.5)), ("b", row(9.8, 0.25)), ("c", row(11.0, 0.5))];
        let text = markdown(&Table { load: 80, demand: String::new(), rows });
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(lines[0], "| a | **10** | 0 | 0 | 0 | 0 | 0 | **50.0** | 0.000 | 0.0 |");
        assert_eq!(lines[1], "| b | **10** | 0 | 0 | 0 | 0 | 0 | 25.0 | 0.000 | 0.0 |");
        assert_eq!(lines[2], "| c | 11 | 0 | 0 | 0 | 0 | 0 | **50.0** | 0.000 | 0.0 |");
    }
}
