//! Every limit of Overnight, each with its reason. What a setting can change has its default here.

use std::time::Duration;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// The longest request line. A request with images in it fits; what is longer belongs into a file of its own.
pub const REQUEST_LEN_MAX: u64 = 16 * MIB;
/// The longest answer of an engine that we take.
pub const ANSWER_LEN_MAX: u64 = 16 * MIB;
/// Bodies and answers in memory together: the window waits for room in it.
pub const MEMORY_BUDGET: u64 = 256 * MIB;

/// A chunk at most: small enough that losing a lease costs little, large enough that a million requests are some
/// hundred rows.
pub const CHUNK_REQUESTS_MAX: u32 = 5_000;
pub const CHUNK_LEN_MAX: u64 = 8 * MIB;
/// A small batch is still cut into about this many chunks, so that several engines share it.
pub const CHUNKS_PER_BATCH_MIN: u64 = 8;
/// No chunk is cut smaller than this for sharing: below it the lease costs more than it gives.
pub const CHUNK_REQUESTS_MIN: u32 = 64;

/// Plan entries that are sorted in memory; more are sorted in runs on disk. 54 bytes each.
pub const PLAN_RUN_ENTRIES: usize = 1 << 19;
/// Digests of custom ids that are sorted in memory to find duplicates; more are sorted in runs on disk. 20 bytes each.
pub const CUSTOM_ID_RUN_ENTRIES: usize = 1 << 20;
/// Runs of one sort that are open at once; more are merged first.
pub const SORT_RUNS_MAX: usize = 48;
/// Different models, and different reload-forcing options, that one batch may name. They are interned while planning.
pub const MODELS_PER_BATCH_MAX: usize = 1_000;
/// Names of models and blobs at the head of a plan: a thousand models with long names fit.
pub const PLAN_TABLES_LEN_MAX: u32 = 16 << 20;
/// Longer than any sensible key; it is compared and echoed, never indexed.
pub const CUSTOM_ID_LEN_MAX: usize = 4 * 1024;
/// Problems that a rejected batch lists; the last entry says how many more there are.
pub const BATCH_ERRORS_MAX: usize = 100;

/// Group commit: how long an answer may wait for others before all are synced together.
pub const COMMIT_AFTER: Duration = Duration::from_millis(10);
pub const COMMIT_LEN: usize = MIB as usize;
/// Answers that wait for the open commit: what a crash costs beyond the requests in flight.
pub const COMMIT_BUFFER_FRAMES: usize = 4_096;
pub const COMMIT_BUFFER_LEN: usize = 2 * MIB as usize;

/// A lease outlives a few missed renewals, and a dead worker's chunk is free again within about a minute.
pub const LEASE_TTL: Duration = Duration::from_secs(60);
pub const LEASE_RENEW_EVERY: Duration = Duration::from_secs(15);
/// A chunk that was taken over this often without a new result is split.
pub const FRUITLESS_TAKEOVERS_MAX: u32 = 3;

/// Attempts of one request, unless the batch says otherwise.
pub const ATTEMPTS_DEFAULT: u32 = 5;
pub const ATTEMPTS_MAX: u32 = 100;
/// Garbage twice from different attempts is no accident: it does not use up all attempts.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(500);
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A `Retry-After` beyond this is taken for a mistake of the engine.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

