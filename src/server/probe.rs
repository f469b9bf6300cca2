//! Start-up checks of the host: io_uring, locked memory, file descriptors.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::ring::Ring;

/// Locked memory that a glommio executor requires, bytes.
pub const MEMLOCK_BYTES_MIN: u64 = 512 * 1024;

/// Descriptors for other things than connections: rings, event descriptors, listeners, files.
const DESCRIPTORS_RESERVED: u64 = 64;

/// What a container needs: the default profiles of Docker and Podman permit none of these calls.
const PROFILE: &str = "a seccomp profile that permits io_uring_setup, io_uring_enter and \
                       io_uring_register (tuning/seccomp.json)";

/// A requirement that the host does not meet, and how to meet it.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct HostError {
    what: &'static str,
    why: String,
}

/// Sets up, and closes, a ring with every feature the turn loop needs.
///
/// # Errors
/// What the kernel says.
pub fn try_io_uring() -> io::Result<()> {
    raise(Resource::Memlock);
    Ring::new().map(drop)
}

/// Checks that a ring with every feature the turn loop needs can be set up.
///
/// # Errors
/// What the kernel refused, and the remedy.
pub fn check_io_uring() -> Result<(), HostError> {
    let Err(error) = try_io_uring() else { return Ok(()) };
    let why = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            format!(
                "the kernel or a sandbox forbids it: allow it with \
                 `sysctl kernel.io_uring_disabled=0`, and in a container with {PROFILE}"
            )
        }
        Some(libc::ENOSYS) => {
            format!(
                "this kernel does not have it, or a sandbox hides it: use Linux 6.1 or newer, \
                 built with CONFIG_IO_URING, and in a container {PROFILE}"
            )
        }
        Some(libc::EINVAL) => {
            "this kernel lacks a feature the server needs (deferred task work): use Linux 6.1 or \
             newer"
                .to_string()
        }
        Some(libc::ENOMEM) => {
            "not enough memory for its queues: raise the memory limit of the process or \
             `ulimit -l`, or use fewer shards"
                .to_string()
        }
        _ => format!("{error}: use Linux 6.1 or newer"),
    };
    Err(HostError { what: "io_uring is not available", why })
}

/// Raises the soft limit of locked memory to the hard one, and checks that it suffices.
///
/// # Errors
/// The limit in force and the one needed.
pub fn check_memlock() -> Result<(), HostError> {
    let limit = raise(Resource::Memlock);
    if limit >= MEMLOCK_BYTES_MIN {
        return Ok(());
    }
    let why = format!(
        "{} KiB may be locked and {} KiB are needed: raise it with `ulimit -l {}` or \
         `LimitMEMLOCK=` in the systemd unit",
        limit / 1024,
        MEMLOCK_BYTES_MIN / 1024,
        MEMLOCK_BYTES_MIN / 1024
    );
    Err(HostError { what: "memlock limit too low", why })
}

/// Raises the soft limit of open descriptors to the hard one. Returns the number of connections
/// that it allows.
///
/// # Errors
/// The limit allows no connection.
pub fn connection_budget(shards: usize) -> Result<u32, HostError> {
    let limit = raise(Resource::Nofile);
    let reserved = descriptors_reserved(shards);
    match limit.checked_sub(reserved) {
        Some(budget) if budget > 0 => Ok(u32::try_from(budget).unwrap_or(u32::MAX)),
        _ => Err(HostError {
            what: "too few file descriptors",
            why: format!(
                "{limit} may be open and {reserved} are needed before the first connection: raise \
                 it with `ulimit -n` or `LimitNOFILE=`, or use fewer shards"
            ),
        }),
    }
}

/// Descriptors of a server without connections.
pub fn descriptors_reserved(shards: usize) -> u64 {
    DESCRIPTORS_RESERVED + 16 * (shards as u64 + 1)
}

/// Raises a soft limit to the hard one; returns the limit in force.
fn raise(resource: Resource) -> u64 {
    let Rlimit { current, maximum } = getrlimit(resource);
    let raised = setrlimit(resource, Rlimit { current: maximum, maximum }).is_ok();
    // `None` means unlimited.
    if raised { maximum } else { current }.unwrap_or(u64::MAX)
}
