//! Notices that nothing moves: a batch without progress, no endpoint for work that is there.

use std::time::Instant;

use overnight_domain::batch::BatchState;
use overnight_domain::chunk::ChunkState;
use overnight_domain::notice::{Notice, NoticeEvent};
use overnight_store::BatchWithOpenChunks;

use crate::clock;
use crate::context::Context;
use crate::endpoints::EndpointState;
use crate::notify::{Bounds, Finding, Seen, Supply, Vigil};
use crate::waiting::waiting_reason;

/// Batches that are watched, from the front of the queue. What is farther behind waits for those in any case.
const WATCHED: usize = 64;

/// Looks for whoever is told.
pub(super) struct Watch {
    vigil: Vigil,
    started: Instant,
}

impl Watch {
    /// None when nobody wants to know.
    pub(super) fn new(ctx: &Context) -> Option<Self> {
        let config = &ctx.config.notify;
        let is_wanted = [NoticeEvent::NoProgress, NoticeEvent::NoEndpoint]
            .iter()
            .any(|event| config.events.contains(event));
        if !is_wanted || config.subscriptions().is_empty() {
            return None;
        }
        let bounds = Bounds {
            no_progress_after: config.no_progress_after,
            no_endpoint_after: config.no_endpoint_after,
        };
        Some(Self { vigil: Vigil::new(bounds), started: Instant::now() })
    }

    pub(super) async fn look(&mut self, ctx: &Context) -> anyhow::Result<()> {
        let live = ctx.live.view();
        let mut running = ctx.store.queue(&[BatchState::InProgress], WATCHED).await?;
        running.retain(|row| row.batch.pause.is_none());
        let tally = |row: &BatchWithOpenChunks| row.batch.tally + live.sum(&row.batch.id, &row.open);
        let seen: Vec<Seen> = running
            .iter()
            .map(|row| Seen {
                id: row.batch.id.clone(),
                done: tally(row).done(),
                is_held_up: waiting_reason(ctx, &row.batch).is_some(),
            })
            .collect();
        let now = self.started.elapsed();
        for finding in self.vigil.look(now, &seen, supply(ctx)) {
            let notice = match &finding {
                Finding::NoEndpoint { span } => {
                    let endpoints = ctx.endpoints.view().into_iter().map(|view| {
                        let reason = view.reason.unwrap_or_else(|| "it does not answer".to_owned());
                        (view.name, reason)
                    });
                    Notice::no_endpoint(endpoints, *span, running.len() as u64, clock::now())
                }
                Finding::Silent { id, span, is_behind } => {
                    let Some(row) = running.iter().find(|row| row.batch.id == *id) else { continue };
                    if *is_behind && !is_leased(ctx, row).await? {
                        self.vigil.begin_anew(now, id);
                        continue;
                    }
                    let (tally, reason) = (tally(row), waiting_reason(ctx, &row.batch));
                    let done = (tally.completed, tally.failed);
                    Notice::no_progress(&row.batch, done, *span, reason.as_deref(), clock::now())
                }
            };
            tracing::warn!(event = notice.news.event().as_str(), notice = %notice.id, "nothing moves");
            ctx.store.put_notice(notice).await?;
            self.vigil.note_told(&finding);
            ctx.bell.ring();
        }
        Ok(())
    }
}

/// Whether it is being worked on now.
async fn is_leased(ctx: &Context, row: &BatchWithOpenChunks) -> anyhow::Result<bool> {
    let chunks = ctx.store.chunks(&row.batch.id).await?;
    Ok(chunks.iter().any(|chunk| chunk.state == ChunkState::Leased))
}

fn supply(ctx: &Context) -> Supply {
    let views = ctx.endpoints.view();
    let is_any = |state| views.iter().any(|view| view.state == state);
    if is_any(EndpointState::Up) {
        Supply::SomeUp
    } else if is_any(EndpointState::Withheld) {
        Supply::HeldBack
    } else {
        Supply::NoneUp
    }
}
