//! Members whose connection was lost, while their grace runs.

use std::collections::HashMap;

use crate::channel::ResumeKey;
use crate::ids::ConnAddr;

/// Where a lost member is.
#[derive(Debug)]
pub struct LostMember {
    pub slot: u32,
    pub generation: u32,
    pub addr: ConnAddr,
    pub resume: Option<ResumeKey>,
}

/// Lost members by the number of their grace, and by what a returning session shows. Bounded: one
/// entry per lost member, gone when its grace is over.
#[derive(Debug, Default)]
pub struct LostMembers {
    graces: HashMap<u64, LostMember>,
    by_key: HashMap<ResumeKey, Vec<u64>>,
    begun: u64,
}

impl LostMembers {
    pub fn len(&self) -> usize {
        self.graces.len()
    }

    /// Whether the session with this key has lost members.
    pub fn has(&self, key: &ResumeKey) -> bool {
        self.by_key.contains_key(key)
    }

    /// Returns the number of its grace.
    pub fn insert(&mut self, lost: LostMember) -> u64 {
        let grace = self.begun;
        self.begun += 1;
        if let Some(key) = &lost.resume {
            self.by_key.entry(key.clone()).or_default().push(grace);
        }
        self.graces.insert(grace, lost);
        grace
    }

    pub fn remove(&mut self, grace: u64) -> Option<LostMember> {
        let lost = self.graces.remove(&grace)?;
        if let Some(key) = &lost.resume
            && let Some(graces) = self.by_key.get_mut(key)
        {
            graces.retain(|&other| other != grace);
            if graces.is_empty() {
                self.by_key.remove(key);
            }
        }
        Some(lost)
    }

    /// What a returning session lost and wants back, the latest loss first.
    pub fn claim(
        &mut self,
        key: &ResumeKey,
        is_wanted: impl Fn(&LostMember) -> bool,
    ) -> Vec<LostMember> {
        let Some(graces) = self.by_key.get_mut(key) else { return Vec::new() };
        let all = &mut self.graces;
        let claimed = graces.extract_if(.., |grace| all.get(grace).is_some_and(&is_wanted));
        let claimed: Vec<u64> = claimed.collect();
        if graces.is_empty() {
            self.by_key.remove(key);
        }
        claimed.iter().rev().filter_map(|grace| all.remove(grace)).collect()
    }
}
