//! What a report measures besides delays, and which way is better.

use serde::{Deserialize, Serialize};

/// Which way a number should move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
    /// Says what happened, not how well.
    Neither,
}

/// How a number is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    PerSecond,
    BytesPerSecond,
    Count,
    Ratio,
    Percent,
    Milliseconds,
    Nanoseconds,
    Microseconds,
    Bytes,
}

macro_rules! metrics {
    ($($(#[$doc:meta])* $name:ident $label:literal $unit:ident $better:ident;)*) => {
        /// One number of a report; in records by its name in snake case.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(rename_all = "snake_case")]
        pub enum Metric {
            $($(#[$doc])* $name,)*
        }

        impl Metric {
            /// In the order of a report.
            pub const ALL: &[Metric] = &[$(Metric::$name),*];

            /// Its name in tables, its unit, and which way is better.
            pub fn facts(self) -> (&'static str, Unit, Better) {
                match self {
                    $(Metric::$name => ($label, Unit::$unit, Better::$better),)*
                }
            }
        }
    };
}

metrics! {
    UpdatesPerS "updates sent" PerSecond Higher;
    PublishesPerS "publishes acknowledged" PerSecond Higher;
    /// States seen for the first time, or messages, summed over receivers.
    DeliveredPerS "delivered" PerSecond Higher;
    FramesPerS "frames received" PerSecond Neither;
    BytesPerS "bytes received" BytesPerSecond Neither;
    ReadsPerS "generator reads" PerSecond Neither;
    /// How much the server coalesced, and what the generator found at once.
    DeliveredPerRead "delivered per read" Ratio Neither;
    /// Acknowledged within the measurement.
    PublishesMin "publishes of the slowest publisher" Count Neither;
    PublishesMax "publishes of the fastest publisher" Count Neither;
    /// Connected, greeted, entered and closed again.
    CyclesPerS "connections" PerSecond Higher;
    FloodPongsPerS "pongs to flooders" PerSecond Neither;
    Lost "lost" Count Lower;
    Duplicated "duplicated" Count Lower;
    Reordered "reordered" Count Lower;
    /// States that a newer one overtook, which presence permits.
    Conflated "conflated" Count Neither;
    Disconnected "disconnected" Count Lower;
    /// From the time when the last join was due to the last watcher's complete set.
    WatchersCompleteMs "watchers complete after last join" Milliseconds Lower;
    JoinersCompleteMs "joiners complete after last join" Milliseconds Lower;
    /// From the first join on.
    FramesPerWatcher "frames per watcher" Ratio Lower;
    FramesPerWatcherMax "frames of one watcher at most" Count Lower;
    BytesPerWatcher "bytes per watcher" Bytes Lower;
    FramesPerJoiner "frames per joiner" Ratio Lower;
    BytesPerJoiner "bytes per joiner" Bytes Lower;
    /// From the first join until every receiver was complete.
    ServerCpuMs "server CPU time" Milliseconds Lower;
    ServerNsPerJoin "server CPU per join" Nanoseconds Lower;
    /// 100 is one core.
    ServerCpuPercent "server CPU" Percent Lower;
    ServerUserPercent "server CPU outside the kernel" Percent Lower;
    ServerSystemPercent "server CPU in the kernel" Percent Lower;
    ServerUserSharePercent "user share of server CPU" Percent Lower;
    /// Its threads were ready to run and something else had the CPU: a noisy machine.
    ServerWaitedPercent "server waited for a CPU" Percent Neither;
    ServerNsPerDelivery "server CPU per delivery" Nanoseconds Lower;
    ServerUserNsPerDelivery "server user CPU per delivery" Nanoseconds Lower;
    ServerNsPerConnection "server CPU per connection" Nanoseconds Lower;
    ServerRssBytes "server resident" Bytes Lower;
    ServerNsPerIdleSecond "server CPU per connection and second" Nanoseconds Lower;
    /// Upgraded where that applies; it has sent nothing yet.
    ServerBytesPerOpen "resident per open connection" Bytes Lower;
    ServerBytesPerGreeted "resident per greeted connection" Bytes Lower;
    ServerBytesPerMember "resident per member or subscriber" Bytes Lower;
    /// Of its threads. Near 100 it is the generator that was measured.
    GeneratorBusyPercent "generator busy" Percent Neither;
    /// As for the server; delays are too long by that.
    GeneratorWaitedPercent "generator waited for a CPU" Percent Neither;
    /// Delays up to this may be the generator's own.
    GeneratorTurnP999Us "generator turn p99.9" Microseconds Neither;
}