/// Requests in flight at an endpoint for which nobody set a number.
pub const WINDOW_DEFAULT: u32 = 8;
pub const WINDOW_MAX: u32 = 4_096;
/// All are asked at once, ten questions each, within a second.
pub const DISCOVERY_PORTS_MAX: usize = 64;
/// Embedding inputs in one call where nobody set a number: TEI's own default, and most of what there is to gain.
pub const PACK_INPUTS_AUTO: u32 = 32;
pub const PACK_INPUTS_MAX: u32 = 2_048;
/// Tokens in one call where neither the engine nor its owner names a number: two full inputs of 8,192, TEI's default.
pub const PACK_TOKENS_AUTO: u64 = 16_384;
/// What the answer to a pack holds beside its embeddings and usage goes into each line: names and a version fit.
pub const PACK_MEMBERS_LEN_MAX: usize = 16 * KIB as usize;
/// So many packs that fail one after the other say that the engine takes less; with one bad request in a hundred, three
/// packs of 32 in a row are hit in one case of fifty, and then smaller ones are better anyway.
pub const PACKS_FAILED_MAX: u32 = 3;
/// So many refusals as busy, one after the other and each of a pack that the engine had for itself, say that the pack is
/// what it has no room for. An engine that others keep busy gets smaller packs for a while, and loses nothing by it.
pub const PACKS_BUSY_MAX: u32 = 3;
/// After so many answers more is tried again: a limit that is real costs some calls in a hundred.
pub const PACKS_ANSWERED_RECOVER: u32 = 256;
/// More than fit into the bytes of a pack.
pub const PACK_TOKENS_MAX: u32 = 1 << 20;
/// The inputs of a pack in bytes: TEI refuses bodies over 2 MB, others are wider.
pub const PACK_LEN_MAX: u64 = MIB;
/// A call is given this long before anything is known about the engine's speed: a cold model may load first.
pub const DEADLINE_FIRST: Duration = Duration::from_secs(600);
/// No deadline is shorter: a short request behind a long queue is not stuck.
pub const DEADLINE_MIN: Duration = Duration::from_secs(60);
pub const DEADLINE_MAX: Duration = Duration::from_secs(6 * 3_600);
/// The deadline is this many times the slowest latency seen lately.
pub const DEADLINE_FACTOR: u32 = 4;
/// An answer that has begun and then says nothing for so long is stuck.
pub const STALL_AFTER: Duration = Duration::from_secs(120);
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A silent connection is asked whether somebody is still there: an engine on another machine may have forgotten it while
/// ours slept, and would let us wait for the whole deadline. After about two minutes of no sign it counts as lost.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
pub const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
pub const KEEPALIVE_UNANSWERED_MAX: u32 = 4;
/// Connections were lost: how long to wait for the others to be lost too before a probe asks whether the engine is gone.
pub const DOUBT_FOR: Duration = Duration::from_millis(50);
/// Between probes of an endpoint whose circuit is open.
pub const PROBE_FIRST: Duration = Duration::from_millis(250);
pub const PROBE_MAX: Duration = Duration::from_secs(15);
/// An endpoint that is not set up for us is looked at again after this.
pub const MISCONFIGURED_RETRY: Duration = Duration::from_secs(5);

/// Starts of an engine in a row that never get ready before it is given up: five with growing pauses are no accident.
pub const ENGINE_STARTS_MAX: u32 = 5;
pub const ENGINE_BACKOFF_FIRST: Duration = Duration::from_secs(1);
pub const ENGINE_BACKOFF_MAX: Duration = Duration::from_secs(60);
/// One that was given up is tried once more after this: somebody may have freed the GPU, or corrected a file.
pub const ENGINE_GIVEN_UP_RETRY: Duration = Duration::from_secs(900);
/// An address that is taken is looked at again after this.
pub const ENGINE_BLOCKED_RETRY: Duration = Duration::from_secs(10);
/// A start takes no longer: weights of 100 GB come from a slow disk in that time.
pub const ENGINE_READY_WITHIN: Duration = Duration::from_secs(900);
/// Longer than any engine is silent while it works on a full window.
pub const ENGINE_STALL_AFTER: Duration = Duration::from_secs(600);
/// Its process runs and nobody answers at its address: a part of it has died. A probe comes at least every 15 s.
pub const ENGINE_SILENT_MAX: Duration = Duration::from_secs(60);
/// The same of the built-in engine, which answers from threads that compute nothing: a step that takes long, or a machine
/// with much to do, does not silence it. It watches its steps itself; what it cannot see is that it was stopped as a whole.
pub const BUILTIN_SILENT_MAX: Duration = Duration::from_secs(12);
/// A request may be in flight so often when its engine is ended for its memory: an engine that leaks is ended at any
/// moment, but hardly over the same request each time. Who is there a third time may be what fills it.
pub const MEMORY_ENDS_EXCUSED: u8 = 2;
/// Two engines that share a slot and have equal work change places no more often than this, or than so many loads
/// take: loading must stay a small part of the time.
pub const ENGINE_TURN_MIN: Duration = Duration::from_secs(600);
pub const ENGINE_LOADS_PER_TURN: u32 = 10;
/// It has a slot that another waits for, and nothing was in flight for so long: its work is not moving.
pub const ENGINE_TURN_IDLE: Duration = Duration::from_secs(5);
/// A call that was made just before the hold was seen shows within this.
pub const ENGINE_DRAIN_MIN: Duration = Duration::from_millis(700);
/// From the request to end to the end by force.
pub const ENGINE_STOP_GRACE: Duration = Duration::from_secs(10);
/// The same of the built-in engine, which has nothing to put in order: as long as most of its steps take.
pub const BUILTIN_STOP_GRACE: Duration = Duration::from_secs(2);
/// The same when the server stops: it fits into what is left of its own time.
pub const ENGINE_STOP_GRACE_LAST: Duration = Duration::from_secs(3);
/// What an engine of ours prints is kept in two files of this length: enough for the start of any engine, whatever floods
/// the log later.
pub const ENGINE_LOG_LEN_MAX: u64 = 16 * MIB;

