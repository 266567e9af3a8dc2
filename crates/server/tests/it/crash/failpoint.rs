//! The failpoint library in front of a server: what it shall do, and what it did.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::harness::Server;

/// What happens at which operation on the disk. Operations are counted from 1, over all threads of one process.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// Everything is only noted.
    Trace,
    /// SIGKILL in its place; torn: a write is half done before.
    Kill { at: u64, torn: bool },
    /// No room from here on, until [`make_room`].
    Full { at: u64 },
    /// The n-th sync fails.
    SyncError { at: u64 },
    /// A sync of what has this in its path never returns, from [`begin_hang`] on.
    Hang { path: &'static str },
}

/// One operation of the trace.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) is_ok: bool,
}

/// The next start of the server meets this.
pub(crate) fn arm(server: &mut Server, fault: Fault) {
    for place in [mark(server), trace(server), room(server)] {
        if place.exists() {
            fs::remove_file(place).unwrap();
        }
    }
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let mut environment = vec![
        ("LD_PRELOAD".to_owned(), text(library().to_owned())),
        ("CRASH_ROOT".to_owned(), text(server.data())),
        ("CRASH_MARK".to_owned(), text(mark(server))),
        ("CRASH_LOG".to_owned(), text(trace(server))),
    ];
    let mut set = |name: &str, value: String| environment.push((name.to_owned(), value));
    match fault {
        Fault::Trace => {}
        Fault::Kill { at, torn } => {
            set("CRASH_KILL_AT", at.to_string());
            set("CRASH_TORN", u8::from(torn).to_string());
        }
        Fault::Full { at } => {
            set("CRASH_FULL_AT", at.to_string());
            set("CRASH_FULL_UNTIL", text(room(server)));
        }
        Fault::SyncError { at } => set("CRASH_EIO_AT", at.to_string()),
        Fault::Hang { path } => {
            set("CRASH_HANG", path.to_owned());
            set("CRASH_HANG_FROM", text(room(server)));
        }
    }
    server.change_environment(environment);
}

/// The next start is a plain one.
pub(crate) fn disarm(server: &mut Server) {
    server.change_environment(Vec::new());
}

/// The operation at which the fault came, if it came.
pub(crate) fn fired(server: &Server) -> Option<String> {
    let text = fs::read_to_string(mark(server)).ok()?;
    text.lines().next().map(str::to_owned)
}

pub(crate) fn make_room(server: &Server) {
    fs::write(room(server), b"").unwrap();
}

pub(crate) fn begin_hang(server: &Server) {
    fs::write(room(server), b"").unwrap();
}

/// What the last process did, in the order in which it was done.
pub(crate) fn operations(server: &Server) -> Vec<Operation> {
    let text = fs::read_to_string(trace(server)).unwrap_or_default();
    let read = |line: &str| {
        let (_, rest) = line.split_once(' ')?;
        let (name, rest) = rest.split_once(' ')?;
        let is_ok = rest.ends_with(" ok");
        Some(Operation { name: name.to_owned(), path: rest.trim_end_matches(" ok").to_owned(), is_ok })
    };
    text.lines().map(|line| read(line).unwrap_or_else(|| panic!("no operation: {line}"))).collect()
}

/// How many operations the last process made.
pub(crate) fn operation_count(server: &Server) -> u64 {
    operations(server).iter().filter(|operation| operation.name != "answer").count() as u64
}

fn mark(server: &Server) -> PathBuf {
    server.folder.path().join("fired")
}

fn trace(server: &Server) -> PathBuf {
    server.folder.path().join("operations")
}

fn room(server: &Server) -> PathBuf {
    server.folder.path().join("room")
}

/// Compiled once for each process of tests, and put in its place in one step: others may be using it.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/crash/shim.c");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let new = folder.join(format!("failpoint-{}.so", std::process::id()));
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-o"])
            .arg(&new)
            .arg(source)
            .output()
            .expect("a C compiler is there: `./check` installs one");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let library = folder.join("failpoint.so");
        fs::rename(new, &library).unwrap();
        library
    })
}
