//! A table of channels, by slot and by name. Slots are used again with the next generation, so that
//! another shard can name an entry by number and be told when it is gone.

use std::sync::Arc;

use hashbrown::HashTable;

use super::segmented_vec::SegmentedVec;
use crate::ids::ChannelKey;

/// What the table needs to know of an entry.
pub trait Keyed {
    fn key(&self) -> &Arc<ChannelKey>;
}

#[derive(Debug)]
pub struct ChannelTable<T> {
    slots: SegmentedVec<Slot<T>>,
    free: Vec<u32>,
    by_name: HashTable<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    /// Of the entry's name, so that nothing else is looked at when `by_name` grows.
    hash: u32,
    entry: Option<T>,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Slot { generation: 0, hash: 0, entry: None }
    }
}

impl<T> Default for ChannelTable<T> {
    fn default() -> Self {
        let (slots, free, by_name) = (SegmentedVec::default(), Vec::new(), HashTable::new());
        ChannelTable { slots, free, by_name }
    }
}

/// The part of a name's hash that is kept; the other half chooses the shard.
fn kept(hash: u64) -> u32 {
    hash as u32
}

/// What is kept of a hash as a hash: tables look at its highest and its lowest bits.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

impl<T: Keyed> ChannelTable<T> {
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Slots, free ones included.
    pub fn slot_count(&self) -> u32 {
        self.slots.len() as u32
    }

    pub fn find(&self, app: &str, name: &str, hash: u64) -> Option<u32> {
        let is_named = |slot: u32| {
            self.get(slot).is_some_and(|entry| {
                let key = entry.key();
                &*key.name == name && &*key.app == app
            })
        };
        self.by_name.find(spread(kept(hash)), |&slot| is_named(slot)).copied()
    }

    pub fn find_key(&self, key: &ChannelKey) -> Option<u32> {
        self.find(&key.app, &key.name, key.hash)
    }

    pub fn get(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize)?.entry.as_ref()
    }

    pub fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot as usize)?.entry.as_mut()
    }

    /// Tells the tenants of one slot apart.
    pub fn generation(&self, slot: u32) -> u32 {
        self.slots.get(slot as usize).map_or(0, |slot| slot.generation)
    }

    /// The entry with this generation; `None` when it has been removed since.
    pub fn get_tenant(&mut self, slot: u32, generation: u32) -> Option<&mut T> {
        if self.generation(slot) == generation { self.get_mut(slot) } else { None }
    }

    /// Adds an entry whose name is not in the table yet.
    pub fn insert(&mut self, entry: T) -> u32 {
        let hash = kept(entry.key().hash);
        let slot = self.free.pop().unwrap_or_else(|| self.slots.grow() as u32);
        if let Some(place) = self.slots.get_mut(slot as usize) {
            let generation = place.generation.wrapping_add(1);
            *place = Slot { generation, hash, entry: Some(entry) };
        }
        let slots = &self.slots;
        self.by_name.insert_unique(spread(hash), slot, |&slot| {
            slots.get(slot as usize).map_or(0, |place| spread(place.hash))
        });
        slot
    }

    pub fn remove(&mut self, slot: u32) -> Option<T> {
        let place = self.slots.get_mut(slot as usize)?;
        let (entry, hash) = (place.entry.take()?, spread(place.hash));
        if let Ok(place) = self.by_name.find_entry(hash, |&other| other == slot) {
            place.remove();
        }
        self.free.push(slot);
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Router;

    struct Entry(Arc<ChannelKey>);

    impl Keyed for Entry {
        fn key(&self) -> &Arc<ChannelKey> {
            &self.0
        }
    }

    #[test]
    fn a_removed_entry_is_not_found_by_name_nor_by_its_old_generation() {
        let router = Router::new((1, 2), 1);
        let app: Arc<str> = "demo".into();
        let mut table = ChannelTable::default();
        let keys: Vec<_> = (0..100).map(|i| Arc::new(router.key(&app, &i.to_string()))).collect();
        let slots: Vec<_> = keys.iter().map(|key| table.insert(Entry(Arc::clone(key)))).collect();
        for (key, &slot) in keys.iter().zip(&slots).step_by(2) {
            let generation = table.generation(slot);
            table.remove(slot);
            assert_eq!(table.find_key(key), None);
            assert!(table.get_tenant(slot, generation).is_none());
        }
        for (key, &slot) in keys.iter().zip(&slots).skip(1).step_by(2) {
            assert_eq!(table.find_key(key), Some(slot));
        }
        let again = table.insert(Entry(Arc::clone(&keys[0])));
        assert!(table.get_tenant(again, table.generation(again)).is_some());
        assert_eq!(table.len(), 51);
    }
}
