//! Slots of connections, mostly one.

/// In no particular order; two words as long as there is at most one.
#[derive(Debug, Default)]
pub enum SlotList {
    #[default]
    None,
    One([u32; 1]),
    #[expect(clippy::box_collection, reason = "keeps a list of one at two words")]
    Many(Box<Vec<u32>>),
}

const _: () = assert!(size_of::<SlotList>() <= 16, "every feed of every channel has one");

impl SlotList {
    pub fn slots(&self) -> &[u32] {
        match self {
            SlotList::None => &[],
            SlotList::One(slot) => slot,
            SlotList::Many(slots) => slots,
        }
    }

    pub fn slots_mut(&mut self) -> &mut [u32] {
        match self {
            SlotList::None => &mut [],
            SlotList::One(slot) => slot,
            SlotList::Many(slots) => slots,
        }
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
            SlotList::None => *self = SlotList::One([slot]),
            SlotList::One([first]) => *self = SlotList::Many(Box::new(vec![*first, slot])),
            SlotList::Many(slots) => slots.push(slot),
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
            SlotList::Many(slots) => {
                slots.swap_remove(place as usize);
                let moved = slots.get(place as usize).copied();
                if let [only] = slots[..] {
                    *self = SlotList::One([only]);
                }
                moved
            }
            _ => {
                assert!((place as usize) < self.slots().len(), "place {place} of {self:?}");
                *self = SlotList::None;
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
        let (mut short, mut list) = (SlotList::default(), Vec::new());
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
        assert!(matches!(short, SlotList::None));
    }
}
