//! The isolation lane: requests that were in flight at two crashes of an engine, run by halves and then alone, while
//! nothing else runs on that endpoint.

use std::collections::HashSet;

use super::{ChunkSlot, EndpointNumber, RequestSlot};

/// Suspects that are run together.
#[derive(Debug, Default)]
struct Group {
    unsent: Vec<RequestSlot>,
    in_flight: HashSet<RequestSlot>,
    /// Lost in the crash that ended this group.
    crashed: Vec<RequestSlot>,
    /// How many there were when it was begun: a group of one is alone.
    size: usize,
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Run one after another, the last first.
    groups: Vec<Vec<RequestSlot>>,
    /// The endpoint that is being drained for the next group.
    chosen: Option<EndpointNumber>,
    running: Option<(EndpointNumber, Group)>,
}

impl Lane {
    pub(super) fn suspect(&mut self, request: RequestSlot) {
        match self.groups.first_mut() {
            Some(group) if self.running.is_none() => group.push(request),
            _ => self.groups.insert(0, vec![request]),
        }
    }

    /// Whether this endpoint now serves suspects and nothing else. One endpoint is chosen, and drained, at a time.
    pub(super) fn wants(
        &mut self,
        number: EndpointNumber,
        can_serve: impl Fn(&RequestSlot) -> bool,
    ) -> bool {
        if let Some((at, _)) = &self.running {
            return *at == number;
        }
        if self.chosen.is_none() && self.groups.last().is_some_and(|group| group.iter().all(can_serve)) {
            self.chosen = Some(number);
        }
        self.chosen == Some(number)
    }

    /// The next suspect to be sent to the endpoint that [`Self::wants`] them.
    pub(super) fn next(&mut self, number: EndpointNumber, in_flight: u32) -> Option<RequestSlot> {
        if self.running.is_none() {
            // Nothing else may run there: what is in flight ends first.
            if in_flight > 0 {
                return None;
            }
            self.chosen = None;
            let unsent = self.groups.pop()?;
            let size = unsent.len();
            self.running = Some((number, Group { unsent, size, ..Group::default() }));
        }
        let (_, group) = self.running.as_mut()?;
        if !group.crashed.is_empty() {
            return None;
        }
        let request = group.unsent.pop()?;
        group.in_flight.insert(request);
        Some(request)
    }

    /// The endpoint is out of use: another one may take its suspects.
    pub(super) fn release(&mut self, number: EndpointNumber) {
        if self.chosen == Some(number) {
            self.chosen = None;
        }
        let is_idle =
            self.running.as_ref().is_some_and(|(at, group)| *at == number && group.in_flight.is_empty());
        if is_idle && let Some((_, group)) = self.running.take() {
            self.groups
                .extend([group.unsent, group.crashed].into_iter().filter(|part| !part.is_empty()));
        }
    }

    /// The call has ended, in whatever way.
    pub(super) fn left(&mut self, request: RequestSlot) {
        if let Some((_, group)) = &mut self.running {
            group.in_flight.remove(&request);
        }
    }

    /// It was answered, or has failed for good: no suspect any more.
    pub(super) fn cleared(&mut self, request: RequestSlot) {
        for group in &mut self.groups {
            group.retain(|other| *other != request);
        }
        self.groups.retain(|group| !group.is_empty());
        if self.groups.is_empty() {
            self.chosen = None;
        }
        if let Some((_, group)) = &mut self.running {
            group.unsent.retain(|other| *other != request);
            group.crashed.retain(|other| *other != request);
        }
        self.settle();
    }

    /// It did not reach the engine, and is sent again with its group.
    pub(super) fn put_back(&mut self, request: RequestSlot) {
        if let Some((_, group)) = &mut self.running {
            group.unsent.push(request);
        }
        self.settle();
    }

    /// The engine crashed with it. Returns whether it was the only one there.
    pub(super) fn crashed(&mut self, request: RequestSlot) -> bool {
        let Some((_, group)) = &mut self.running else { return false };
        group.crashed.push(request);
        let was_alone = group.size == 1;
        self.settle();
        was_alone
    }

    pub(super) fn forget(&mut self, chunk: ChunkSlot) {
        for group in &mut self.groups {
            group.retain(|request| request.chunk != chunk);
        }
        self.groups.retain(|group| !group.is_empty());
        if self.groups.is_empty() {
            self.chosen = None;
        }
        if let Some((_, group)) = &mut self.running {
            group.unsent.retain(|request| request.chunk != chunk);
            group.crashed.retain(|request| request.chunk != chunk);
        }
        self.settle();
    }

    /// Ends a group of which nothing is in flight: all answered, or crashed and cut in halves.
    fn settle(&mut self) {
        let Some((_, group)) = &mut self.running else { return };
        if !group.in_flight.is_empty() || (group.crashed.is_empty() && !group.unsent.is_empty()) {
            return;
        }
        let crashed = std::mem::take(&mut group.crashed);
        let unsent = std::mem::take(&mut group.unsent);
        self.running = None;
        // Those that were not sent yet are suspected no less than before.
        if !unsent.is_empty() {
            self.groups.push(unsent);
        }
        let (left, right) = crashed.split_at(crashed.len() / 2);
        self.groups.extend([left, right].into_iter().filter(|half| !half.is_empty()).map(<[_]>::to_vec));
    }
}
