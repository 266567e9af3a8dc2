//! Notices, in the model.

use overnight_domain::ids::NoticeId;
use overnight_domain::limits::NOTICES_MAX;
use overnight_domain::notice::{Notice, Receiver, Subscription};
use overnight_domain::time::UnixTime;

use super::State;
use crate::{Settlement, WaitingNotice};

/// A notice for one receiver; they stand in the order in which they were put.
#[derive(Debug)]
pub(super) struct NoticeEntry {
    receiver: Receiver,
    waiting: WaitingNotice,
    due_at: UnixTime,
}

impl State {
    pub(super) fn set_receivers(&mut self, subscriptions: &[Subscription]) {
        self.receivers =
            subscriptions.iter().map(|wanted| (wanted.receiver, wanted.events.clone())).collect();
        self.notices.retain(|entry| self.receivers.contains_key(&entry.receiver));
    }

    pub(super) fn put_notice(&mut self, notice: &Notice) {
        for (&receiver, events) in &self.receivers {
            let is_known =
                |entry: &NoticeEntry| entry.receiver == receiver && entry.waiting.notice.id == notice.id;
            if !events.contains(&notice.news.event()) || self.notices.iter().any(is_known) {
                continue;
            }
            let waiting = WaitingNotice { notice: notice.clone(), attempts: 0 };
            self.notices.push(NoticeEntry { receiver, waiting, due_at: notice.at });
            let of_receiver = |entry: &NoticeEntry| entry.receiver == receiver;
            if self.notices.iter().filter(|entry| of_receiver(entry)).count() > NOTICES_MAX
                && let Some(oldest) = self.notices.iter().position(of_receiver)
            {
                self.notices.remove(oldest);
            }
        }
    }

    pub(super) fn due_notices(
        &self,
        receiver: Receiver,
        now: UnixTime,
        limit: usize,
    ) -> Vec<WaitingNotice> {
        let is_due = |entry: &&NoticeEntry| entry.receiver == receiver && entry.due_at <= now;
        let mut due = self.notices.iter().filter(is_due).collect::<Vec<_>>();
        due.sort_by_key(|entry| entry.due_at);
        due.into_iter().take(limit).map(|entry| entry.waiting.clone()).collect()
    }

    pub(super) fn settle_notice(&mut self, receiver: Receiver, id: &NoticeId, settlement: Settlement) {
        let is_it = |entry: &NoticeEntry| entry.receiver == receiver && entry.waiting.notice.id == *id;
        match settlement {
            Settlement::Done => self.notices.retain(|entry| !is_it(entry)),
            Settlement::RetryAt(due_at) => {
                if let Some(entry) = self.notices.iter_mut().find(|entry| is_it(entry)) {
                    entry.waiting.attempts += 1;
                    entry.due_at = due_at;
                }
            }
        }
    }
}
