//! What the pure core costs on one thread, without sockets, in CPU time. Run with
//! `cargo bench --bench core`.
//!
//! `cargo bench --bench core -- fan_out` runs a part.

mod channel;
mod cpu_time;
mod fan_out;
#[path = "../../tests/one_shard/mod.rs"]
mod one_shard;
mod presence;
mod wire;

use std::time::Duration;

use criterion::{criterion_group, criterion_main};

use cpu_time::CpuTime;

type Criterion = criterion::Criterion<CpuTime>;

/// JSON text of about so many bytes, as applications send it.
fn json_text(bytes: usize) -> String {
    let mut text = String::from(r#"[{"id":0}"#);
    for id in 1.. {
        let item = format!(r#","ann",{{"id":{id},"on":true,"x":{}.5}}"#, id % 100);
        if text.len() + item.len() >= bytes {
            break;
        }
        text.push_str(&item);
    }
    text + "]"
}

fn short_runs() -> Criterion {
    criterion::Criterion::default()
        .with_measurement(CpuTime)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
}

criterion_group! {
    name = core;
    config = short_runs();
    targets = wire::bench, channel::bench, presence::bench, fan_out::bench
}
criterion_main!(core);
