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
    ($($name:ident $label:literal $unit:ident $better:ident $(#[$doc:meta])*;)*) => {
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

            pub fn label(self) -> &'static str {
                match self {
                    $(Metric::$name => $label,)*
                }
            }

            pub fn unit(self) -> Unit {
                match self {
                    $(Metric::$name => Unit::$unit,)*
                }
            }

            pub fn better(self) -> Better {
                match self {
                    $(Metric::$name => Better::$better,)*
                }
            }
        }
    };
}

metrics! {
    UpdatesPerS "updates sent" PerSecond Higher;
    PublishesPerS "publishes acknowledged" PerSecond Higher;
    DeliveredPerS "delivered" PerSecond Higher
        /// States seen for the first time, or messages, summed over receivers.
        ;
    FramesPerS "frames received" PerSecond Neither;
    BytesPerS "bytes received" BytesPerSecond Neither;
    ReadsPerS "generator reads" PerSecond Neither;
    DeliveredPerRead "delivered per read" Ratio Neither
        /// How much the server coalesced, and what the generator found at once.
        ;
    PublishesMin "publishes of the slowest publisher" Count Neither
        /// Acknowledged within the measurement.
        ;
    PublishesMax "publishes of the fastest publisher" Count Neither;
    CyclesPerS "connections" PerSecond Higher
        /// Connected, greeted, entered and closed again.
        ;
    FloodPongsPerS "pongs to flooders" PerSecond Neither;
    Lost "lost" Count Lower;
    Duplicated "duplicated" Count Lower;
    Reordered "reordered" Count Lower;
    Conflated "conflated" Count Neither
        /// States that a newer one overtook, which presence permits.
        ;
    Disconnected "disconnected" Count Lower;
    WatchersCompleteMs "watchers complete after last join" Milliseconds Lower
        /// From the time when the last join was due to the last watcher's complete set.
        ;
    JoinersCompleteMs "joiners complete after last join" Milliseconds Lower;
    FramesPerWatcher "frames per watcher" Ratio Lower
        /// From the first join on.
        ;
    FramesPerWatcherMax "frames of one watcher at most" Count Lower;
    BytesPerWatcher "bytes per watcher" Bytes Lower;
    FramesPerJoiner "frames per joiner" Ratio Lower;
    BytesPerJoiner "bytes per joiner" Bytes Lower;
    ServerCpuMs "server CPU time" Milliseconds Lower
        /// From the first join until everybody was complete.
        ;
    ServerNsPerJoin "server CPU per join" Nanoseconds Lower;
    ServerCpuPercent "server CPU" Percent Lower
        /// 100 is one core.
        ;
    ServerUserPercent "server CPU outside the kernel" Percent Lower;
    ServerSystemPercent "server CPU in the kernel" Percent Lower;
    ServerUserSharePercent "user share of server CPU" Percent Lower;
    ServerWaitedPercent "server waited for a CPU" Percent Neither
        /// Its threads were ready to run and something else had the CPU: a noisy machine.
        ;
    ServerNsPerDelivery "server CPU per delivery" Nanoseconds Lower;
    ServerUserNsPerDelivery "server user CPU per delivery" Nanoseconds Lower;
    ServerNsPerConnection "server CPU per connection" Nanoseconds Lower;
    ServerRssBytes "server resident" Bytes Lower;
    ServerNsPerIdleSecond "server CPU per connection and second" Nanoseconds Lower;
    ServerBytesPerOpen "resident per open connection" Bytes Lower
        /// Upgraded where that applies; it has sent nothing yet.
        ;
    ServerBytesPerGreeted "resident per greeted connection" Bytes Lower;
    ServerBytesPerMember "resident per member or subscriber" Bytes Lower;
    GeneratorBusyPercent "generator busy" Percent Neither
        /// Of its threads. Near 100 it is the generator that was measured.
        ;
    GeneratorWaitedPercent "generator waited for a CPU" Percent Neither
        /// As for the server; delays are too long by that.
        ;
    GeneratorTurnP999Us "generator turn p99.9" Microseconds Neither
        /// Delays up to this may be the generator's own.
        ;
}
