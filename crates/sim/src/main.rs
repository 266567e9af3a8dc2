//! The stand-in engine as a program, and the two tools that go with it: inputs and load.

use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use overnight_domain::route::Route;
use overnight_sim::load::Load;
use overnight_sim::make::Input;
use overnight_sim::{Engine, Latency, Script, Setup};

#[derive(Parser)]
#[command(
    about = "The stand-in engine of Overnight's tests and benches",
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    tool: Option<Tool>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Subcommand)]
enum Tool {
    /// Writes an input file to standard output.
    Make(MakeArgs),
    /// Calls an engine as fast as possible and prints the answers a second.
    Load(LoadArgs),
}

#[derive(Args)]
struct ServeArgs {
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// A model to list; may be given several times.
    #[arg(long = "model")]
    models: Vec<String>,
    #[arg(long)]
    latency_ms: Option<u64>,
    #[arg(long)]
    slots: Option<usize>,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// A script in JSON; the other options are set on top of it.
    #[arg(long)]
    script: Option<PathBuf>,
    /// Count calls by request, for `GET /sim/calls`.
    #[arg(long)]
    count: bool,
}

#[derive(Args)]
struct MakeArgs {
    #[arg(long)]
    requests: u64,
    #[arg(long, default_value_t = 940)]
    len: usize,
    #[arg(long, value_delimiter = ',', default_value = "sim-model")]
    models: Vec<String>,
    #[arg(long, default_value = "/v1/chat/completions", value_parser = parse_route)]
    route: Route,
    #[arg(long, default_value_t = 0)]
    prefix_groups: u64,
    #[arg(long, default_value_t = 1)]
    copies: u64,
    #[arg(long)]
    duplicate_ids: bool,
    /// Text for some of the prompts, such as `[[sim:status=400]]`.
    #[arg(long)]
    directive: Option<String>,
    /// Every how many requests the directive stands.
    #[arg(long, default_value_t = 1)]
    directive_every: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args)]
struct LoadArgs {
    #[arg(long)]
    addr: SocketAddr,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    #[arg(long, default_value_t = 940)]
    len: usize,
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    match cli.tool {
        Some(Tool::Make(args)) => make(args),
        Some(Tool::Load(args)) => load(&args),
        None => serve(cli.serve),
    }
}

/// Runs until it is killed, or until it crashes as its script says; then the process ends as a crashed one does.
fn serve(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let mut script = match &args.script {
        Some(path) => {
            let text =
                std::fs::read(path).with_context(|| format!("failed to read `{}`", path.display()))?;
            serde_json::from_slice(&text)
                .with_context(|| format!("failed to understand `{}`", path.display()))?
        }
        None => Script::default(),
    };
    if !args.models.is_empty() {
        script.models = args.models;
    }
    if let Some(latency) = args.latency_ms {
        script.latency = Latency::Fixed(Duration::from_millis(latency));
    }
    script.slots = args.slots.or(script.slots);
    let setup = Setup {
        listen: args.listen,
        threads: args.threads,
        script,
        ends_with_crash: true,
        counts_requests: args.count,
    };
    let engine =
        Engine::start_with(setup).with_context(|| format!("failed to listen on `{}`", args.listen))?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}", engine.addr())?;
    out.flush()?;
    drop(out);
    engine.join();
    Ok(ExitCode::from(CRASHED))
}

fn make(args: MakeArgs) -> anyhow::Result<ExitCode> {
    let input = Input {
        requests: args.requests,
        line_len: args.len,
        route: args.route,
        models: args.models,
        prefix_groups: args.prefix_groups,
        copies: args.copies,
        has_duplicate_ids: args.duplicate_ids,
        directive: args.directive.map(|directive| (directive, args.directive_every)),
        seed: args.seed,
    };
    // The lock's own buffer looks for line feeds; the lines come in blocks of a megabyte as it is.
    let mut out = BufWriter::with_capacity(0, io::stdout().lock());
    input.write(&mut out).context("failed to write the input")?;
    Ok(ExitCode::SUCCESS)
}

fn load(args: &LoadArgs) -> anyhow::Result<ExitCode> {
    let load = Load {
        addr: args.addr,
        connections: args.connections,
        span: Duration::from_secs(args.seconds),
        body_len: args.len,
    };
    let view = load.run().with_context(|| format!("failed to call `{}`", args.addr))?;
    writeln!(io::stdout(), "{:.0} answers a second", view.answers_per_second())?;
    Ok(ExitCode::SUCCESS)
}

fn parse_route(text: &str) -> Result<Route, String> {
    Route::parse(text).ok_or_else(|| format!("`{text}` is no route of the Batch API"))
}

/// What a shell reports for a process that was aborted.
const CRASHED: u8 = 134;
