//! The schedule: which tokens are computed in the next step, and for whom.
//!
//! A plain state machine; it knows neither the model nor the clock. Live sequences are continued first, what is left of
//! a step is filled with prompts. The queue is ordered by the prompts themselves, so that those with a common beginning
//! are neighbours: their beginning is computed once, in a sequence that holds it, and copied to each. The queue is walked
//! around, never restarted from its head; whoever was passed over too often is next.
//!
//! Cells of the KV cache are promised at admission for the whole answer: what was admitted always ends.

mod cells;
mod places;
mod prefix;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::token::{QuestionId, Token, common_len};
use cells::Cells;
use places::{Place, Places};
use prefix::{Prefix, SHARED_LEN_MIN};

/// How the KV cache is laid out; fixed with a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// One pool of cells for all, where copies of a prefix cost nothing; or a stream for each sequence.
    pub(crate) is_unified: bool,
    /// Sequences that are answered at once. One more holds the common beginning.
    pub(crate) sequences: u32,
    /// The longest sequence, prompt and answer together.
    pub(crate) sequence_len: u32,
    /// The pool, when it is one.
    pub(crate) pool_len: u32,
}

/// A question as far as the schedule is concerned.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) id: QuestionId,
    pub(crate) prompt: Arc<[Token]>,
    pub(crate) answer_len_max: u32,
}

/// A change of the KV cache before the rows are computed, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Cells of the sequence from this position on are free.
    Cut { sequence: u32, from: u32 },
    /// The first `len` cells of one sequence become another's too, which is empty.
    Copy { from: u32, to: u32, len: u32 },
}

/// One token to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) sequence: u32,
    pub(crate) position: u32,
    pub(crate) token: Token,
    pub(crate) wants_logits: bool,
}

/// What is to be computed at once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Step {
    pub(crate) changes: Vec<Change>,
    pub(crate) rows: Vec<Row>,
    /// Who is told the logits of which row.
    pub(crate) outputs: Vec<(QuestionId, usize)>,
}

#[derive(Debug)]
struct Live {
    id: QuestionId,
    prompt: Arc<[Token]>,
    /// Counted in admissions: who came first is read first.
    admission: u64,
    /// Tokens that are not computed yet, from `position` on.
    pending: VecDeque<Token>,
    position: u32,
    /// Of the prompt, how much was copied.
    cached_len: u32,
    is_answering: bool,
}

impl Live {
    fn computed(&self) -> &[Token] {
        &self.prompt[..self.prompt.len().min(self.position as usize)]
    }
}

/// The order of the queue.
type QueueKey = (Arc<[Token]>, QuestionId);

/// See the module.
#[derive(Debug)]
pub(crate) struct Schedule {
    layout: Layout,
    step_len: usize,
    queue: BTreeMap<QueueKey, Waiting>,
    /// Where the walk around the queue has come to.
    cursor: Option<QueueKey>,
    /// When each that waits arrived, counted in admissions.
    arrivals: BTreeMap<QuestionId, (u64, QueueKey)>,
    admissions: u64,
    /// When it was looked at last whether one pool is wanted, counted in admissions, and what was found.
    wanted: Option<(u64, bool)>,
    /// Nobody is admitted: the sequences are to run empty.
    is_closed: bool,
    live: BTreeMap<u32, Live>,
    places: Places,
    cells: Cells,
    prefix: Prefix,
    /// Changes for the next step.
    changes: Vec<Change>,
    /// Prompt tokens that were computed, those of common beginnings once.
    computed: u64,
}

impl Schedule {
    pub(crate) fn new(layout: Layout, step_len: usize) -> Self {
        Self {
            layout,
            step_len: step_len.max(1),
            queue: BTreeMap::new(),
            cursor: None,
            arrivals: BTreeMap::new(),
            admissions: 0,
            wanted: None,
            is_closed: false,
            live: BTreeMap::new(),
            places: Places::new(layout),
            cells: Cells::new(layout),
            prefix: Prefix::default(),
            changes: Vec::new(),
            computed: 0,
        }
    }

    /// Whether such a question could ever be answered in this layout.
    pub(crate) fn fits(&self, prompt_len: usize) -> bool {
        prompt_len > 0 && prompt_len < self.layout.sequence_len as usize
    }

    /// Takes a question that fits. Its answer is no longer than the rest of the context.
    pub(crate) fn ask(&mut self, mut question: Waiting) {
        assert!(self.fits(question.prompt.len()), "a question that does not fit was let through");
        let rest = self.layout.sequence_len - question.prompt.len() as u32;
        question.answer_len_max = question.answer_len_max.clamp(1, rest);
        let key = (question.prompt.clone(), question.id);
        self.arrivals.insert(question.id, (self.admissions, key.clone()));
        self.queue.insert(key, question);
    }

