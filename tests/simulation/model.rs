//! The naive truth: for every client and channel, whether the client is a member for certain, and
//! since which standstill everybody must know.

use std::collections::{BTreeMap, BTreeSet};

/// What is certain about one membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No member once everything under way has arrived.
    Out,
    /// Left, or greeted as somebody else; the core may not know yet.
    Leaving,
    /// Announced; a member once everything under way has arrived.
    Pending,
    /// The owner has known since this standstill.
    Sure { since: u64 },
    /// The connection of a sure member was lost. `lost_ms`: when the core was told; `settled`: the
    /// owner knows.
    Lingering { since: u64, lost_ms: Option<u64>, settled: bool },
    /// A new connection of the session takes over, if it is quick.
    Resuming { since: u64, until_ms: u64 },
    /// Connected, but races or time-outs decide; announcing again ends the doubt.
    Doubtful,
    /// Not connected; it may linger, and be resumed, or not.
    Gone,
}

#[derive(Clone, Copy, Debug)]
pub struct Membership {
    pub phase: Phase,
    /// Number of the newest state.
    pub seq: u64,
    /// Where the newest announcement ends in the client's stream.
    pub end: usize,
    /// When the core was given all of it.
    pub handled_ms: Option<u64>,
    /// The owner has the newest state.
    pub confirmed: bool,
    /// An earlier connection of the client may be a member too, and linger, and be resumed.
    zombie: bool,
}

/// What the model needs to know of the channel and the settings.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub ttl_ms: u64,
    pub grace_ms: u64,
    /// Quiet time after which a state limited by its rate has arrived; 0 without a limit.
    pub rate_ms: u64,
    /// Channels take so few members that an announcement may be refused, which nobody is told.
    pub may_be_refused: bool,
}

/// All memberships of one client, by channel.
#[derive(Clone, Debug, Default)]
pub struct Memberships {
    pub by_channel: BTreeMap<String, Membership>,
    last_handled_ms: u64,
    /// Channels that the member left, or may have expired in, since it was last shown a set. Old
    /// sets may still be under way to it, and no new one follows if it enters again and is alone.
    expirable: BTreeSet<String>,
}

impl Memberships {
    pub fn phase(&self, channel: &str) -> Phase {
        self.by_channel.get(channel).map_or(Phase::Out, |membership| membership.phase)
    }

    pub fn announced(&mut self, channel: &str, seq: u64, end: usize) {
        let fresh = Membership {
            phase: Phase::Pending,
            seq,
            end,
            handled_ms: None,
            confirmed: false,
            zombie: false,
        };
        let membership = self.by_channel.entry(channel.to_owned()).or_insert(fresh);
        let phase = match membership.phase {
            sure @ Phase::Sure { .. } => sure,
            _ => Phase::Pending,
        };
        // The core may read a later connection's greeting before this announcement. What an earlier
        // session of the client lost may still come back to it.
        let zombie =
            membership.zombie || matches!(membership.phase, Phase::Resuming { .. } | Phase::Gone);
        *membership = Membership { phase, zombie, ..fresh };
    }

    /// `end`: where the goodbye ends in the client's stream.
    pub fn left(&mut self, channel: &str, end: usize) {
        if let Some(membership) = self.by_channel.get_mut(channel) {
            self.expirable.insert(channel.to_owned());
            let zombie = membership.zombie || matches!(membership.phase, Phase::Resuming { .. });
            let (phase, handled_ms) = (Phase::Leaving, None);
            *membership = Membership { phase, end, handled_ms, zombie, ..*membership };
        }
    }

    /// The session becomes nobody. What was being taken over may linger once more.
    pub fn left_all(&mut self, end: usize) {
        let channels: Vec<String> = self.by_channel.keys().cloned().collect();
        for channel in channels {
            match self.phase(&channel) {
                Phase::Pending | Phase::Sure { .. } | Phase::Leaving => self.left(&channel, end),
                _ => self.closed_in(&channel),
            }
        }
    }

    /// The connection greets as another user, up to `end` of the client's stream. What an earlier
    /// session of that user lost may come back to it.
    pub fn becomes_another(&mut self, end: usize) {
        let channels: Vec<String> = self.by_channel.keys().cloned().collect();
        for channel in channels {
            let Some(membership) = self.by_channel.get_mut(&channel) else { continue };
            match membership.phase {
                Phase::Out if !membership.zombie => {}
                Phase::Pending | Phase::Sure { .. } | Phase::Leaving if !membership.zombie => {
                    self.left(&channel, end);
                }
                _ => {
                    let (phase, zombie, handled_ms) = (Phase::Doubtful, true, None);
                    *membership = Membership { phase, zombie, end, handled_ms, ..*membership };
                    self.expirable.insert(channel);
                }
            }
        }
    }

    /// A clean close, after everything else has arrived.
    pub fn closed(&mut self) {
        let channels: Vec<String> = self.by_channel.keys().cloned().collect();
        channels.iter().for_each(|channel| self.closed_in(channel));
    }

    fn closed_in(&mut self, channel: &str) {
        if let Some(membership) = self.by_channel.get_mut(channel) {
            membership.phase = match membership.phase {
                Phase::Out | Phase::Pending | Phase::Sure { .. } => Phase::Out,
                _ => Phase::Gone,
            };
        }
    }

