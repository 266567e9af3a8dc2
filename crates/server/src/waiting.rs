//! Why a batch does not move, in words for people.

use overnight_domain::batch::{Batch, BatchState};

use crate::context::Context;
use crate::endpoints::{EndpointState, EndpointView};

/// Only what surely holds the batch up is said.
pub(crate) fn waiting_reason(ctx: &Context, batch: &Batch) -> Option<String> {
    if batch.state != BatchState::InProgress {
        return None;
    }
    if let Some(pause) = &batch.pause {
        return Some(format!("the batch is paused: {}", pause.reason));
    }
    if ctx.disk.is_full() {
        return Some("the disk of the server is full".to_owned());
    }
    let endpoints = ctx.endpoints.view();
    let serving: Vec<&EndpointView> = match &batch.model {
        Some(model) => endpoints.iter().filter(|endpoint| endpoint.may_serve(model)).collect(),
        None => endpoints.iter().collect(),
    };
    if serving.iter().any(|endpoint| endpoint.state == EndpointState::Up) {
        return None;
    }
    if serving.is_empty() {
        return Some(match &batch.model {
            Some(model) => format!("no endpoint serves `{model}`"),
            None => "no endpoint is known".to_owned(),
        });
    }
    let each: Vec<String> = serving
        .iter()
        .map(|endpoint| {
            let reason = endpoint.reason.as_deref().unwrap_or("it does not answer");
            format!("`{}`: {reason}", endpoint.name)
        })
        .collect();
    Some(format!("no endpoint is up; {}", each.join("; ")))
}
