//! A notice in words: what happened, what it means, what to do. One JSON object.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use overnight_domain::batch::BatchStatus;
use overnight_domain::ids::NoticeId;
use overnight_domain::notice::{BatchFacts, EndpointFacts, News, Notice};
use overnight_domain::time::UnixTime;
use serde::Serialize;

use crate::config::units::show_duration;

/// Who tells, as people know it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sender {
    host: String,
    /// Where it is asked. None: it is no server, but one run.
    url: Option<String>,
    /// What the run writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Message {
    /// The same at every attempt.
    id: String,
    event: &'static str,
    at: String,
    batch: Option<BatchPart>,
    /// Those that are not up, when that is the news.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    endpoints: Vec<EndpointFacts>,
    pub(super) title: String,
    text: String,
    what_to_do: String,
    server: Sender,
}

/// The batch as it was when it happened, in the words of the API.
#[derive(Debug, Clone, Serialize)]
struct BatchPart {
    id: String,
    status: BatchStatus,
    model: Option<String>,
    request_counts: Counts,
    created_at: u64,
    output_file_id: Option<String>,
    error_file_id: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
struct Counts {
    total: u64,
    completed: u64,
    failed: u64,
}

impl Sender {
    pub(crate) fn server(listen: SocketAddr) -> Self {
        let host = host();
        let url = if listen.ip().is_unspecified() {
            format!("http://{host}:{}", listen.port())
        } else {
            format!("http://{listen}")
        };
        Self { host, url: Some(url), output: None }
    }

    pub(crate) fn run(output: &Path) -> Self {
        Self { host: host(), url: None, output: Some(output.to_owned()) }
    }
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

impl Message {
    pub(crate) fn of(notice: &Notice, sender: &Sender) -> Self {
        let words = Words::of(&notice.news, notice.at, &sender.host);
        let endpoints = match &notice.news {
            News::NoEndpoint { endpoints, .. } => endpoints.clone(),
            _ => Vec::new(),
        };
        Self {
            id: notice.id.to_string(),
            event: notice.news.event().as_str(),
            at: moment(notice.at),
            batch: notice.news.batch().map(BatchPart::of),
            endpoints,
            title: words.title,
            text: words.text,
            what_to_do: match &sender.output {
                Some(output) => advice_for_run(&notice.news, output),
                None => words.what_to_do,
            },
            server: sender.clone(),
        }
    }

    /// What shows that messages arrive.
    pub(crate) fn test(id: &NoticeId, at: UnixTime, sender: &Sender) -> Self {
        Self {
            id: id.to_string(),
            event: "test",
            at: moment(at),
            batch: None,
            endpoints: Vec::new(),
            title: "Overnight can reach you".to_owned(),
            text: format!("This is a test from {}. Nothing has happened.", sender.host),
            what_to_do: "Nothing: messages about batches will arrive in the same way.".to_owned(),
            server: sender.clone(),
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn event(&self) -> &'static str {
        self.event
    }

    /// Empty when the news is of no batch.
    pub(super) fn batch(&self) -> &str {
        self.batch.as_ref().map_or("", |batch| &batch.id)
    }

    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are JSON")
    }
}

impl BatchPart {
    fn of(facts: &BatchFacts) -> Self {
        Self {
            id: facts.id.to_string(),
            status: facts.status,
            model: facts.model.clone(),
            request_counts: Counts {
                total: facts.total,
                completed: facts.completed,
                failed: facts.failed,
            },
            created_at: facts.created_at.seconds(),
            output_file_id: facts.output_file.as_ref().map(ToString::to_string),
            error_file_id: facts.error_file.as_ref().map(ToString::to_string),
        }
    }
}

struct Words {
    title: String,
    text: String,
    what_to_do: String,
}

impl Words {
    fn of(news: &News, at: UnixTime, host: &str) -> Self {
        match news {
            News::BatchEnded { batch } => Self::ended(batch, at, host),
            News::BatchPaused { batch, reason } => Self {
                title: format!("Batch paused at {} of {}", batch.completed + batch.failed, batch.total),
                text: format!(
                    "{} was paused on {host}: {reason}. Nothing more of it is sent until it is resumed; what is answered is kept.",
                    named(batch)
                ),
                what_to_do: format!(
                    "Read one refusal with `overnight failed {id}`. Correct the cause at the engine and `overnight resume {id}`, or `overnight cancel {id}` and send a corrected input.",
                    id = batch.id
                ),
            },
            News::NoProgress { batch, silent_for, reason } => {
                let span = span(*silent_for);
                let reason = match reason {
                    Some(reason) => format!("It waits because {reason}."),
                    None => "Its requests are with an engine that does not answer, or no chunk of it is being worked on.".to_owned(),
                };
                Self {
                    title: format!(
                        "No progress for {span}: batch at {} of {}",
                        batch.completed + batch.failed,
                        batch.total
                    ),
                    text: format!(
                        "{} on {host} has had no new result for {span}. {reason} It goes on by itself when answers come again; nothing is lost.",
                        named(batch)
                    ),
                    what_to_do: format!(
                        "Look at `overnight status {}` and at the engine: its log, its GPU, whether it answers. Restart it when it is stuck.",
                        batch.id
                    ),
                }
            }
            News::NoEndpoint { endpoints, down_for, unfinished_batches } => {
                let span = span(*down_for);
                let waiting = match unfinished_batches {
                    1 => "1 batch waits".to_owned(),
                    count => format!("{count} batches wait"),
                };
                let each: Vec<String> =
                    endpoints.iter().map(|end| format!("`{}`: {}", end.name, end.reason)).collect();
                Self {
                    title: format!("No engine is up: {waiting}"),
                    text: format!(
                        "No endpoint of {host} has been up for {span}, and {waiting}. {}. Work goes on by itself when one answers; no attempt is charged.",
                        each.join("; ")
                    ),
                    what_to_do: "Start the engine, or look at its log when it runs; `overnight status` of a batch says what is waited for.".to_owned(),
                }
            }
        }
    }

