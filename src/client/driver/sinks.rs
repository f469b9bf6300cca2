//! Where events go: to the callbacks and streams of the program.

use std::collections::VecDeque;

use crate::client::callbacks::QueueSender;
use crate::client::member::MemberEvent;
use crate::client::message::Delivery;
use crate::client::stream::EventSender;

/// Deliveries, states and member events that wait for the program.
pub(crate) const QUEUED_MAX: usize = 1024;

/// The receiver of a subscription.
pub(crate) enum DeliverySink {
    Callback(QueueSender<Delivery>),
    Stream(EventSender<Delivery>),
}

impl DeliverySink {
    /// Queues a delivery; the oldest beyond [`QUEUED_MAX`] become a gap.
    pub fn send(&self, delivery: Delivery) {
        match self {
            DeliverySink::Callback(queue) => queue.send(delivery, drop_oldest),
            DeliverySink::Stream(stream) => stream.push(delivery, drop_oldest),
        }
    }
}

/// Replaces the two oldest deliveries by a gap, as far as they have serials.
fn drop_oldest(queue: &mut VecDeque<Delivery>, newest: Delivery) {
    let dropped = [queue.pop_front(), queue.pop_front()];
    let serials = dropped.iter().flatten().filter_map(serials_of);
    let gap = serials.reduce(|(from, _), (_, to)| (from, to));
    if let Some((from, to)) = gap {
        queue.push_front(Delivery::Gap { from, to });
    }
    queue.push_back(newest);
}

fn serials_of(delivery: &Delivery) -> Option<(u64, u64)> {
    match delivery {
        Delivery::Message(message) => message.serial.map(|serial| (serial, serial)),
        Delivery::Gap { from, to } => Some((*from, *to)),
    }
}

/// The receiver of member events.
pub(crate) struct MemberSink(pub QueueSender<MemberEvent>);

impl MemberSink {
    /// Queues an event. When too many wait, they are replaced by everyone who is present.
    pub fn send(&self, event: MemberEvent, present: impl FnOnce() -> MemberEvent) {
        self.0.send(event, |queue, _| {
            queue.clear();
            queue.push_back(present());
        });
    }
}
