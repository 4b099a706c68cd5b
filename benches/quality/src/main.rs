//! Runs the comparison, prints its tables and writes them with their pictures to a folder.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use quality::machine::{cpu, today};
use quality::policies::Entry;
use quality::report::{self, Origin};
use quality::workload::{LOADS, Workload};
use quality::{matrix, plot, policies, workloads};

/// Compares picking policies in virtual time.
#[derive(Debug, Parser)]
struct Options {
    /// Seeds of each run.
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// These workloads only.
    #[arg(long, value_delimiter = ',')]
    workload: Vec<String>,
    /// These policies only.
    #[arg(long, value_delimiter = ',')]
    policy: Vec<String>,
    /// The folder for README.md and the pictures.
    #[arg(long, default_value = "docs/results/quality")]
    out: PathBuf,
    /// One seed, and 80 % load only.
    #[arg(long)]
    quick: bool,
    /// The date of the report, YYYY-MM-DD; today without it.
    #[arg(long)]
    date: Option<String>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let started = Instant::now();
    let workloads = select(workloads::all(), &options.workload, |workload: &Workload| workload.name)?;
    let policies = select(policies::all(), &options.policy, |policy: &Entry| policy.name)?;
    let (loads, seeds) = if options.quick { (&[80][..], 1) } else { (&LOADS[..], options.seeds.max(1)) };
    std::fs::create_dir_all(&options.out).with_context(|| format!("cannot create {}", options.out.display()))?;
    let mut sections = String::new();
    for workload in &workloads {
        let tables = matrix::run(workload, &policies, loads, seeds);
        let section = report::section(workload, &tables);
        print!("{section}");
        eprintln!("{} done after {:.1} s", workload.name, started.elapsed().as_secs_f64());
        sections.push_str(&section);
        let picture = options.out.join(format!("{}.svg", workload.name));
        std::fs::write(&picture, plot::draw(workload, &tables)?)
            .with_context(|| format!("cannot write {}", picture.display()))?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let date = options.date.unwrap_or_else(today);
    let text = report::head(&Origin { date, cpu: cpu(), seeds, seconds }) + &sections;
    let readme = options.out.join("README.md");
    std::fs::write(&readme, text).with_context(|| format!("cannot write {}", readme.display()))
}

/// Those that were asked for, in their own order; all when none was.
fn select<T>(all: Vec<T>, wanted: &[String], name: fn(&T) -> &'static str) -> Result<Vec<T>> {
    if let Some(unknown) = wanted.iter().find(|wanted| !all.iter().any(|item| name(item) == *wanted)) {
        let known: Vec<&str> = all.iter().map(name).collect();
        bail!("there is no {unknown}; there are {}", known.join(", "));
    }
    Ok(all.into_iter().filter(|item| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name(item))).collect())
}
