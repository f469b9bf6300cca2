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

macro_rules! metrics {
    ($($(#[$doc:meta])* $name:ident $label:literal $unit:literal $better:ident;)*) => {
        /// One number of a report; in records by its name in snake case.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(rename_all = "snake_case")]
        pub enum Metric {
            $($(#[$doc])* $name,)*
        }

        impl Metric {
            /// Its name in tables, its unit, and which way is better.
            pub fn facts(self) -> (&'static str, &'static str, Better) {
                match self {
                    $(Metric::$name => ($label, $unit, Better::$better),)*
                }
            }
        }
    };
}

metrics! {
    UpdatesPerS "updates sent" "/s" Higher;
    PublishesPerS "publishes acknowledged" "/s" Higher;
    /// States seen for the first time, or messages, summed over receivers.
    DeliveredPerS "delivered" "/s" Higher;
    FramesPerS "frames received" "/s" Neither;
    BytesPerS "bytes received" "B/s" Neither;
    ReadsPerS "generator reads" "/s" Neither;
    /// How much the server coalesced, and what the generator found at once.
    DeliveredPerRead "delivered per read" "" Neither;
    /// Acknowledged within the measurement.
    PublishesMin "publishes of the slowest publisher" "" Neither;
    PublishesMax "publishes of the fastest publisher" "" Neither;
    /// Connected, greeted, entered and closed again.
    CyclesPerS "connections" "/s" Higher;
    FloodPongsPerS "pongs to flooders" "/s" Neither;
    Lost "lost" "" Lower;
    Duplicated "duplicated" "" Lower;
    Reordered "reordered" "" Lower;
    /// States that a newer one overtook, which presence permits.
    Conflated "conflated" "" Neither;
    Disconnected "disconnected" "" Lower;
    /// From the time when the last join was due to the last watcher's complete set.
    WatchersCompleteMs "watchers complete after last join" "ms" Lower;
    JoinersCompleteMs "joiners complete after last join" "ms" Lower;
    /// From the first join on.
    FramesPerWatcher "frames per watcher" "" Lower;
    FramesPerWatcherMax "frames of one watcher at most" "" Lower;
    BytesPerWatcher "bytes per watcher" "B" Lower;
    FramesPerJoiner "frames per joiner" "" Lower;
    BytesPerJoiner "bytes per joiner" "B" Lower;
    /// From the first join until every receiver was complete.
    ServerCpuMs "server CPU time" "ms" Lower;
    ServerNsPerJoin "server CPU per join" "ns" Lower;
    /// 100 is one core.
    ServerCpuPercent "server CPU" "%" Lower;
    ServerUserPercent "server CPU outside the kernel" "%" Lower;
    ServerSystemPercent "server CPU in the kernel" "%" Lower;
    ServerUserSharePercent "user share of server CPU" "%" Lower;
    /// Its threads were ready to run and something else had the CPU: a noisy machine.
    ServerWaitedPercent "server waited for a CPU" "%" Neither;
    ServerNsPerDelivery "server CPU per delivery" "ns" Lower;
    ServerUserNsPerDelivery "server user CPU per delivery" "ns" Lower;
    ServerNsPerConnection "server CPU per connection" "ns" Lower;
    ServerRssBytes "server resident" "B" Lower;
    ServerNsPerIdleSecond "server CPU per connection and second" "ns" Lower;
    /// Upgraded where that applies; it has sent nothing yet.
    ServerBytesPerOpen "resident per open connection" "B" Lower;
    ServerBytesPerGreeted "resident per greeted connection" "B" Lower;
    ServerBytesPerMember "resident per member or subscriber" "B" Lower;
    /// Of its threads. Near 100 it is the generator that was measured.
    GeneratorBusyPercent "generator busy" "%" Neither;
    /// As for the server; delays are too long by that.
    GeneratorWaitedPercent "generator waited for a CPU" "%" Neither;
    /// Delays up to this may be the generator's own.
    GeneratorTurnP999Us "generator turn p99.9" "us" Neither;
}
