//! One batch without a server: `overnight run`.
//!
//! The same ingest, dispatch and finalize as a server's, over a state folder of its own beside the output. What was
//! begun is in the store of that folder, so that running it again goes on where it was.

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use overnight_domain::batch::{Batch, BatchMoments, BatchOptions, BatchState};
use overnight_domain::file::{File, Purpose, Sha256};
use overnight_domain::ids::{BatchId, BlobKey, FileId, TenantId};
use overnight_domain::limits::DISK_HELD_BACK;
use overnight_domain::route::Route;
use overnight_domain::tally::Tally;
use overnight_store::{Admission, AdmissionRefusal, BatchPatch, BatchQuery, Created};
use sha2::Digest as _;
use tokio_util::sync::CancellationToken;

use crate::blocking::blocking;
use crate::context::Context;
use crate::results::index::{FAILED_LEN, FailedEntry, HEADER_LEN, IndexHeader};
use crate::results::manifest::{self, Manifest};
use crate::run::Node;
use crate::verify::RunRecord;
use crate::whole::write_whole;
use crate::{clock, disk, notify};

/// How much of the input is read at once.
const PIECE_LEN: usize = 1 << 20;
/// What people are told of room in.
const MIB: u64 = 1 << 20;
/// The window of a batch that nobody waits for with a deadline.
const WINDOW: &str = "24h";

/// What the state folder of an output is called, after it.
pub(crate) const STATE_SUFFIX: &str = ".overnight";

/// Where the state of an output lies.
pub(crate) fn state_folder(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(STATE_SUFFIX);
    PathBuf::from(name)
}

pub(crate) struct OneBatch {
    node: Node,
    ctx: Arc<Context>,
    id: BatchId,
    /// It had been begun before.
    pub(crate) is_resumed: bool,
}

/// How far it is.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    pub(crate) batch: Batch,
    /// What is durable.
    pub(crate) tally: Tally,
}

/// Where results go.
#[derive(Debug, Clone)]
pub(crate) struct Targets {
    pub(crate) input: PathBuf,
    pub(crate) output: PathBuf,
    /// None: error lines stand in the output.
    pub(crate) errors: Option<PathBuf>,
}

impl OneBatch {
    /// Begins the batch, or goes on with the one that was begun here. An input that changed meanwhile is refused.
    pub(crate) async fn begin(node: Node, input: &Path, options: BatchOptions) -> anyhow::Result<Self> {
        let ctx = node.ctx.clone();
        let tenant = TenantId::default();
        let query = BatchQuery { states: Vec::new(), after: None, limit: 2 };
        let known = ctx.store.list_batches(&tenant, query).await?.rows.into_iter().next();
        if let Some(known) = known {
            let file = ctx.store.file(&tenant, &known.batch.input_file, clock::now()).await?;
            let begun_with =
                file.context("the state folder has lost its input; remove it and run again")?.sha256;
            refuse_changed(input, begun_with)?;
            if known.batch.pause.is_some() {
                // Whoever runs it again was told why it stopped.
                let patch = BatchPatch { pause: Some(None), ..BatchPatch::default() };
                ctx.store.update_batch(&tenant, &known.batch.id, patch, clock::now()).await?;
                ctx.bell.ring();
            }
            return Ok(Self { node, ctx, id: known.batch.id, is_resumed: true });
        }
        let route = first_route(input)?;
        let failed =
            || format!("failed to take `{}` into `{}`", input.display(), ctx.config.data.display());
        let file = store_input(&ctx, input).await.with_context(failed)?;
        let id = match create(&ctx, &file, route, options).await {
            Ok(id) => id,
            Err(error) => {
                // The next attempt takes it in anew, and room may be what is missing.
                ctx.store.delete_file(&tenant, &file.id, clock::now()).await?;
                ctx.blobs.delete(&file.blob).await?;
                return Err(error.context(failed()));
            }
        };
        ctx.bell.ring();
        Ok(Self { node, ctx, id, is_resumed: false })
    }

    pub(crate) fn stop(&self) -> CancellationToken {
        self.ctx.stop.clone()
    }

    pub(crate) async fn progress(&self) -> anyhow::Result<Progress> {
        let live = self.ctx.live.view();
        let found = self.ctx.store.batch(&TenantId::default(), &self.id).await?;
        let found = found.context("the batch is gone from the state folder")?;
        let tally = found.batch.tally + live.sum(&self.id, &found.open);
        Ok(Progress { batch: found.batch, tally })
    }

    /// Why nothing moves: no endpoint is in use.
    pub(crate) fn waiting_reason(&self) -> Option<String> {
        self.ctx.endpoints.why_none_is_up()
    }

