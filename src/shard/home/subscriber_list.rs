//! Slots of connections, mostly one.

/// From this length on it matters in which order connections are met: more of them do not fit into
/// a second-level cache (`benches/results/core.md`).
const LONG: usize = 8_192;

/// Connections whose numbers differ by less than this are neighbours in memory.
const NEAR: u32 = 64;

/// In no particular order; two words as long as there is at most one.
#[derive(Debug, Default)]
pub enum SubscriberList {
    #[default]
    None,
    One([u32; 1]),
    Many(Box<Many>),
}

#[derive(Debug)]
pub struct Many {
    slots: Vec<u32>,
    /// Slots that were put far from those before them, since the list was last in order.
    scattered: usize,
}

const _: () = assert!(size_of::<SubscriberList>() <= 16, "every feed of every channel has one");

impl SubscriberList {
    pub fn slots(&self) -> &[u32] {
        match self {
            SubscriberList::None => &[],
            SubscriberList::One(slot) => slot,
            SubscriberList::Many(many) => &many.slots,
        }
    }

    pub fn slots_mut(&mut self) -> &mut [u32] {
        match self {
            SubscriberList::None => &mut [],
            SubscriberList::One(slot) => slot,
            SubscriberList::Many(many) => &mut many.slots,
        }
    }

    /// Puts a long list in order if so much of it has changed that the order is worth its price.
    /// Returns true when all places may have changed.
    pub fn sort_for_locality(&mut self) -> bool {
        let SubscriberList::Many(many) = self else { return false };
        if many.slots.len() < LONG || many.scattered < many.slots.len() / 8 {
            return false;
        }
        many.scattered = 0;
        let was_sorted = many.slots.is_sorted();
        many.slots.sort_unstable();
        !was_sorted
    }

    /// Takes the last slot out, if there is one.
    pub fn pop(&mut self) {
        if let Some(last) = self.slots().len().checked_sub(1) {
            self.swap_remove(last as u32);
        }
    }

    /// Adds a slot; returns its place.
    pub fn push(&mut self, slot: u32) -> u32 {
        match self {
            SubscriberList::None => *self = SubscriberList::One([slot]),
            SubscriberList::One([first]) => {
                let slots = vec![*first, slot];
                *self = SubscriberList::Many(Box::new(Many { slots, scattered: 0 }));
            }
            SubscriberList::Many(many) => {
                let is_near = many.slots.last().is_some_and(|last| last.abs_diff(slot) < NEAR);
                many.scattered += usize::from(!is_near);
                many.slots.push(slot);
            }
        }
        self.slots().len() as u32 - 1
    }

    /// Takes the slot at a place out. The last one takes its place, and is returned; `None` when it
    /// was the last one itself.
    ///
    /// # Panics
    /// When there is nothing at `place`.
    pub fn swap_remove(&mut self, place: u32) -> Option<u32> {
        match self {
            SubscriberList::Many(many) => {
                many.slots.swap_remove(place as usize);
                let moved = many.slots.get(place as usize).copied();
                many.scattered += usize::from(moved.is_some());
                if let [only] = many.slots[..] {
                    *self = SubscriberList::One([only]);
                }
                moved
            }
            _ => {
                assert!((place as usize) < self.slots().len(), "place {place} of {self:?}");
                *self = SubscriberList::None;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_list_whatever_its_length() {
        let (mut short, mut list) = (SubscriberList::default(), Vec::new());
        for slot in 10..15 {
            assert_eq!(short.push(slot), list.len() as u32);
            list.push(slot);
            assert_eq!(short.slots(), list);
        }
        for place in [1, 3, 0, 1, 0] {
            list.swap_remove(place);
            assert_eq!(short.swap_remove(place as u32), list.get(place).copied());
            assert_eq!(short.slots(), list);
        }
        assert!(matches!(short, SubscriberList::None));
    }

    #[test]
    fn a_long_list_is_put_in_order_once_an_eighth_of_it_is_out_of_order() {
        let length = LONG as u32;
        let mut list = SubscriberList::default();
        for slot in 0..length {
            list.push(slot);
        }
        // Each time one slot takes the place of another, and one comes to the end.
        for removed in 0..length / 16 {
            assert!(!list.sort_for_locality(), "{removed} removed");
            list.swap_remove(removed);
            list.push(removed);
        }
        assert!(list.sort_for_locality());
        assert!(list.slots().is_sorted() && list.slots().len() == LONG);
        assert!(!list.sort_for_locality(), "it is in order");
    }

    #[test]
    fn a_short_list_is_left_as_it_is() {
        let mut list = SubscriberList::default();
        for slot in (1..100).rev() {
            list.push(slot);
        }
        assert!(!list.sort_for_locality() && list.slots()[0] == 99);
    }
}
