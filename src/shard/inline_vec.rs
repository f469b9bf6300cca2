//! A list of mostly no entries or one: each costs what it takes and no more.

use std::ops::{Deref, DerefMut};

/// Two words when empty; one entry is a block of its own size. Bounded by its owner.
#[derive(Debug, Default)]
pub enum InlineVec<T> {
    #[default]
    None,
    One(Box<T>),
    #[expect(clippy::box_collection, reason = "keeps the empty list at two words")]
    Many(Box<Vec<T>>),
}

impl<T> InlineVec<T> {
    pub fn push(&mut self, entry: T) {
        *self = match std::mem::take(self) {
            InlineVec::None => InlineVec::One(Box::new(entry)),
            InlineVec::One(first) => InlineVec::Many(Box::new(vec![*first, entry])),
            InlineVec::Many(mut entries) => {
                entries.push(entry);
                InlineVec::Many(entries)
            }
        };
    }

    /// Takes an entry out; the last one takes its place.
    ///
    /// # Panics
    /// When there is no entry at `at`.
    pub fn swap_remove(&mut self, at: usize) -> T {
        match (std::mem::take(self), at) {
            (InlineVec::One(only), 0) => *only,
            (InlineVec::Many(mut entries), _) => {
                let gone = entries.swap_remove(at);
                *self = match entries.len() {
                    1 => {
                        entries.pop().map_or(InlineVec::None, |last| InlineVec::One(Box::new(last)))
                    }
                    _ => InlineVec::Many(entries),
                };
                gone
            }
            _ => panic!("there is no entry {at}"),
        }
    }
}

impl<T> Deref for InlineVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            InlineVec::None => &[],
            InlineVec::One(entry) => std::slice::from_ref(entry),
            InlineVec::Many(entries) => entries,
        }
    }
}

impl<T> DerefMut for InlineVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            InlineVec::None => &mut [],
            InlineVec::One(entry) => std::slice::from_mut(entry),
            InlineVec::Many(entries) => entries,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_list_whatever_its_length() {
        let (mut few, mut list) = (InlineVec::default(), Vec::new());
        for at in 0..5 {
            few.push(at);
            list.push(at);
            assert_eq!(&few[..], &list[..]);
        }
        for at in [1, 3, 0, 1, 0] {
            few[at] += 10;
            list[at] += 10;
            assert_eq!(few.swap_remove(at), list.swap_remove(at));
            assert_eq!(&few[..], &list[..]);
        }
        assert!(matches!(few, InlineVec::None));
    }
}