    /// Waits until whoever is told has been told everything; false when that took too long.
    pub(crate) async fn told(&self, patience: Duration) -> bool {
        notify::drained(&self.ctx, patience).await
    }

    /// Ends what runs; the state stays.
    pub(crate) async fn finish(self) -> anyhow::Result<()> {
        self.ctx.stop.cancel();
        self.node.finish().await
    }

    /// Writes the results of the ended batch whole, and what proves them.
    pub(crate) async fn write(&self, targets: &Targets, batch: &Batch) -> anyhow::Result<RunRecord> {
        let key = manifest::blob(&batch.id);
        let files = Files::of(&self.ctx, batch).await?;
        let manifest = std::fs::read(self.ctx.config.blobs.join(key.as_str()))
            .context("failed to read the manifest in the state folder")?;
        let mut manifest: Manifest = serde_json::from_slice(&manifest)?;
        let targets = targets.clone();
        let cut_short = batch.tally.usage.cut_short;
        blocking(move || -> anyhow::Result<RunRecord> {
            if let Some(errors) = &targets.errors {
                Files::copy(files.output.as_deref(), &targets.output)?;
                Files::copy(files.error.as_deref(), errors)?;
            } else {
                manifest.output_sha256 = Some(files.merge(&targets.output)?);
                manifest.error_sha256 = None;
            }
            let absolute = |path: &Path| std::path::absolute(path);
            Ok(RunRecord {
                input: absolute(&targets.input)?,
                output: absolute(&targets.output)?,
                errors: targets.errors.as_deref().map(absolute).transpose()?,
                cut_short,
                manifest,
            })
        })
        .await
    }
}

/// The first line names the route that all lines must name.
pub(crate) fn first_route(input: &Path) -> anyhow::Result<Route> {
    let file =
        std::fs::File::open(input).with_context(|| format!("failed to read `{}`", input.display()))?;
    let mut first = String::new();
    let mut reader = BufReader::new(file.take(overnight_domain::limits::REQUEST_LEN_MAX));
    while first.trim().is_empty() {
        first.clear();
        if reader.read_line(&mut first).with_context(|| format!("`{}` is no text", input.display()))?
            == 0
        {
            anyhow::bail!("`{}` has no request", input.display());
        }
    }
    let line: serde_json::Value = serde_json::from_str(first.trim_start_matches('\u{feff}').trim())
        .with_context(|| format!("the first line of `{}` is no JSON", input.display()))?;
    let url = line.get("url").and_then(serde_json::Value::as_str).unwrap_or_default();
    Route::parse(url).with_context(|| {
        let known: Vec<&str> = Route::ALL.into_iter().map(Route::path).collect();
        format!(
            "the first line of `{}` has the url `{url}`; supported are {}",
            input.display(),
            known.join(", ")
        )
    })
}

/// An input that is not the one of which this is the digest.
pub(crate) fn refuse_changed(input: &Path, begun_with: Sha256) -> anyhow::Result<()> {
    let mut file =
        std::fs::File::open(input).with_context(|| format!("failed to read `{}`", input.display()))?;
    let mut hash = sha2::Sha256::new();
    let mut piece = vec![0; PIECE_LEN];
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            break;
        }
        hash.update(&piece[..read]);
    }
    anyhow::ensure!(
        Sha256(hash.finalize().into()) == begun_with,
        "`{}` is not what this run was begun with; restore it, choose another output, or remove the state folder to \
         begin anew",
        input.display()
    );
    Ok(())
}

/// Takes the input in: nothing that happens to the file from now on changes the batch.
async fn store_input(ctx: &Context, input: &Path) -> anyhow::Result<File> {
    use tokio::io::AsyncReadExt as _;
    let id = FileId::from_uuid(clock::new_id());
    let blob = BlobKey::new(format!("files/{id}"));
    let mut source = tokio::fs::File::open(input).await?;
    let mut writer = ctx.blobs.write(&blob).await?;
    let mut piece = vec![0; PIECE_LEN];
    let mut lines = 0;
    loop {
        let read = source.read(&mut piece).await?;
        if read == 0 {
            break;
        }
        lines += memchr::memchr_iter(b'\n', &piece[..read]).count() as u64;
        writer.push(&piece[..read]).await?;
    }
    let written = writer.finish().await?;
    let name = input.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = File {
        id,
        tenant: TenantId::default(),
        filename: name,
        purpose: Purpose::Batch,
        len: written.len,
        lines: lines + 1,
        sha256: written.sha256,
        blob,
        created_at: clock::now(),
        expires_at: None,
        large: true,
    };
    ctx.store.create_file(file.clone()).await?;
    Ok(file)
}