/// A batch larger than this whose first outcomes are all the same refusal is paused.
pub const REFUSALS_PAUSE_BATCH_LEN: u64 = 1_000;
pub const REFUSALS_PAUSE_COUNT: u64 = 100;

/// Files open at once while finalizing.
pub const FINALIZE_FILES_MAX: usize = 64;
/// Requests in one bucket of the finalizer: 16 bytes each in memory.
pub const FINALIZE_BUCKET_REQUESTS: u64 = 1 << 20;

/// Lists of the API.
pub const FILES_PAGE_MAX: usize = 10_000;
pub const BATCHES_PAGE_MAX: usize = 100;
pub const BATCHES_PAGE_DEFAULT: usize = 20;
/// The overview: unfinished batches, ended ones, and failed requests. One refresh of the page takes milliseconds then.
pub const OVERVIEW_UNFINISHED_MAX: usize = 100;
pub const OVERVIEW_ENDED_MAX: usize = 20;
pub const OVERVIEW_FAILURES_MAX: usize = 12;
pub const RESULTS_PAGE_MAX: usize = 10_000;
pub const RESULTS_PAGE_DEFAULT: usize = 1_000;
/// A page of results ends when it holds this much, whatever its limit.
pub const RESULTS_PAGE_LEN: usize = 8 * MIB as usize;

/// Members of a JSON body that is no upload.
pub const JSON_BODY_LEN_MAX: usize = MIB as usize;
pub const METADATA_PAIRS_MAX: usize = 16;
pub const METADATA_KEY_LEN_MAX: usize = 64;
pub const METADATA_VALUE_LEN_MAX: usize = 512;
/// `expires_after.seconds` of files and outputs.
pub const EXPIRES_AFTER_SECONDS: std::ops::RangeInclusive<u64> = 3_600..=2_592_000;
pub const FILENAME_LEN_MAX: usize = 255;

/// An upload lives an hour; its parts are at most what the SDK helper sends.
pub const UPLOAD_TTL: Duration = Duration::from_secs(3_600);
pub const PART_LEN_MAX: u64 = 64 * MIB;
pub const PARTS_MAX: usize = 10_000;

/// A body that is refused is still read for so long, so that the client sees the answer and not a broken pipe.
pub const DRAIN_FOR: Duration = Duration::from_secs(30);
pub const DRAIN_LEN: u64 = 1024 * MIB;

/// A creation that repeats an earlier one within this time is that one.
pub const CREATION_KEY_TTL: Duration = Duration::from_secs(600);
/// Held back for the system when disk is promised to batches.
pub const DISK_HELD_BACK: u64 = 256 * MIB;
/// Below this nothing is accepted and nothing dispatched, until there is twice as much again.
pub const DISK_FLOOR: u64 = 64 * MIB;

pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);
pub const HEARTBEAT_UNHEALTHY_AFTER: Duration = Duration::from_secs(60);
/// First signal to exit.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(20);
/// A part of ours that does nothing for so long is stuck. A slow disk that syncs gigabytes is not; nor is one duty of
/// upkeep that is given up.
pub const STUCK_AFTER: Duration = Duration::from_secs(300);
/// Shorter, and a busy machine would end us.
pub const STUCK_AFTER_MIN: Duration = Duration::from_secs(5);
/// From the first signal to the end of the process, also when its runtime is blocked and cannot count the time itself.
pub const STOPPED_WITHIN: Duration = Duration::from_secs(45);

