//! A closed loop: what every receiver of a thread has seen of each feed ([`Plan::feeds`]).

use super::super::signals::ThreadSignals;
use super::{Member, Plan};

/// The newest position that all receivers have reached, kept without asking all of them each time.
#[derive(Clone, Debug, Default)]
struct Window {
    floor: u64,
    /// Receivers that have not seen more than `floor`.
    waiting: usize,
}

impl Window {
    /// A receiver went from `before` to `after`. Must the floor be raised?
    fn passes(&mut self, before: u64, after: u64) -> bool {
        if before > self.floor || after <= self.floor {
            return false;
        }
        self.waiting = self.waiting.saturating_sub(1);
        self.waiting == 0
    }

    /// Sets the floor by what each receiver has seen, and returns it. Without receivers nothing
    /// holds a publisher back.
    fn raise(&mut self, newest: impl Iterator<Item = u64> + Clone) -> u64 {
        self.floor = newest.clone().min().unwrap_or(u64::MAX);
        self.waiting = newest.filter(|&sequence| sequence <= self.floor).count();
        self.floor
    }
}

/// What publishers wait for in a window of deliveries. Empty without one.
pub struct Floors {
    signals: ThreadSignals,
    is_numbered: bool,
    /// By channel: members of this thread that receive it and are still there.
    receivers: Vec<Vec<usize>>,
    /// By feed: what all receivers of this thread have received.
    windows: Vec<Window>,
    /// By feed: publishers of this thread, and which of their channels that is.
    pub publishers: Vec<Vec<(usize, usize)>>,
    /// Feeds whose floor rose since the last turn.
    pub risen: Vec<usize>,
}

impl Floors {
    pub fn new(plan: &Plan, members: &[Member], signals: ThreadSignals) -> Floors {
        let feeds = if plan.has_window_of_deliveries() { plan.shape.feeds() } else { 0 };
        let mut floors = Floors {
            signals,
            is_numbered: plan.is_numbered(),
            receivers: vec![Vec::new(); plan.channels.len()],
            windows: vec![Window::default(); feeds],
            publishers: vec![Vec::new(); feeds],
            risen: Vec::new(),
        };
        for (at, member) in members.iter().enumerate().filter(|_| feeds > 0) {
            if member.receiver.is_some() {
                floors.receivers[member.channel].push(at);
            }
            let Some(publisher) = &member.publisher else { continue };
            for (turn, &channel) in publisher.channels.iter().enumerate() {
                floors.publishers[plan.feed(channel, publisher.index)].push((at, turn));
            }
        }
        (0..feeds).for_each(|feed| floors.raise(feed, members));
        floors
    }

    /// No publisher waits for a member that has gone.
    pub fn remove(&mut self, at: usize, members: &[Member]) {
        self.receivers.iter_mut().for_each(|receivers| receivers.retain(|&other| other != at));
        (0..self.windows.len()).for_each(|feed| self.raise(feed, members));
    }

    /// The receivers of this thread have come further.
    fn raise(&mut self, feed: usize, members: &[Member]) {
        let (channel, place) = (feed % self.receivers.len(), feed / self.receivers.len());
        let positions = self.receivers[channel].iter().filter_map(|&at| {
            let receiver = members[at].receiver.as_ref()?;
            if self.is_numbered { Some(receiver.serial()) } else { receiver.sequence(place) }
        });
        self.signals.set_floor(feed, self.windows[feed].raise(positions));
        self.risen.push(feed);
    }

    /// A receiver went from one position of a feed to another.
    #[inline]
    pub fn note(&mut self, feed: usize, before: u64, after: u64, members: &[Member]) {
        if self.windows.get_mut(feed).is_some_and(|window| window.passes(before, after)) {
            self.raise(feed, members);
        }
    }

    /// Takes all feeds for risen when another thread may have raised one.
    pub fn note_others(&mut self) {
        if self.signals.threads() > 1 {
            self.risen.clear();
            self.risen.extend(0..self.publishers.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_follows_the_slowest_receiver() {
        let mut newest = [0_u64; 3];
        let mut window = Window::default();
        let mut floor = window.raise(newest.iter().copied());
        let mut floors = Vec::new();
        for (receiver, sequence) in [(0, 1), (1, 3), (0, 2), (2, 2), (0, 3), (2, 5), (1, 4)] {
            if window.passes(newest[receiver], sequence) {
                newest[receiver] = sequence;
                floor = window.raise(newest.iter().copied());
            }
            newest[receiver] = sequence;
            assert_eq!(floor, *newest.iter().min().unwrap(), "{newest:?}");
            floors.push(floor);
        }
        assert_eq!(floors, [0, 0, 0, 2, 2, 3, 3]);
    }

    #[test]
    fn without_receivers_nothing_holds_a_publisher_back() {
        assert_eq!(Window::default().raise(std::iter::empty()), u64::MAX);
    }
}
