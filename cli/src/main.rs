//! `inferencectl`: checks and renders plugin configurations, and runs the demo.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use inferencectl::demo::DemoArgs;
use inferencectl::latency::LatencyArgs;
use inferencectl::push::PushArgs;
use inferencectl::reference::Page;
use inferencectl::render::RenderArgs;
use inferencectl::{check, demo, latency, push, render};

/// Checks and renders configurations of the Inference Plugin, and runs its demo.
#[derive(Debug, Parser)]
#[command(name = "inferencectl", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a plugin JSON document; prints every mistake with its path.
    Check {
        /// The document; - for standard input.
        file: PathBuf,
    },
    /// Print a complete Envoy bootstrap for a plugin JSON document.
    Render(RenderArgs),
    /// Run the main job on simulated model servers, or on your own, and show what it did.
    Demo(DemoArgs),
    /// Measure the latency that the plugin adds, beside Envoy's own buffer filter.
    Latency(LatencyArgs),
    /// Push the two modules to a registry as OCI images.
    Push(PushArgs),
    /// Print a generated page of the manual.
    Reference {
        /// Which one.
        page: Page,
    },
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Check { file } => check::run(&file),
        Command::Render(args) => render::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Latency(args) => latency::run(&args),
        Command::Push(args) => push::run(&args),
        Command::Reference { page } => {
            print!("{}", page.text());
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("inferencectl: {error:#}");
            ExitCode::FAILURE
        }
    }
}
