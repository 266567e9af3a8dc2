//! Telling whoever went to bed: notices out of the store, to a command and an address.
//!
//! Guaranteed: a notice is delivered at least once, also when this process is killed at any moment, and once as long as
//! it is not; a receiver that is down or hangs delays neither the other one nor anything else. What is given up after a
//! day is logged.
//!
//! Deliberately absent: any memory of what was delivered. A receiver that minds a repetition after a crash knows it by
//! the message's id.

mod command;
mod message;
mod url;
mod vigil;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use overnight_domain::ids::NoticeId;
use overnight_domain::limits::{NOTICE_RETRY_FIRST, NOTICE_RETRY_MAX, NOTICE_TIMEOUT, NOTICE_TTL};
use overnight_domain::notice::Receiver;
use overnight_domain::time::UnixTime;
use overnight_store::{Settlement, StoreError, WaitingNotice};
use tokio_util::sync::CancellationToken;

use crate::blocking::blocking;
use crate::clock;
use crate::config::NotifyConfig;
use crate::context::Context;
use crate::pulse::Pulse;

pub(crate) use message::{Message, Sender};
pub(crate) use vigil::{Bounds, Finding, Seen, Supply, Vigil};

/// How often the store is looked into without being called: for attempts that have become due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Notices that are read at once.
const PAGE: usize = 16;
/// How long a delivery may go on after a stop. It is not settled then, and made again at the next start.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// The latest moment that a database can hold: whatever waits is due by then.
const END_OF_TIME: UnixTime = UnixTime::from_millis(i64::MAX.cast_unsigned());

/// What takes messages.
pub(crate) enum Outlet {
    Command(Vec<String>),
    Url(url::Webhook),
}

impl Outlet {
    /// All that are configured. Refuses an address that no call could reach.
    pub(crate) fn all(config: &NotifyConfig) -> anyhow::Result<Vec<Self>> {
        let command = config.command.clone().map(Self::Command);
        let url = config.url.as_ref().map(|url| url::Webhook::new(url, &config.headers));
        Ok(command.into_iter().chain(url.transpose()?.map(Self::Url)).collect())
    }

    pub(crate) const fn receiver(&self) -> Receiver {
        match self {
            Self::Command(_) => Receiver::Command,
            Self::Url(_) => Receiver::Url,
        }
    }

    /// What people know it by.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Command(words) => format!("command `{}`", words[0]),
            Self::Url(webhook) => format!("url `{}`", webhook.shown()),
        }
    }

    /// Delivers a message once. Gives what the receiver said, or why it did not take it.
    pub(crate) async fn deliver(&self, message: &Message) -> Result<String, String> {
        let attempt = async {
            match self {
                Self::Command(words) => command::run(words, message).await,
                Self::Url(webhook) => {
                    let (webhook, message) = (webhook.clone(), message.clone());
                    blocking(move || webhook.post(&message)).await
                }
            }
        };
        match tokio::time::timeout(NOTICE_TIMEOUT, attempt).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("it took more than {} s", NOTICE_TIMEOUT.as_secs())),
        }
    }
}

/// Delivers until the stop, when there is somebody to deliver to.
pub(crate) async fn run(ctx: Arc<Context>, sender: Sender, pulse: Pulse) -> anyhow::Result<()> {
    let outlets = Outlet::all(&ctx.config.notify)?;
    let parts = Parts { ctx: &ctx, sender: &sender, pulse: &pulse };
    let each = outlets.iter().map(|outlet| parts.deliver_all(outlet));
    futures::future::try_join_all(each).await?;
    Ok(())
}

/// Waits until every notice is delivered, or until `patience` ends; false then.
pub(crate) async fn drained(ctx: &Context, patience: Duration) -> bool {
    let mut ear = ctx.bell.listen();
    let drained = async {
        loop {
            let mut is_empty = true;
            for subscription in ctx.config.notify.subscriptions() {
                // A store that cannot be asked is waited for like a receiver.
                let due = ctx.store.due_notices(subscription.receiver, END_OF_TIME, 1).await;
                is_empty &= due.is_ok_and(|due| due.is_empty());
            }
            if is_empty {
                return;
            }
            ear.heard().await;
        }
    };
    tokio::time::timeout(patience, drained).await.is_ok()
}