/// Notices that wait for one receiver. One that is down for good must not let the database grow; the oldest go.
pub const NOTICES_MAX: usize = 1_000;
/// Characters that a notice quotes of an engine's or an input's words: what a telephone shows of a message.
pub const NOTICE_WORDS_LEN_MAX: usize = 500;
/// One attempt to deliver a notice.
pub const NOTICE_TIMEOUT: Duration = Duration::from_secs(30);
/// Between attempts to deliver a notice.
pub const NOTICE_RETRY_FIRST: Duration = Duration::from_secs(1);
pub const NOTICE_RETRY_MAX: Duration = Duration::from_secs(300);
/// A notice that could not be delivered for so long is old news.
pub const NOTICE_TTL: Duration = Duration::from_secs(24 * 3_600);
/// What is kept of what a receiver says: enough for an error.
pub const NOTICE_REPLY_LEN_MAX: usize = 4 * KIB as usize;
/// A batch of which nothing was heard for so long is worth a look.
pub const NO_PROGRESS_AFTER: Duration = Duration::from_secs(600);
/// An engine that restarts is back before.
pub const NO_ENDPOINT_AFTER: Duration = Duration::from_secs(60);

/// Often enough to pause before a GPU throttles, seldom enough to cost nothing.
pub const GPU_SAMPLE_EVERY: Duration = Duration::from_secs(2);
/// A driver that takes longer for one look is said not to answer. A healthy one needs milliseconds, at its start a second.
pub const GPU_SILENT_AFTER: Duration = Duration::from_secs(10);
/// A GPU that was too hot and tells nothing any more is held so long at most: a driver that hangs must not end the night.
pub const GPU_FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// A library that is missing or refuses is tried again: a driver may be installed or reloaded meanwhile.
pub const GPU_RETRY_EVERY: Duration = Duration::from_secs(60);
/// What one machine has at most, and what one GPU is shared by, before a driver is taken to be talking nonsense.
pub const GPU_DEVICES_MAX: u32 = 64;
pub const GPU_PROCESSES_MAX: usize = 64;

/// What clients are told to wait before they come back.
pub const RETRY_AFTER_QUEUE: Duration = Duration::from_secs(30);
/// A GPU cools in less than a minute once nothing is sent to it.
pub const RETRY_AFTER_GPU: Duration = Duration::from_secs(15);
pub const RETRY_AFTER_SHUTDOWN: Duration = Duration::from_secs(5);

/// The limits of admission: they protect the owner from other clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionLimits {
    pub requests_per_batch: u64,
    pub unfinished_batches: u64,
    pub queued_requests: u64,
    pub file_len: u64,
}

impl AdmissionLimits {
    /// One person, one GPU.
    pub const DESKTOP: Self = Self {
        requests_per_batch: 50_000,
        unfinished_batches: 5,
        queued_requests: 100_000,
        file_len: 200_000_000,
    };
    /// A team's or a platform's server.
    pub const SERVER: Self = Self {
        requests_per_batch: 10_000_000,
        unfinished_batches: 10_000,
        queued_requests: 100_000_000,
        file_len: 16_000_000_000,
    };
}

/// Of the head of a GGUF file: a vocabulary of a million tokens with its merges is some 50 MiB.
pub const GGUF_HEADER_LEN_MAX: u64 = 512 * MIB;
/// Pairs in its metadata: models have some 50, those with notes of their making some 200.
pub const GGUF_KEYS_MAX: u64 = 65_536;
/// What the format allows for a key.
pub const GGUF_KEY_LEN_MAX: u64 = 65_535;
/// One text of it: chat templates are the longest, at some 20 KiB.
pub const GGUF_TEXT_LEN_MAX: u64 = 4 * MIB;
/// Keys and values that are kept, together.
pub const GGUF_KEPT_LEN_MAX: u64 = 32 * MIB;
/// Lists of numbers that are kept: one for each layer, and no model has a thousand.
pub const GGUF_LIST_KEPT_MAX: u64 = 1_024;
/// The largest models have some 2,000.
pub const GGUF_TENSORS_MAX: u64 = 262_144;

/// Files that one model may be split into: each is asked for by itself, and the largest known have some 50.
pub const MODEL_PARTS_MAX: u32 = 500;
/// From the hub to where the bytes lie there are two; more than ten is a loop.
pub const HUB_REDIRECTS_MAX: usize = 10;
/// The list of a repository's files, which is only read to name those that were meant.
pub const HUB_LIST_LEN_MAX: u64 = 8 * MIB;
/// How many of them a message names.
pub const HUB_NAMES_SHOWN: usize = 5;
/// What must have come before a cut connection counts as progress, and the patience with the hub begins anew.
pub const HUB_PROGRESS_MIN: u64 = MIB;
