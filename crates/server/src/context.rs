//! What every part of the server shares: where things are kept, and what each part tells the others.

use std::path::PathBuf;
use std::sync::Arc;

use overnight_domain::ids::WorkerId;
use overnight_domain::time::UnixTime;
use overnight_segment::LogHandle;
use overnight_store::Store;
use tokio_util::sync::CancellationToken;

use crate::bell::Bell;
use crate::blobs::Blobs;
use crate::config::Config;
use crate::counters::Counters;
use crate::disk::Disk;
use crate::endpoint_names::EndpointNames;
use crate::endpoints::Endpoints;
use crate::failures::Failures;
use crate::gpu::Gpus;
use crate::holds::Holds;
use crate::live::Live;
use crate::pace::Paces;
use crate::supervise::Supervision;

pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) blobs: Blobs,
    pub(crate) log: LogHandle,
    /// The folder of all series of segments.
    pub(crate) segments: PathBuf,
    pub(crate) worker: WorkerId,
    pub(crate) started_at: UnixTime,
    pub(crate) bell: Bell,
    pub(crate) live: Live,
    pub(crate) failures: Failures,
    pub(crate) endpoints: Endpoints,
    pub(crate) holds: Holds,
    pub(crate) gpus: Gpus,
    pub(crate) endpoint_names: EndpointNames,
    pub(crate) counters: Counters,
    pub(crate) paces: Paces,
    pub(crate) disk: Disk,
    pub(crate) supervision: Supervision,
    /// Cancelled by the first signal: nothing new is accepted or dispatched.
    pub(crate) stop: CancellationToken,
}
