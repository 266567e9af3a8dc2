//! `/v1/models`: what may be asked for, from what the endpoints have said. No endpoint is asked for it here.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;

use crate::api::error::{self, Result};
use crate::context::Context;

#[derive(Debug, Serialize)]
pub(super) struct ModelView {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: String,
}

#[derive(Debug, Serialize)]
pub(super) struct ModelList {
    object: &'static str,
    data: Vec<ModelView>,
}

/// `GET /v1/models`
pub(super) async fn list(State(ctx): State<Arc<Context>>) -> Json<ModelList> {
    let data = ctx.endpoints.models().into_iter().map(|id| view(&ctx, id)).collect();
    Json(ModelList { object: "list", data })
}

/// `GET /v1/models/{id}`, where the name may hold slashes, encoded or not.
pub(super) async fn retrieve(
    State(ctx): State<Arc<Context>>,
    Path(id): Path<String>,
) -> Result<Json<ModelView>> {
    if ctx.endpoints.models().contains(&id) {
        Ok(Json(view(&ctx, id)))
    } else {
        Err(error::no_such_model(&id))
    }
}

fn view(ctx: &Context, id: String) -> ModelView {
    ModelView {
        object: "model",
        created: ctx.started_at.seconds(),
        owned_by: ctx.endpoints.owner_of(&id).unwrap_or_else(|| "overnight".to_owned()),
        id,
    }
}

#[cfg(test)]
mod tests {
    use crate::api::harness::Harness;
    use crate::endpoints::{EndpointState, EndpointView};

    #[tokio::test]
    async fn names_with_slashes_are_found_in_both_forms() {
        let harness = Harness::new();
        harness.ctx.endpoints.publish(vec![EndpointView {
            models: Some(vec!["org/m:7b".to_owned()]),
            aliases: vec![("small".to_owned(), "org/m:7b".to_owned())],
            ..EndpointView::sample(EndpointState::Up)
        }]);
        let list = harness.get("/v1/models").await.ok();
        assert_eq!(list["object"], "list");
        assert_eq!(list["data"][0]["id"], "org/m:7b");
        assert_eq!(list["data"][1]["id"], "small");
        for model in list["data"].as_array().unwrap() {
            assert_eq!(model["object"], "model");
            assert_eq!(model["owned_by"], "gpu0");
            assert!(model["created"].is_u64());
        }
        for path in ["/v1/models/org%2Fm:7b", "/v1/models/org/m:7b"] {
            assert_eq!(harness.get(path).await.ok(), list["data"][0]);
        }
        let error = harness.get("/v1/models/none").await.refused(404);
        assert_eq!(error["code"], "model_not_found");
        assert_eq!(error["param"], "model");
    }
}
