//! Commands and configuration lines. What follows ` # ` says where a line belongs.

use std::fmt::Display;

use super::host::{Host, Place};

/// File that settings of the kernel are kept in.
const SYSCTL_FILE: &str = "/etc/sysctl.d/60-headcount.conf";

/// Whose setting it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Kernel,
    /// Every container has its own.
    NetworkNamespace,
}

/// Sets a setting of the kernel at once, and at every start.
pub fn sysctl(host: &Host, scope: Scope, name: &str, value: impl Display) -> String {
    let file = SYSCTL_FILE;
    match (host.place, scope) {
        (Place::Container, Scope::NetworkNamespace) => {
            format!("docker run --sysctl '{name}={value}' ...  # when the container is made")
        }
        (Place::Container, Scope::Kernel) => format!(
            "echo '{name} = {value}' | sudo tee -a {file} && sudo sysctl -p {file}  \
             # on the machine, outside the container"
        ),
        (Place::Machine, _) => {
            format!("echo '{name} = {value}' | sudo tee -a {file} && sudo sysctl -p {file}")
        }
    }
}

/// Raises both limits of a resource of the process. `option`: that of prlimit(1) and of
/// containers; `unit`: that of systemd.
pub fn limit(host: &Host, option: &str, unit: &str, value: u64) -> Vec<String> {
    match host.place {
        Place::Container => vec![format!(
            "docker run --ulimit {option}={value}:{value} ...  # when the container is made"
        )],
        Place::Machine => vec![
            format!(
                "sudo prlimit --pid $$ --{option}={value}:{value}  # a shell, then serve in it"
            ),
            format!("{unit}={value}  # or [Service] of the systemd unit"),
        ],
    }
}

/// A line of the server's configuration.
pub fn config(table: &str, key: &str, value: impl Display) -> String {
    format!("{key} = {value}  # [{table}] of the configuration file")
}

/// Raises a limit of the cgroup. `option`: that of `docker update`; `unit`: that of systemd.
pub fn cgroup(host: &Host, option: &str, unit: &str) -> String {
    match host.place {
        Place::Container => {
            format!("docker update {option} CONTAINER  # on the machine, outside the container")
        }
        Place::Machine => format!("{unit}  # [Service] of the systemd unit"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_changed_from_outside() {
        let mut host = Host::default();
        let name = "net.core.somaxconn";
        let line = sysctl(&host, Scope::NetworkNamespace, name, 4096);
        let expected = "echo 'net.core.somaxconn = 4096' | sudo tee -a \
                        /etc/sysctl.d/60-headcount.conf && sudo sysctl -p \
                        /etc/sysctl.d/60-headcount.conf";
        assert_eq!(line, expected);
        assert_eq!(limit(&host, "nofile", "LimitNOFILE", 7).len(), 2);
        host.place = Place::Container;
        let line = sysctl(&host, Scope::NetworkNamespace, name, 4096);
        assert!(line.starts_with("docker run --sysctl 'net.core.somaxconn=4096' "), "{line}");
        let line = sysctl(&host, Scope::Kernel, "fs.nr_open", 7);
        assert!(line.ends_with("# on the machine, outside the container"), "{line}");
        let lines = limit(&host, "nofile", "LimitNOFILE", 7);
        assert!(lines[0].starts_with("docker run --ulimit nofile=7:7 "), "{lines:?}");
    }
}
