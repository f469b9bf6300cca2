//! A list of mostly no entries or one: each costs what it takes and no more.

use std::ops::{Deref, DerefMut};

/// Two words when empty; one entry is a block of its own size. Bounded by its owner.
#[derive(Debug, Default)]
pub enum Few<T> {
    #[default]
    None,
    One(Box<T>),
    #[expect(clippy::box_collection, reason = "keeps the empty list at two words")]
    Many(Box<Vec<T>>),
}

impl<T> Few<T> {
    pub fn push(&mut self, entry: T) {
        *self = match std::mem::take(self) {
            Few::None => Few::One(Box::new(entry)),
            Few::One(first) => Few::Many(Box::new(vec![*first, entry])),
            Few::Many(mut entries) => {
                entries.push(entry);
                Few::Many(entries)
            }
        };
    }

    /// Takes an entry out; the last one takes its place.
    ///
    /// # Panics
    /// When there is no entry at `at`.
    pub fn swap_remove(&mut self, at: usize) -> T {
        let (gone, rest) = match std::mem::take(self) {
            Few::None => panic!("entry {at} of none"),
            Few::One(only) => {
                assert!(at == 0, "entry {at} of one");
                (*only, Few::None)
            }
            Few::Many(mut entries) => {
                let gone = entries.swap_remove(at);
                let rest = match entries.len() {
                    1 => entries.pop().map_or(Few::None, |last| Few::One(Box::new(last))),
                    _ => Few::Many(entries),
                };
                (gone, rest)
            }
        };
        *self = rest;
        gone
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Few::None => &[],
            Few::One(entry) => std::slice::from_ref(entry),
            Few::Many(entries) => entries,
        }
    }
}

impl<T> DerefMut for Few<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Few::None => &mut [],
            Few::One(entry) => std::slice::from_mut(entry),
            Few::Many(entries) => entries,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_list_whatever_its_length() {
        let (mut few, mut list) = (Few::default(), Vec::new());
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
        assert!(matches!(few, Few::None));
    }
}
