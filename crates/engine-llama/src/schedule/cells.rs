//! Cells of the KV cache: who was promised how many.

use std::collections::BTreeMap;

use super::Layout;

/// One generation of the common beginning: its cells stay as long as anybody uses them.
#[derive(Debug)]
struct Held {
    len: u32,
    users: u32,
}

#[derive(Debug)]
pub(super) struct Cells {
    layout: Layout,
    /// Own cells, and the number of the generation that is shared.
    promised: BTreeMap<u32, (u32, Option<u64>)>,
    held: BTreeMap<u64, Held>,
    current: Option<u64>,
    generations: u64,
}

impl Cells {
    pub(super) const fn new(layout: Layout) -> Self {
        Self { layout, promised: BTreeMap::new(), held: BTreeMap::new(), current: None, generations: 0 }
    }

    fn used(&self) -> u32 {
        let own: u32 = self.promised.values().map(|(own, _)| own).sum();
        own + self.held.values().map(|held| held.len).sum::<u32>()
    }

    /// Room for a common beginning of this length, in the place of the one before.
    pub(super) fn try_hold(&mut self, len: usize) -> bool {
        let len = len as u32;
        if self.layout.is_unified {
            let freed = self.current.and_then(|current| self.held.get(&current));
            let freed = freed.filter(|held| held.users == 0).map_or(0, |held| held.len);
            if self.used() - freed + len > self.layout.pool_len {
                return false;
            }
        } else if len >= self.layout.sequence_len {
            return false;
        }
        self.let_go();
        self.generations += 1;
        self.held.insert(self.generations, Held { len, users: 0 });
        self.current = Some(self.generations);
        true
    }

    pub(super) fn let_go(&mut self) {
        if let Some(current) = self.current.take()
            && self.held.get(&current).is_some_and(|held| held.users == 0)
        {
            self.held.remove(&current);
        }
    }

    /// Room for a sequence that needs `own` cells beside what it shares.
    pub(super) fn try_promise(&mut self, sequence: u32, own: u32, shares: bool) -> bool {
        if self.layout.is_unified && self.used() + own > self.layout.pool_len {
            return false;
        }
        let shared = self.current.filter(|_| shares);
        if let Some(held) = shared.and_then(|current| self.held.get_mut(&current)) {
            held.users += 1;
        }
        self.promised.insert(sequence, (own, shared));
        true
    }

    pub(super) fn release(&mut self, sequence: u32) {
        let Some((_, Some(shared))) = self.promised.remove(&sequence) else { return };
        if let Some(held) = self.held.get_mut(&shared) {
            held.users -= 1;
            if held.users == 0 && self.current != Some(shared) {
                self.held.remove(&shared);
            }
        }
    }
}