    fn ended(batch: &BatchFacts, at: UnixTime, host: &str) -> Self {
        let BatchFacts { id, total, completed, failed, .. } = batch;
        let took = span(at.since(batch.created_at));
        let counts = format!("{completed} of {total} requests answered, {failed} failed");
        let name = named(batch);
        let title = match batch.status {
            BatchStatus::Completed if *failed == 0 => {
                format!("Batch completed: all {total} requests answered")
            }
            BatchStatus::Completed => format!("Batch completed: {failed} of {total} requests failed"),
            BatchStatus::Failed => "Batch failed: its input cannot be used".to_owned(),
            BatchStatus::Expired => format!("Batch expired: {completed} of {total} requests answered"),
            _ => format!("Batch cancelled: {completed} of {total} requests answered"),
        };
        let mut text = match batch.status {
            BatchStatus::Completed => format!("{name} ended on {host} after {took}: {counts}."),
            BatchStatus::Failed => format!("{name} was refused on {host}; no request was sent."),
            BatchStatus::Expired => {
                format!("{name} reached its hard end on {host} after {took}: {counts}.")
            }
            _ => format!("{name} was cancelled on {host} after {took}: {counts}."),
        };
        if let Some(problem) = &batch.problem {
            // Writing to a text cannot fail.
            let _ = write!(text, " The first problem: {problem}.");
        }
        let fetch = format!("`overnight results {id} -o out.jsonl` fetches the answers.");
        let what_to_do = match batch.status {
            BatchStatus::Failed => format!(
                "`overnight status {id}` lists what is wrong, by line; correct the input and send it again."
            ),
            BatchStatus::Completed if *failed == 0 => fetch,
            BatchStatus::Completed => format!(
                "{fetch} `overnight failed {id}` says what failed and why, `overnight retry {id}` sends that again."
            ),
            _ => format!("{fetch} `overnight retry {id}` sends the rest again."),
        };
        Self { title, text, what_to_do }
    }
}

/// A run has no server that could be asked.
fn advice_for_run(news: &News, output: &Path) -> String {
    let output = output.display();
    match news {
        News::BatchEnded { batch } if batch.status == BatchStatus::Failed => {
            "The command lists what is wrong, by line; correct the input and run it again.".to_owned()
        }
        News::BatchEnded { .. } => format!("Its results are in `{output}` as soon as the command ends."),
        News::BatchPaused { .. } => format!(
            "Correct the cause at the engine. When the input is wrong, remove `{output}.overnight` and run it anew."
        ),
        News::NoProgress { .. } | News::NoEndpoint { .. } => {
            "Look at the engine: its log, its GPU, whether it answers. Start it again when it is stuck."
                .to_owned()
        }
    }
}

fn named(batch: &BatchFacts) -> String {
    match &batch.model {
        Some(model) => format!("{} ({model})", batch.id),
        None => batch.id.to_string(),
    }
}

/// In whole seconds.
fn span(span: Duration) -> String {
    show_duration(Duration::from_secs(span.as_secs()))
}

/// As RFC 3339 has it, in UTC.
fn moment(at: UnixTime) -> String {
    let millis = i64::try_from(at.millis()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).map_or_else(|_| String::new(), |at| at.to_string())
}
