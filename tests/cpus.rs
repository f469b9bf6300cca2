//! How many shards there are in a container: the real binary in a mount namespace whose cgroup
//! files say what the kernel would.
#![cfg(feature = "server")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// Replaces the cgroup files by those that the first argument makes, then becomes the rest.
const CONTAINER: &str = r#"
    set -e
    mount -t tmpfs none /sys/fs/cgroup
    cd /sys/fs/cgroup
    eval "$1"
    mount --bind self /proc/$$/cgroup
    cd /
    shift
    exec "$@"
"#;

const V2: &str = "
    mkdir -p pod/app
    echo cpu | tee cgroup.controllers > pod/app/cgroup.controllers
    echo 0::/pod/app > self
";

const V1: &str = "
    mkdir -p cpu/app
    printf '4:memory:/x\\n1:cpu:/app\\n0::/\\n' > self
    echo 100000 > cpu/app/cpu.cfs_period_us
";

/// The binary in a container; `None` where a test may not make one.
fn contained(files: &str, arguments: &[&str]) -> Option<Command> {
    let namespace = ["--user", "--map-root-user", "--mount"];
    let made = Command::new("unshare").args(namespace).arg("true").output();
    if !made.is_ok_and(|output| output.status.success()) {
        println!("skipped: no user and mount namespaces here");
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(namespace).args(["sh", "-c", CONTAINER, "container", files]);
    command.arg(env!("CARGO_BIN_EXE_headcount")).args(arguments).stdin(Stdio::null());
    command.env_remove("HEADCOUNT_CONFIG");
    Some(command)
}

fn affinity() -> usize {
    core_affinity::get_core_ids().unwrap().len()
}

#[test]
fn quotas_of_every_enclosing_cgroup_bound_the_shards() {
    let all = affinity();
    for (files, expected) in [
        (format!("{V2} echo max 100000 > pod/cpu.max; echo max 100000 > pod/app/cpu.max"), all),
        (format!("{V2} echo 100000 100000 > pod/cpu.max; echo max 100000 > pod/app/cpu.max"), 1),
        (format!("{V2} echo 150000 100000 > pod/app/cpu.max"), 1),
        (format!("{V2} echo 10000 100000 > pod/app/cpu.max"), 1),
        (format!("{V2} echo 9900000 100000 > pod/app/cpu.max"), all.min(99)),
        (format!("{V2} echo nonsense > pod/app/cpu.max"), all),
        (format!("{V1} echo -1 > cpu/app/cpu.cfs_quota_us"), all),
        (format!("{V1} echo 199999 > cpu/app/cpu.cfs_quota_us"), 1),
    ] {
        let Some(mut command) = contained(&files, &["config", "check"]) else { return };
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = format!("auto (one per CPU that the process may use: {expected})");
        assert!(text.contains(&line), "{files}: {text} {:?}", String::from_utf8(output.stderr));
    }
}

#[test]
fn a_server_starts_as_many_shards_as_its_quota_has_cpus() {
    let files = format!("{V2} echo 100000 100000 > pod/app/cpu.max");
    let addresses = ["--http", "--sync-tcp", "--admin"].map(|flag| [flag, "127.0.0.1:0"]);
    let arguments = [&["serve", "--data-dir", ""][..], addresses.as_flattened()].concat();
    let Some(mut command) = contained(&files, &arguments) else { return };
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let banner = lines.map_while(Result::ok).find(|line| line.contains("  shards "));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(banner.as_ref().is_some_and(|line| line.contains("  shards 1  ")), "{banner:?}");
}
