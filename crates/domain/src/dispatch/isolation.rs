//! The isolation lane: requests that were in flight at two crashes of an engine, run by halves and then alone, while
//! nothing else runs on that endpoint.

use std::collections::HashSet;
use std::sync::Arc;

use super::{ChunkSlot, EndpointNumber, RequestSlot};

/// Suspects that wait to be run together. They are of one model, so that whoever serves one serves all.
#[derive(Debug)]
struct Suspects {
    model: Arc<str>,
    requests: Vec<RequestSlot>,
}

/// Suspects that are run together.
#[derive(Debug)]
struct Group {
    model: Arc<str>,
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
    groups: Vec<Suspects>,
    /// The endpoint that is being drained for the next group of this model.
    chosen: Option<(EndpointNumber, Arc<str>)>,
    running: Option<(EndpointNumber, Group)>,
}

impl Lane {
    pub(super) fn suspect(&mut self, request: RequestSlot, model: &Arc<str>) {
        let is_free = self.running.is_none();
        match self.groups.iter_mut().find(|group| is_free && group.model == *model) {
            Some(group) => group.requests.push(request),
            None => {
                self.groups.insert(0, Suspects { model: model.clone(), requests: vec![request] });
            }
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
        if self.chosen.is_none() {
            let served = self.groups.iter().rev().find(|group| group.requests.iter().all(&can_serve));
            self.chosen = served.map(|group| (number, group.model.clone()));
        }
        self.chosen.as_ref().is_some_and(|(chosen, _)| *chosen == number)
    }

    /// The next suspect to be sent to the endpoint that [`Self::wants`] them.
    pub(super) fn next(&mut self, number: EndpointNumber, in_flight: u32) -> Option<RequestSlot> {
        if self.running.is_none() {
            // Nothing else may run there: what is in flight ends first.
            if in_flight > 0 {
                return None;
            }
            let (_, model) = self.chosen.take()?;
            let at = self.groups.iter().rposition(|group| group.model == model)?;
            let Suspects { model, requests: unsent } = self.groups.remove(at);
            let size = unsent.len();
            let (in_flight, crashed) = (HashSet::new(), Vec::new());
            self.running = Some((number, Group { model, unsent, in_flight, crashed, size }));
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
        if self.chosen.as_ref().is_some_and(|(chosen, _)| *chosen == number) {
            self.chosen = None;
        }
        let is_idle =
            self.running.as_ref().is_some_and(|(at, group)| *at == number && group.in_flight.is_empty());
        if is_idle && let Some((_, group)) = self.running.take() {
            let Group { model, unsent, crashed, .. } = group;
            self.wait(&model, unsent);
            self.wait(&model, crashed);
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
            group.requests.retain(|other| *other != request);
        }
        self.groups.retain(|group| !group.requests.is_empty());
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

    /// Nothing was learnt of the one that was alone: others are tried before it.
    pub(super) fn postpone(&mut self, request: RequestSlot) {
        if let Some(at) = self.groups.iter().position(|group| group.requests == [request]) {
            let group = self.groups.remove(at);
            self.groups.insert(0, group);
        }
    }

    pub(super) fn forget(&mut self, chunk: ChunkSlot) {
        for group in &mut self.groups {
            group.requests.retain(|request| request.chunk != chunk);
        }
        self.groups.retain(|group| !group.requests.is_empty());
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
        let (model, crashed) = (group.model.clone(), std::mem::take(&mut group.crashed));
        let unsent = std::mem::take(&mut group.unsent);
        self.running = None;
        // Those that were not sent yet are suspected no less than before.
        self.wait(&model, unsent);
        let (left, right) = crashed.split_at(crashed.len() / 2);
        self.wait(&model, left.to_vec());
        self.wait(&model, right.to_vec());
    }

    fn wait(&mut self, model: &Arc<str>, requests: Vec<RequestSlot>) {
        if !requests.is_empty() {
            self.groups.push(Suspects { model: model.clone(), requests });
        }
    }
}
