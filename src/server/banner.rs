//! The start-up banner: the addresses, and a command or snippet to copy for each kind of client.

use std::fmt::Write;

use super::start::Addresses;
use crate::config::{Config, Demo};

/// Whether the banner is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Banner {
    Shown,
    Hidden,
}

/// The text of the banner. `development_key`: `app.keyId:secret`, if one is in use.
pub fn text(
    config: &Config,
    addresses: Addresses,
    shards: u16,
    development_key: Option<&str>,
) -> String {
    let Addresses { http, sync_tcp, admin } = addresses;
    let (anonymous, why) = config.anonymous();
    let app = config.anonymous_app();
    let data = match config.data_dir() {
        Some(dir) => dir.display().to_string(),
        None => "none, memory only".to_string(),
    };
    let mut text = match config.demo().0 {
        Demo::Off => String::new(),
        Demo::ThisMachine | Demo::Everyone => {
            format!("  see it live       http://{http}/ in two browser tabs\n")
        }
    };
    let _ = write!(
        text,
        "\n  headcount {}  shards {shards}  data {data}\n\n\
         \x20 http, WebSocket   http://{http}\n\
         \x20 sync wire, TCP    {sync_tcp}\n\
         \x20 admin             http://{admin}\n\
         \x20 anonymous sync    {anonymous:?} ({why}), app `{app}`\n",
        env!("CARGO_PKG_VERSION"),
    );
    if let Some(key) = development_key {
        let _ = writeln!(text, "  development key   {key}");
    }
    let login = if config.is_admin_exposed() { " --key KEY" } else { "" };
    let _ = write!(
        text,
        "\n  NodeDB Lite       SyncConfig::new(\"ws://{http}\", \"\")\n\
         \x20 see who is here   headcount watch CHANNEL --app {app} --admin {admin}{login}\n\
         \x20                   headcount members CHANNEL --app {app} --admin {admin}{login}\n"
    );
    if let Some(key) = development_key {
        let _ = writeln!(
            text,
            "  be here           headcount join CHANNEL --as NAME --http {http} --key {key}"
        );
        let _ = writeln!(
            text,
            "  @foony/realtime   new Realtime({{ endpoint: 'ws://{http}', key: '{key}' }})"
        );
        let _ = writeln!(
            text,
            "  publish, REST     curl -u {key} -d '{{\"name\":\"hi\",\"data\":1}}' \\\n\
             \x20                   http://{http}/channels/chat:1/messages"
        );
    }
    text.push('\n');
    text
}
