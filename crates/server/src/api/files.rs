//! `/v1/files`: upload, list, look at, delete. The bytes themselves are served by `content.rs`.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::{Extension, Json};
use http::Uri;
use overnight_domain::file::{File, Purpose, Sha256};
use overnight_domain::ids::FileId;
use overnight_domain::limits::FILES_PAGE_MAX;
use overnight_store::{Direction, FileQuery};
use serde::Serialize;

use crate::api::auth::Caller;
use crate::api::error::{self, Result};
use crate::api::lists::{List, Query};
use crate::api::receive::{self, FilePlan, Settings};
use crate::clock;
use crate::context::Context;

/// The file on the wire.
#[derive(Debug, Serialize)]
pub(super) struct FileView {
    id: String,
    object: &'static str,
    bytes: u64,
    created_at: u64,
    expires_at: Option<u64>,
    filename: String,
    purpose: &'static str,
    /// Never anything else: clients wait for it.
    status: &'static str,
    status_details: Option<&'static str>,
    overnight: Ours,
}

#[derive(Debug, Serialize)]
struct Ours {
    sha256: Sha256,
    lines: u64,
    large: bool,
}

impl From<File> for FileView {
    fn from(file: File) -> Self {
        Self {
            id: file.id.into(),
            object: "file",
            bytes: file.len,
            created_at: file.created_at.seconds(),
            expires_at: file.expires_at.map(overnight_domain::time::UnixTime::seconds),
            filename: file.filename,
            purpose: file.purpose.as_str(),
            status: "processed",
            status_details: None,
            overnight: Ours { sha256: file.sha256, lines: file.lines, large: file.large },
        }
    }
}

/// What a deletion answers.
#[derive(Debug, Serialize)]
pub(super) struct Deletion {
    id: String,
    object: &'static str,
    deleted: bool,
}

impl Deletion {
    pub(super) fn new(id: String, object: &'static str) -> Self {
        Self { id, object, deleted: true }
    }
}

/// `POST /v1/files`
pub(super) async fn upload(
    State(ctx): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<FileView>> {
    let received = receive::receive(&ctx, &caller, request, None).await?;
    let draft = received.draft.ok_or_else(|| error::missing("file"))?;
    let settings = Settings::of(&received.fields, &caller)?;
    let checked = match settings.purpose {
        Some(purpose) => draft.check_content(purpose).map(|()| purpose),
        None => Err(error::missing("purpose")),
    };
    // Without `large` in time the limit has held, so a late one changes nothing for the file itself.
    let purpose = match checked {
        Ok(purpose) => purpose,
        Err(refusal) => {
            receive::discard(&ctx, Some(&draft)).await;
            return Err(refusal);
        }
    };
    let file = draft.into_file(&FilePlan {
        ctx: &ctx,
        caller: &caller,
        purpose,
        life: settings.life()?,
        large: settings.large,
        now: clock::now(),
    });
    ctx.store.create_file(file.clone()).await?;
    Ok(Json(file.into()))
}

/// `GET /v1/files`
pub(super) async fn list(
    State(ctx): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Json<List<FileView>>> {
    let query = Query::parse(uri.query());
    let direction = match query.one("order") {
        None | Some("desc") => Direction::NewestFirst,
        Some("asc") => Direction::OldestFirst,
        Some(other) => {
            return Err(error::invalid_value("order", other, "Supported values are: 'asc', 'desc'."));
        }
    };
    let purpose = match query.one("purpose").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(Purpose::parse(text).ok_or_else(|| {
            error::invalid_value("purpose", text, "It is no purpose that a file may have.")
        })?),
    };
    let query = FileQuery {
        purpose,
        direction,
        after: query.after(|text| FileId::parse(text).ok())?,
        limit: query.limit(1..=FILES_PAGE_MAX, FILES_PAGE_MAX)?,
    };
    let page = ctx.store.list_files(&caller.tenant, query, clock::now()).await?;
    let files = page.rows.into_iter().map(FileView::from).collect();
    Ok(Json(List::new(files, page.has_more, |file| file.id.clone())))
}

/// `GET /v1/files/{id}`
pub(super) async fn retrieve(
    State(ctx): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<FileView>> {
    Ok(Json(find(&ctx, &caller, &id).await?.into()))
}

/// `DELETE /v1/files/{id}`
pub(super) async fn delete(
    State(ctx): State<Arc<Context>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Deletion>> {
    let file = FileId::parse(&id).map_err(|_| error::no_such_file(&id))?;
    if !ctx.store.delete_file(&caller.tenant, &file, clock::now()).await? {
        return Err(error::no_such_file(&id));
    }
    ctx.bell.ring();
    Ok(Json(Deletion::new(id, "file")))
}

/// The caller's file of this name.
pub(super) async fn find(ctx: &Context, caller: &Caller, id: &str) -> Result<File> {
    let parsed = FileId::parse(id).map_err(|_| error::no_such_file(id))?;
    let file = ctx.store.file(&caller.tenant, &parsed, clock::now()).await?;
    file.ok_or_else(|| error::no_such_file(id))
}

#[cfg(test)]
mod tests;
