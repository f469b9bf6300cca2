//! A chat room in the terminal. Start `headcount serve`, then in two more terminals:
//!
//! ```sh
//! export HEADCOUNT_KEY=$(cat headcount-data/dev-key)   # `serve` prints it, too
//! cargo run --example chat -- alice
//! cargo run --example chat -- bob
//! ```
//!
//! Every line you type is a message. Ctrl-D leaves the room, which the others see at once; after
//! Ctrl-C they see it when the server has given up waiting for the connection to return.

use std::io::{self, BufRead};
use std::process::ExitCode;
use std::{env, result};

use headcount::client::prelude::*;

const ROOM: &str = "chat:lobby";

fn main() -> ExitCode {
    match chat() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn chat() -> result::Result<(), BoxError> {
    let name = env::args().nth(1).ok_or("say who you are: cargo run --example chat -- NAME")?;
    let key = env::var("HEADCOUNT_KEY").map_err(
        |_| "HEADCOUNT_KEY is not set: take the development key that `headcount serve` prints",
    )?;
    let url = env::var("HEADCOUNT_URL").unwrap_or_else(|_| "ws://127.0.0.1:7400".to_owned());

    // One attempt. Once it has succeeded, the client connects again by itself, as often as needed.
    let client = Client::connect(ClientConfig::new(url).key(key).client_id(&name))?;

    // Called with the current state, `Live`, and then with every change. Like all of the following
    // callbacks it lasts as long as what the method returns: give that a name, and not just `_`.
    let _state = client.on_state(|state| match state {
        ClientState::Stale { .. } => println!("* the connection is lost; trying again"),
        ClientState::Live => println!("* connected"),
        _ => {}
    });

    // A channel exists as soon as somebody uses it.
    let room = client.channel(ROOM);

    // Everyone who is present first, then each change. The state of a member is any JSON; this
    // program has no use for it.
    let _members = room.observe_members(|event| match event {
        MemberEvent::Present(members) => {
            let names: Vec<&str> = members.iter().map(|m| m.client_id.as_str()).collect();
            println!("* here: {}", names.join(", "));
        }
        MemberEvent::Enter(member) => println!("* {} comes", member.client_id),
        MemberEvent::Leave { member, .. } => println!("* {} leaves", member.client_id),
        _ => {}
    });

    // Messages in the order of the channel. After a lost connection they go on where they were; a
    // gap is what the server did not keep for so long.
    let own_name = name.clone();
    let messages = room.subscribe(move |delivery| match delivery {
        Delivery::Message(message) if message.client_id != own_name => {
            println!("{}: {}", message.client_id, message.data.as_str().unwrap_or("?"));
        }
        Delivery::Gap { from, to } => println!("* {} messages were missed", to - from + 1),
        _ => {}
    });
    // What waits for the server is a `Pending`: a future, and a thread can wait for it as here.
    messages.ready().wait()?;

    // Now the others see us.
    room.join().wait()?;

    for line in io::stdin().lock().lines() {
        // Without a connection this waits for the next one. No message is lost or comes twice.
        room.publish("text", &line?).wait()?;
    }

    // Dropping the client leaves all channels and closes the connection.
    Ok(())
}