    /// The connection broke. `resumable`: another one can show that it is the same session.
    pub fn lost(&mut self, grace_ms: u64, resumable: bool) {
        for membership in self.by_channel.values_mut() {
            membership.phase = match membership.phase {
                Phase::Out => Phase::Out,
                _ if grace_ms == 0 || !resumable => Phase::Out,
                Phase::Sure { since } if membership.confirmed => {
                    Phase::Lingering { since, lost_ms: None, settled: false }
                }
                _ => Phase::Gone,
            };
        }
    }

    /// The server ended the connection, or the client stopped without a word.
    pub fn vanished(&mut self, resumable: bool) {
        for membership in self.by_channel.values_mut() {
            membership.phase = match membership.phase {
                Phase::Out => Phase::Out,
                _ if resumable => Phase::Gone,
                _ => Phase::Out,
            };
        }
    }

    /// The core was told of the loss.
    pub fn loss_handled(&mut self, now_ms: u64) {
        for membership in self.by_channel.values_mut() {
            if let Phase::Lingering { lost_ms: lost @ None, .. } = &mut membership.phase {
                *lost = Some(now_ms);
            }
        }
    }

    /// A new connection greets as the same session; its greeting ends at `end` of its stream.
    pub fn returns(&mut self, now_ms: u64, grace_ms: u64, end: usize) {
        for membership in self.by_channel.values_mut() {
            membership.phase = match membership.phase {
                Phase::Out if !membership.zombie => Phase::Out,
                Phase::Lingering { since, lost_ms: Some(lost_ms), settled: true }
                    if now_ms < lost_ms + grace_ms && !membership.zombie =>
                {
                    Phase::Resuming { since, until_ms: lost_ms + grace_ms }
                }
                _ => Phase::Doubtful,
            };
            membership.zombie |= membership.phase == Phase::Doubtful;
            membership.end = end;
            membership.handled_ms = None;
        }
    }

    /// The core was given `delivered` bytes of the client's stream.
    pub fn handled(&mut self, delivered: usize, now_ms: u64) {
        for membership in self.by_channel.values_mut() {
            let open = !matches!(membership.phase, Phase::Out | Phase::Gone)
                && !matches!(membership.phase, Phase::Lingering { .. });
            if open && membership.handled_ms.is_none() && delivered >= membership.end {
                membership.handled_ms = Some(now_ms);
                self.last_handled_ms = now_ms;
            }
        }
    }

    /// Nothing is under way between shards.
    pub fn standstill(&mut self, number: u64, now_ms: u64, terms: Terms) {
        let quiet = terms.rate_ms == 0 || now_ms >= self.last_handled_ms + terms.rate_ms;
        for membership in self.by_channel.values_mut() {
            let arrived = membership.handled_ms.is_some() && quiet;
            membership.confirmed |= arrived;
            membership.phase = match membership.phase {
                Phase::Leaving if membership.handled_ms.is_some() => Phase::Out,
                Phase::Pending if arrived && !terms.may_be_refused => Phase::Sure { since: number },
                Phase::Resuming { since, until_ms } if arrived && now_ms < until_ms => {
                    Phase::Sure { since }
                }
                Phase::Resuming { .. } if arrived => Phase::Doubtful,
                Phase::Lingering { since, lost_ms: Some(lost_ms), .. } => {
                    Phase::Lingering { since, lost_ms: Some(lost_ms), settled: true }
                }
                other => other,
            };
        }
    }

    /// Time has passed. `alive_ms`: the last sign of life that counts in a channel.
    pub fn time(&mut self, now_ms: u64, terms: Terms, alive_ms: impl Fn(&Membership, &str) -> u64) {
        for (channel, membership) in &mut self.by_channel {
            let alive_ms = alive_ms(membership, channel);
            membership.phase = match membership.phase {
                Phase::Sure { .. } | Phase::Pending if now_ms >= alive_ms + terms.ttl_ms => {
                    Phase::Doubtful
                }
                Phase::Lingering { lost_ms: None, .. } if now_ms >= alive_ms + terms.ttl_ms => {
                    Phase::Gone
                }
                Phase::Lingering { lost_ms: Some(lost_ms), .. }
                    if now_ms >= lost_ms + terms.grace_ms =>
                {
                    Phase::Gone
                }
                Phase::Resuming { until_ms, .. } if now_ms >= until_ms => Phase::Doubtful,
                other => other,
            };
            if membership.phase == Phase::Doubtful {
                self.expirable.insert(channel.clone());
            }
        }
    }

    /// Must whatever was made after this standstill show the member?
    pub fn is_certain(&self, channel: &str, standstill: u64) -> bool {
        match self.phase(channel) {
            Phase::Sure { since }
            | Phase::Lingering { since, .. }
            | Phase::Resuming { since, .. } => since <= standstill,
            _ => false,
        }
    }

    /// The client heard a set that was made after this standstill.
    pub fn shown(&mut self, channel: &str, standstill: u64) {
        if self.is_certain(channel, standstill) {
            self.expirable.remove(channel);
        }
    }

    /// May it hold an old set, and not be told a new one because it is alone?
    pub fn is_expirable(&self, channel: &str) -> bool {
        self.expirable.contains(channel)
    }

    /// Does the client care for what it is shown of the channel?
    pub fn is_watched(&self, channel: &str) -> bool {
        !matches!(self.phase(channel), Phase::Out | Phase::Leaving)
    }

    /// Is it a member when nothing is under way any more?
    pub fn is_expected(&self, channel: &str) -> bool {
        matches!(self.phase(channel), Phase::Sure { .. } | Phase::Pending)
    }
}