    /// Forgets a question, wherever it is.
    pub(crate) fn forget(&mut self, id: QuestionId) {
        if let Some((_, key)) = self.arrivals.remove(&id) {
            self.queue.remove(&key);
            return;
        }
        let sequence = self.live.iter().find(|(_, live)| live.id == id).map(|(sequence, _)| *sequence);
        if let Some(sequence) = sequence {
            let live = self.live.remove(&sequence).expect("it was just found");
            self.cells.release(sequence);
            if !self.places.give_back(sequence, live.prompt, live.position) {
                self.changes.push(Change::Cut { sequence, from: 0 });
            }
        }
    }

    /// The question goes on with these tokens: one that was sampled, or several that had to follow.
    pub(crate) fn go_on(&mut self, id: QuestionId, tokens: &[Token]) {
        if let Some(live) = self.live.values_mut().find(|live| live.id == id) {
            live.pending.extend(tokens);
        }
    }

    /// The next step; none when there is nothing to compute.
    pub(crate) fn step(&mut self) -> Option<Step> {
        if !self.is_closed {
            self.admit();
        }
        let mut step = Step { changes: std::mem::take(&mut self.changes), ..Step::default() };
        let mut room = self.step_len;
        let mut counts = BTreeMap::new();
        let (answering, mut reading): (Vec<u32>, Vec<u32>) =
            self.live.keys().copied().partition(|sequence| self.live[sequence].is_answering);
        reading.sort_unstable_by_key(|sequence| self.live[sequence].admission);
        for sequence in answering {
            room -= self.count_rows(sequence, room, &mut counts);
        }
        let begun = self.prefix.rows(self.layout.sequences, room);
        room -= begun.len();
        self.computed += begun.len() as u64;
        for sequence in reading {
            room -= self.count_rows(sequence, room, &mut counts);
        }
        // In the order of the sequences: llama.cpp computes streams at once only where they are neighbours.
        for (sequence, count) in counts {
            self.add_rows(sequence, count, &mut step);
        }
        step.rows.extend(begun);
        if step.rows.is_empty() {
            self.changes = step.changes;
            return None;
        }
        Some(step)
    }

    fn count_rows(&self, sequence: u32, room: usize, counts: &mut BTreeMap<u32, usize>) -> usize {
        let count = self.live[&sequence].pending.len().min(room);
        counts.insert(sequence, count);
        count
    }

    fn add_rows(&mut self, sequence: u32, count: usize, step: &mut Step) {
        let live = self.live.get_mut(&sequence).expect("only live sequences are counted");
        for token in live.pending.drain(..count) {
            step.rows.push(Row { sequence, position: live.position, token, wants_logits: false });
            live.position += 1;
        }
        if count > 0 && live.pending.is_empty() {
            let last = step.rows.len() - 1;
            step.rows[last].wants_logits = true;
            step.outputs.push((live.id, last));
        }
        if !live.is_answering {
            self.computed += count as u64;
            live.is_answering = live.pending.is_empty();
        }
    }

    /// Gives free sequences to those who wait, as long as there are cells for them.
    fn admit(&mut self) {
        while let Some(key) = self.next_key() {
            let Some(place) = self.places.best_for(&key.0) else { return };
            let group = self.group_of(&key);
            let is_ready =
                prefix::is_enough(place.kept, group) || self.prefix.is_ready_for(&key.0, group);
            if !is_ready {
                if !self.prefix.is_busy() && self.cells.try_hold(group) {
                    self.hold(&key.0[..group]);
                    if !self.prefix.is_busy() {
                        continue;
                    }
                } else if self.live.is_empty() && !self.prefix.is_busy() {
                    // The beginning that is held takes the room of the next.
                    self.let_go();
                    continue;
                }
                return;
            }
            let waiting = &self.queue[&key];
            let held = self.prefix.shared_with(&waiting.prompt);
            let copied = if held > place.kept { held } else { 0 };
            let own = waiting.prompt.len() as u32 - copied.max(place.kept) + waiting.answer_len_max;
            if !self.cells.try_promise(place.sequence, own, copied > 0) {
                if self.live.is_empty() && self.prefix.is_held() {
                    self.let_go();
                    continue;
                }
                return;
            }
            self.start(place, &key, copied);
        }
    }

    /// Begins an answer with what is left in the place, or with `copied` cells of the common beginning instead.
    fn start(&mut self, place: Place, key: &QueueKey, copied: u32) {
        let waiting = self.queue.remove(key).expect("it was just looked at");
        self.arrivals.remove(&waiting.id);
        self.admissions += 1;
        self.places.take(place.sequence);
        let sequence = place.sequence;
        let kept = if copied > 0 { 0 } else { place.kept };
        if place.has_cells {
            self.changes.push(Change::Cut { sequence, from: kept });
        }
        if copied > 0 {
            self.changes.push(Change::Copy { from: self.layout.sequences, to: sequence, len: copied });
        }
        let cached = copied.max(kept);
        let live = Live {
            id: waiting.id,
            admission: self.admissions,
            pending: waiting.prompt[cached as usize..].iter().copied().collect(),
            prompt: waiting.prompt,
            position: cached,
            cached_len: cached,
            is_answering: false,
        };
        self.live.insert(sequence, live);
        self.cursor = Some(key.clone());
    }

