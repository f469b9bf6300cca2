//! Why a benchmark could not be carried out. Each is one line, `what: why`, with what to do.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::client::protocol::Closed;

#[derive(Debug, Error)]
pub enum BenchError {
    #[error("connect to {address}: {source} (open files: see `ulimit -n`)")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("{address}: a connection ended before the measurement: {closed}")]
    Ended { address: SocketAddr, closed: Closed },
    #[error("{what}: stuck at {reached} of {count}")]
    Timeout { what: &'static str, reached: u64, count: u64 },
    #[error("options: {0}")]
    Options(String),
    #[error("start the server: {0}")]
    Launch(String),
    #[error("{path}: {why}")]
    File { path: PathBuf, why: String },
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    #[error("ended by signal {0}")]
    Signal(i32),
    #[error("load generator: {0}")]
    Generator(#[from] io::Error),
    #[error("load generator: thread {0} panicked; this is a bug")]
    Panicked(usize),
}

impl BenchError {
    pub(super) fn file(path: &Path, why: impl ToString) -> BenchError {
        BenchError::File { path: path.to_owned(), why: why.to_string() }
    }
}
