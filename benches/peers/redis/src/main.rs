//! `headcount bench` against Redis: the same scenarios, options, tables and records.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use headcount::bench::{BenchArgs, Peer, run};
use headcount_peer_redis::Resp;

/// Measure Redis with the load generator of Headcount
#[derive(Parser)]
#[command(after_help = "Example: headcount-peer-redis fanout --redis 127.0.0.1:6379 --window 2")]
struct Arguments {
    /// Address of a running Redis
    #[arg(long, value_name = "ADDR", global = true, default_value = "127.0.0.1:6379")]
    redis: SocketAddr,
    #[command(flatten)]
    bench: BenchArgs,
}

fn main() -> ExitCode {
    let Arguments { redis, bench } = Arguments::parse();
    match run(bench, Some(Peer { address: redis, protocol: &Resp })) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
