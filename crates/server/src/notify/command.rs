//! A command that takes a message: on its standard input, and the main points in its environment.
//!
//! It is run without a shell and with the environment of the server. It has a time that its caller sets: when that is
//! over, it is killed with everything that it has started. What it leaves behind when it ends by itself is let be.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use overnight_domain::limits::NOTICE_REPLY_LEN_MAX;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::Message;

/// After a command has ended, something that it has started may still hold its output open.
const LAST_WORDS_WITHIN: Duration = Duration::from_millis(200);

/// Runs it to its end. Gives what it said, or how it failed.
pub(super) async fn run(words: &[String], message: &Message) -> Result<String, String> {
    let (program, arguments) = words.split_first().ok_or("there is no program")?;
    let mut child = Command::new(program)
        .args(arguments)
        .env("OVERNIGHT_EVENT", message.event())
        .env("OVERNIGHT_BATCH", message.batch())
        .env("OVERNIGHT_TITLE", &message.title)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("failed to start `{program}`: {error}"))?;
    let mut group = Group::of(&child);
    let (mut said, mut errors) = (Vec::new(), Vec::new());
    let status = talk(&mut child, message, (&mut said, &mut errors)).await;
    group.0 = None;
    let status = status.map_err(|error| format!("failed to wait for `{program}`: {error}"))?;
    said.append(&mut errors);
    said.truncate(NOTICE_REPLY_LEN_MAX);
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    if status.success() {
        Ok(said)
    } else {
        Err(format!("`{program}` ended with {status}: {said}").trim_end_matches([':', ' ']).to_owned())
    }
}

/// Writes the message, keeps the first words on both outputs, and waits for the end.
async fn talk(
    child: &mut Child,
    message: &Message,
    (said, errors): (&mut Vec<u8>, &mut Vec<u8>),
) -> std::io::Result<ExitStatus> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let exchange = async {
        let write = async {
            if let Some(mut stdin) = stdin {
                // A command need not read it.
                let _ = stdin.write_all(message.json().as_bytes()).await;
            }
        };
        tokio::join!(write, keep(stdout, said), keep(stderr, errors));
    };
    tokio::pin!(exchange);
    tokio::select! {
        () = &mut exchange => child.wait().await,
        status = child.wait() => {
            // What is not said by then is not heard.
            let _ = tokio::time::timeout(LAST_WORDS_WITHIN, exchange).await;
            status
        }
    }
}

/// Reads to the end, so that the command is not held up, and keeps the beginning.
async fn keep(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut piece = [0; 4 * 1024];
    while let Ok(read @ 1..) = stream.read(&mut piece).await {
        let room = NOTICE_REPLY_LEN_MAX.saturating_sub(kept.len());
        kept.extend_from_slice(&piece[..read.min(room)]);
    }
}

/// The processes of a command that has not ended. They are killed with this.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // Those that are gone already need no signal.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}