async fn create(
    ctx: &Context,
    file: &File,
    route: Route,
    options: BatchOptions,
) -> anyhow::Result<BatchId> {
    let now = clock::now();
    let id = BatchId::from_uuid(clock::new_id());
    let batch = Batch {
        id: id.clone(),
        tenant: file.tenant.clone(),
        route,
        input_file: file.id.clone(),
        input_blob: file.blob.clone(),
        input_len: file.len,
        completion_window: WINDOW.to_owned(),
        metadata: None,
        options,
        parent: None,
        model: None,
        state: BatchState::Validating,
        moments: BatchMoments::new(now, now.plus(Duration::from_secs(86_400))),
        pause: None,
        errors: Vec::new(),
        plan_blob: None,
        total: 0,
        tally: Tally::default(),
        output_file: None,
        error_file: None,
        reserved_len: disk::reservation(file.lines, file.len),
    };
    let admission = Admission {
        unfinished_batches_max: u64::MAX,
        queued_requests_max: u64::MAX,
        expected_requests: file.lines,
        disk_free: ctx.disk.promisable(),
    };
    match ctx.store.create_batch(batch, admission, None).await? {
        Created::New | Created::Existing(_) => Ok(id),
        Created::Refused(AdmissionRefusal::Disk { needed, free }) => anyhow::bail!(
            "its plan, results and output may need {} MiB of disk, and {} are free beside the {} that are held back for \
             the system; make room, or let the output be on another disk",
            needed.div_ceil(MIB),
            free / MIB,
            DISK_HELD_BACK / MIB
        ),
        Created::Refused(refusal) => anyhow::bail!("the store has refused it: {refusal:?}"),
    }
}

/// The files of an ended batch, where they lie in the state folder.
struct Files {
    output: Option<PathBuf>,
    error: Option<PathBuf>,
    index: PathBuf,
    total: u64,
}

impl Files {
    async fn of(ctx: &Context, batch: &Batch) -> anyhow::Result<Self> {
        let mut paths = [None, None];
        for (path, id) in paths.iter_mut().zip([&batch.output_file, &batch.error_file]) {
            if let Some(id) = id {
                let file = ctx.store.file(&batch.tenant, id, clock::now()).await?;
                let file = file.context("the state folder has lost the results")?;
                *path = Some(ctx.config.blobs.join(file.blob.as_str()));
            }
        }
        let index = ctx.config.blobs.join(crate::results::index_blob(&batch.id).as_str());
        let [output, error] = paths;
        Ok(Self { output, error, index, total: batch.total })
    }

    fn copy(from: Option<&Path>, to: &Path) -> anyhow::Result<()> {
        write_whole(to, |out| {
            if let Some(from) = from {
                io::copy(&mut BufReader::with_capacity(PIECE_LEN, std::fs::File::open(from)?), out)?;
            }
            Ok(())
        })
        .map(|_| ())
    }

    /// Every line in input order, those of failed requests in their places. The index says which those are.
    fn merge(&self, to: &Path) -> anyhow::Result<Sha256> {
        let reader = |path: &Option<PathBuf>| -> io::Result<Option<BufReader<std::fs::File>>> {
            path.as_ref()
                .map(|path| Ok(BufReader::with_capacity(PIECE_LEN, std::fs::File::open(path)?)))
                .transpose()
        };
        let (mut output, mut error) = (reader(&self.output)?, reader(&self.error)?);
        let mut index = BufReader::with_capacity(PIECE_LEN, std::fs::File::open(&self.index)?);
        let mut header = [0; HEADER_LEN as usize];
        index.read_exact(&mut header)?;
        let header = IndexHeader::from_bytes(&header).context("the results index is damaged")?;
        io::Seek::seek(&mut index, io::SeekFrom::Start(header.failed_at(0)))?;
        let mut next_failed = || -> io::Result<Option<u64>> {
            let mut entry = [0; FAILED_LEN as usize];
            match index.read_exact(&mut entry) {
                Ok(()) => Ok(Some(u64::from(FailedEntry::from_bytes(&entry).index))),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
                Err(error) => Err(error),
            }
        };
        let mut failed = next_failed()?;
        let total = self.total;
        write_whole(to, |out| {
            let mut line = Vec::new();
            for at in 0..total {
                let is_failed = failed == Some(at);
                let source = if is_failed { &mut error } else { &mut output };
                line.clear();
                if let Some(source) = source {
                    source.read_until(b'\n', &mut line)?;
                }
                if line.is_empty() {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "a result file is cut short",
                    ));
                }
                out.write_all(&line)?;
                if is_failed {
                    failed = next_failed()?;
                }
            }
            Ok(())
        })
    }
}
