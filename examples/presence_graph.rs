//! The presence graph: who is here, and what each says of itself. Start `headcount serve`, then in
//! two more terminals:
//!
//! ```sh
//! export HEADCOUNT_KEY=$(cat headcount-data/dev-key)   # `serve` prints it, too
//! cargo run --example presence_graph -- alice
//! cargo run --example presence_graph -- bob
//! ```
//!
//! Every line you type is what the others are told of you. Ctrl-D leaves.

use std::io::{self, BufRead};
use std::process::ExitCode;
use std::{env, result};

use headcount::client::prelude::*;
use serde_json::json;

const CHANNEL: &str = "demo:graph";

fn main() -> ExitCode {
    match show_graph() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn show_graph() -> result::Result<(), BoxError> {
    let name =
        env::args().nth(1).ok_or("say who you are: cargo run --example presence_graph -- NAME")?;
    let key = env::var("HEADCOUNT_KEY").map_err(
        |_| "HEADCOUNT_KEY is not set: take the development key that `headcount serve` prints",
    )?;
    let url = env::var("HEADCOUNT_URL").unwrap_or_else(|_| "ws://127.0.0.1:7400".to_owned());

    // The members of all joined channels are the peers of the graph. `connect` waits until the
    // client has joined, and makes one attempt; later the client connects again by itself.
    let config = ClientConfig::new(url).key(key).client_id(name).join(CHANNEL);
    let client = Client::connect(config)?;
    let presence = client.presence();

    // The metadata of a peer is a JSON object that everyone who shares a channel with it can read.
    presence.set_peer_metadata(&json!({ "status": "just came" }))?;

    // Called with the graph, and with a new one after each change. It lasts as long as what
    // `observe` returns: give that a name, and not just `_`.
    let _observer = presence.observe(|graph| {
        println!("\n{graph}");
        for peer in graph.direct_peers() {
            let who = peer.client_id().unwrap_or(&peer.device_name);
            println!("{who} says: {}", peer.peer_metadata.get("status").unwrap_or(&json!(null)));
        }
    });

    // Once there is somebody else, and again when there is nobody.
    let _company = presence.expect_peers(1, |count| {
        println!("{}", if count.met { "* in company" } else { "* alone" });
    });

    println!("type what the others shall read of you; Ctrl-D leaves");
    for line in io::stdin().lock().lines() {
        // Does not wait for the server: after a lost connection it is told the newest value.
        presence.set_peer_metadata(&json!({ "status": line? }))?;
    }

    // The graph can be read at any time, without a callback, and without the network.
    println!("{} peers are still there", presence.graph().remote_peers.len());
    Ok(())
}