    /// Holds another common beginning: as much as the one before has in common with it, or else what some sequence has
    /// in its cells already; the rest will be computed.
    fn hold(&mut self, tokens: &[Token]) {
        let holder = self.layout.sequences;
        let kept = self.prefix.replace(tokens);
        match self.nearest(tokens) {
            Some((len, from)) if len >= kept + SHARED_LEN_MIN as u32 => {
                self.prefix.take_over(len);
                self.changes.push(Change::Cut { sequence: holder, from: 0 });
                self.changes.push(Change::Copy { from, to: holder, len });
            }
            _ => self.changes.push(Change::Cut { sequence: holder, from: kept }),
        }
    }

    /// The sequence that has most of a beginning in its cells, and how much.
    fn nearest(&self, tokens: &[Token]) -> Option<(u32, u32)> {
        let live = self.live.iter().map(|(sequence, live)| (*sequence, live.computed()));
        let shared = |(sequence, computed)| (common_len(computed, tokens) as u32, sequence);
        live.chain(self.places.left()).map(shared).max()
    }

    fn let_go(&mut self) {
        self.prefix.replace(&[]);
        self.cells.let_go();
        self.changes.push(Change::Cut { sequence: self.layout.sequences, from: 0 });
    }

    fn next_key(&self) -> Option<QueueKey> {
        if let Some((at, key)) = self.arrivals.values().next()
            && self.admissions - at > u64::from(self.layout.sequences) * PASSED_OVER_MAX
        {
            return Some(key.clone());
        }
        let behind = self.cursor.as_ref().and_then(|cursor| {
            let range = (std::ops::Bound::Excluded(cursor.clone()), std::ops::Bound::Unbounded);
            self.queue.range(range).next()
        });
        behind.or_else(|| self.queue.iter().next()).map(|(key, _)| key.clone())
    }

    /// How long a beginning the question shares with those behind it in the queue; 0 when it is not worth holding.
    fn group_of(&self, key: &QueueKey) -> usize {
        let neighbours = self.queue.range(key..).skip(1).map(|((prompt, _), _)| prompt.as_ref());
        prefix::group_len(&key.0, neighbours)
    }

    pub(crate) const fn layout(&self) -> Layout {
        self.layout
    }

    /// All that waits, in the order of arrival, for another schedule.
    pub(crate) fn take_waiting(&mut self) -> Vec<Waiting> {
        self.arrivals.clear();
        let mut waiting: Vec<Waiting> = std::mem::take(&mut self.queue).into_values().collect();
        waiting.sort_unstable_by_key(|waiting| waiting.id);
        waiting
    }

    /// Admits nobody from now on, or everybody again.
    pub(crate) const fn set_closed(&mut self, is_closed: bool) {
        self.is_closed = is_closed;
    }

    /// Tokens that are still to be read before anybody can be answered.
    pub(crate) fn unread_len(&self) -> usize {
        self.queue.keys().map(|(prompt, _)| prompt.len()).sum()
    }

    pub(crate) fn waiting_count(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn live_count(&self) -> usize {
        self.live.len()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.live.is_empty()
    }

    pub(crate) const fn computed(&self) -> u64 {
        self.computed
    }

    /// How much of the question's prompt was copied rather than computed.
    pub(crate) fn cached_len(&self, id: QuestionId) -> u32 {
        self.live.values().find(|live| live.id == id).map_or(0, |live| live.cached_len)
    }

    /// A step may be no longer from now on.
    pub(crate) const fn set_step_len(&mut self, step_len: usize) {
        self.step_len = if step_len == 0 { 1 } else { step_len };
    }

    /// Whether what waits would be better off with one pool of cells: the common beginnings outweigh the rest. A change
    /// empties all sequences, so it takes a round of questions to ask for one while any is answered, and clear figures.
    pub(crate) fn wants_unified(&mut self) -> bool {
        let is_unified = self.layout.is_unified;
        let round = if self.live.is_empty() { 2 } else { self.layout.sequences as usize };
        if self.queue.len() < round {
            self.wanted = None;
            return is_unified;
        }
        if let Some((at, wants)) = self.wanted
            && self.admissions - at < u64::from(self.layout.sequences)
            && !self.live.is_empty()
        {
            return wants;
        }
        let prompts: Vec<&[Token]> = self.queue.keys().map(|(prompt, _)| prompt.as_ref()).collect();
        let wants = prefix::is_mostly_shared(&prompts, is_unified);
        self.wanted = Some((self.admissions, wants));
        wants
    }
}

/// So many times all sequences may go to others before the one that has waited longest has its turn: enough to sort by,
/// about what the engine wants to have waiting.
const PASSED_OVER_MAX: u64 = 16;

/// With more sequences each token has too many foreign cells to look past.
pub(crate) const UNIFIED_SEQUENCES_MAX: u32 = 32;

#[cfg(test)]
mod tests;
