//! A table of channels, by slot and by name. Slots are used again with the next generation, so that
//! another shard can name an entry by number and be told when it is gone.

use std::sync::Arc;

use hashbrown::HashTable;

use crate::ids::ChannelKey;

/// What the table needs to know of an entry.
pub trait Keyed {
    fn key(&self) -> &Arc<ChannelKey>;
}

#[derive(Debug)]
pub struct ChannelTable<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    by_name: HashTable<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    entry: Option<Box<T>>,
}

impl<T> Default for ChannelTable<T> {
    fn default() -> Self {
        ChannelTable { slots: Vec::new(), free: Vec::new(), by_name: HashTable::new() }
    }
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
        self.by_name.find(hash, |&slot| is_named(slot)).copied()
    }

    pub fn find_key(&self, key: &ChannelKey) -> Option<u32> {
        self.find(&key.app, &key.name, key.hash)
    }

    pub fn get(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize)?.entry.as_deref()
    }

    pub fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot as usize)?.entry.as_deref_mut()
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
        let hash = entry.key().hash;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, entry: None });
            (self.slots.len() - 1) as u32
        });
        let place = &mut self.slots[slot as usize];
        place.generation = place.generation.wrapping_add(1);
        place.entry = Some(Box::new(entry));
        let slots = &self.slots;
        self.by_name.insert_unique(hash, slot, |&slot| {
            slots[slot as usize].entry.as_ref().map_or(0, |entry| entry.key().hash)
        });
        slot
    }

    pub fn remove(&mut self, slot: u32) -> Option<Box<T>> {
        let entry = self.slots.get_mut(slot as usize)?.entry.take()?;
        if let Ok(place) = self.by_name.find_entry(entry.key().hash, |&other| other == slot) {
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
