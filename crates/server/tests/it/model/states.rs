//! The model: in which states a batch may be, given all that was asked and answered so far.
//!
//! The server moves batches by itself meanwhile, so the model keeps all states that are possible. An answer that fits
//! none of them is a fault; one that fits some leaves those.

use std::collections::BTreeSet;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    Validating,
    InProgress,
    Finalizing,
    /// Finalizing, and its end will be `expired`.
    Expiring,
    Cancelling,
    Completed,
    Failed,
    Expired,
    Cancelled,
    Deleted,
}

/// What is asked of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Look,
    Cancel,
    Pause,
    Resume,
    /// Moves its hard deadline into the past.
    Expire,
    Retry,
    Delete,
}

/// What was answered: the HTTP status and, where it shows the batch, the batch's.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) code: u16,
    pub(super) status: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) struct Model {
    possible: BTreeSet<State>,
    /// Its deadline was moved.
    may_expire: bool,
}

impl Model {
    /// A batch whose creation was answered.
    pub(super) fn created() -> Self {
        Self { possible: BTreeSet::from([State::Validating]), may_expire: false }
    }

    /// The states after a call that was answered so; none when no order of events gives this answer.
    pub(super) fn explain(&self, call: Call, seen: &Seen) -> Option<Self> {
        let mut after = Self { possible: BTreeSet::new(), may_expire: self.may_expire };
        if call == Call::Expire && seen.code == 200 {
            after.may_expire = true;
        }
        for before in self.reachable(&self.possible) {
            let (codes, then) = answer(before, call);
            if !codes.contains(&seen.code) {
                continue;
            }
            let then = if seen.code == 200 { then } else { before };
            match &seen.status {
                None => {
                    after.possible.insert(then);
                }
                // The batch is shown as it was a moment later.
                Some(status) => after.possible.extend(
                    after
                        .reachable(&BTreeSet::from([then]))
                        .into_iter()
                        .filter(|state| state.status() == status),
                ),
            }
        }
        (!after.possible.is_empty()).then_some(after)
    }

    /// Two calls at once: there must be an order in which both answers are right.
    pub(super) fn explain_both(&self, calls: [Call; 2], seen: &[Seen; 2]) -> Option<Self> {
        let in_order = |first: usize, second: usize| {
            self.explain(calls[first], &seen[first])?.explain(calls[second], &seen[second])
        };
        match (in_order(0, 1), in_order(1, 0)) {
            (Some(mut one), Some(other)) => {
                one.possible.extend(other.possible);
                one.may_expire |= other.may_expire;
                Some(one)
            }
            (one, other) => one.or(other),
        }
    }

    /// What the server may have made of it by itself.
    fn reachable(&self, from: &BTreeSet<State>) -> BTreeSet<State> {
        let mut all = from.clone();
        let mut open: Vec<State> = from.iter().copied().collect();
        while let Some(state) = open.pop() {
            let next: &[State] = match state {
                State::Validating => &[State::InProgress, State::Failed],
                State::InProgress if self.may_expire => &[State::Finalizing, State::Expiring],
                State::InProgress => &[State::Finalizing],
                State::Finalizing => &[State::Completed],
                State::Expiring => &[State::Expired],
                State::Cancelling => &[State::Cancelled],
                _ => &[],
            };
            for state in next {
                if all.insert(*state) {
                    open.push(*state);
                }
            }
        }
        all
    }
}

impl State {
    const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Expired | Self::Cancelled)
    }

    const fn status(self) -> &'static str {
        match self {
            Self::Validating => "validating",
            Self::InProgress => "in_progress",
            Self::Finalizing | Self::Expiring => "finalizing",
            Self::Cancelling => "cancelling",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Deleted => "deleted",
        }
    }
}

/// The HTTP statuses that a call may get in a state, and the state after it when it is 200.
const fn answer(state: State, call: Call) -> (&'static [u16], State) {
    if matches!(state, State::Deleted) {
        return (&[404], state);
    }
    match (call, state) {
        (Call::Cancel, State::Completed | State::Failed | State::Expired)
        | (Call::Pause | Call::Resume | Call::Expire, _)
            if state.is_terminal() =>
        {
            (&[409], state)
        }
        (Call::Cancel, State::Cancelling | State::Cancelled)
        | (Call::Look | Call::Pause | Call::Resume | Call::Expire, _) => (&[200], state),
        (Call::Cancel, _) => (&[200], State::Cancelling),
        // 400: none of its requests has failed; 410: its input is gone.
        (Call::Retry, _) if state.is_terminal() => (&[200, 400, 410], state),
        (Call::Delete, _) if state.is_terminal() => (&[200], State::Deleted),
        (Call::Retry | Call::Delete, _) => (&[409], state),
    }
}

#[test]
fn the_model_refuses_what_cannot_be() {
    let seen = |code, status: Option<&str>| Seen { code, status: status.map(str::to_owned) };
    let created = Model::created();
    assert!(created.explain(Call::Look, &seen(200, Some("completed"))).is_some());
    assert!(created.explain(Call::Look, &seen(200, Some("expired"))).is_none(), "no deadline was moved");
    assert!(created.explain(Call::Cancel, &seen(200, Some("in_progress"))).is_none());
    let completed = created.explain(Call::Look, &seen(200, Some("completed"))).unwrap();
    assert!(
        completed.explain(Call::Cancel, &seen(200, Some("cancelled"))).is_none(),
        "an end is an end"
    );
    assert!(completed.explain(Call::Delete, &seen(409, None)).is_none());
    let both = [Call::Delete, Call::Delete];
    assert!(completed.explain_both(both, &[seen(200, None), seen(200, None)]).is_none(), "once only");
    let deleted = completed.explain_both(both, &[seen(404, None), seen(200, None)]).unwrap();
    assert!(deleted.explain(Call::Look, &seen(200, Some("completed"))).is_none(), "gone is gone");
}