/// What every receiver's loop needs.
#[derive(Clone, Copy)]
struct Parts<'a> {
    ctx: &'a Context,
    sender: &'a Sender,
    pulse: &'a Pulse,
}

impl Parts<'_> {
    async fn deliver_all(self, outlet: &Outlet) -> anyhow::Result<()> {
        let Self { ctx, pulse, .. } = self;
        let mut ear = ctx.bell.listen();
        loop {
            pulse.beat();
            match ctx.store.due_notices(outlet.receiver(), clock::now(), PAGE).await {
                Ok(due) => {
                    let is_all = due.len() < PAGE;
                    for waiting in due {
                        if ctx.stop.is_cancelled() {
                            return Ok(());
                        }
                        self.deliver(outlet, waiting).await?;
                    }
                    if !is_all {
                        continue;
                    }
                }
                Err(error @ StoreError::Damaged(_)) => return Err(error.into()),
                Err(error) => tracing::warn!(%error, "notices wait for the store"),
            }
            tokio::select! {
                () = ctx.stop.cancelled() => return Ok(()),
                () = ear.heard() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn deliver(self, outlet: &Outlet, waiting: WaitingNotice) -> anyhow::Result<()> {
        let WaitingNotice { notice, attempts } = waiting;
        let message = Message::of(&notice, self.sender);
        let outcome = tokio::select! {
            outcome = outlet.deliver(&message) => outcome,
            () = stopped_for(&self.ctx.stop, STOP_WITHIN) => return Ok(()),
            // It has its own limit; who is slow to take a message is not our trouble.
            never = self.beat_on() => match never {},
        };
        let (event, batch) = (message.event(), message.batch());
        let to = outlet.name();
        let settlement = match outcome {
            Ok(_) => {
                self.settle(outlet.receiver(), &notice.id, Settlement::Done).await?;
                tracing::info!(event, batch, to, "told");
                return Ok(());
            }
            Err(why) if clock::now().since(notice.at) >= NOTICE_TTL => {
                tracing::error!(
                    event,
                    batch,
                    to,
                    why,
                    attempts,
                    "given up to tell: it is old news by now"
                );
                Settlement::Done
            }
            Err(why) => {
                let pause = pause_after(attempts);
                tracing::warn!(event, batch, to, why, attempts, again_in = ?pause, "failed to tell");
                Settlement::RetryAt(clock::now().plus(pause))
            }
        };
        self.settle(outlet.receiver(), &notice.id, settlement).await
    }

    async fn beat_on(self) -> Infallible {
        loop {
            self.pulse.beat();
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// However long the store takes: what was delivered must not be delivered again.
    async fn settle(
        self,
        receiver: Receiver,
        id: &NoticeId,
        settlement: Settlement,
    ) -> anyhow::Result<()> {
        let Self { ctx, pulse, .. } = self;
        loop {
            match ctx.store.settle_notice(receiver, id, settlement).await {
                Ok(()) => break,
                Err(error @ StoreError::Damaged(_)) => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(%error, notice = %id, "a delivered notice waits for the store");
                }
            }
            pulse.beat();
            tokio::select! {
                () = ctx.stop.cancelled() => break,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
        ctx.bell.ring();
        Ok(())
    }
}

/// Doubles from attempt to attempt.
fn pause_after(attempts: u32) -> Duration {
    let factor = 2_u32.checked_pow(attempts).unwrap_or(u32::MAX);
    NOTICE_RETRY_FIRST.saturating_mul(factor).min(NOTICE_RETRY_MAX)
}

async fn stopped_for(stop: &CancellationToken, span: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(span).await;
}
