//! Where tasks and threads begin. A task that nobody owns dies unseen, so each place that starts one is listed.

use crate::Violation;
use crate::source::{Source, line_at};

/// Path prefixes that may start tasks or threads, each with its reason.
const SITES: [(&str, &str); 14] = [
    ("crates/server/src/run.rs", "long tasks: the one named JoinSet"),
    ("crates/server/src/api/serve.rs", "connections and drains, owned by the socket's JoinSet"),
    ("crates/server/src/dispatch", "calls in flight, owned by the window's JoinSet"),
    ("crates/server/src/blocking.rs", "work that blocks, awaited where it starts"),
    (
        "crates/server/src/gpu/sampler.rs",
        "the thread that a driver may block, which ends with its sampler",
    ),
    ("crates/engine/src/connection.rs", "hyper's connection task, which ends with its connection"),
    (
        "crates/engine/src/child/guard.rs",
        "the thread that keeps an engine's output, in a process of its own",
    ),
    ("crates/engine-llama/src/serve.rs", "the computing thread, whose end ends the process"),
    ("crates/engine-llama/src/llama/depth.rs", "a deeper stack for one text, joined where it starts"),
    ("crates/segment/src/log.rs", "the thread that commits, joined when the log closes"),
    ("crates/segment/src/commit.rs", "the thread that commits, joined when the log closes"),
    (
        "crates/store/src/sqlite/connection.rs",
        "the thread that owns the connection, joined when the store closes",
    ),
    ("crates/sim/", "the stand-in engine, development only"),
    ("bench/", "load, development only"),
];

const STARTS: [&str; 6] =
    ["tokio::spawn", "task::spawn", "thread::spawn", "thread::Builder", "spawn_blocking", "spawn_local"];

pub(crate) fn check(source: &Source, violations: &mut Vec<Violation>) {
    if SITES.iter().any(|(prefix, _)| source.path.starts_with(prefix)) {
        return;
    }
    let named = STARTS.iter().flat_map(|start| source.code.match_indices(start));
    // A `JoinSet`'s or a runtime's; that of `std::process::Command` has no argument.
    let method = source
        .code
        .match_indices(".spawn(")
        .filter(|(offset, text)| !source.code[offset + text.len()..].trim_start().starts_with(')'));
    let mut lines: Vec<usize> =
        named.chain(method).map(|(offset, _)| line_at(&source.code, offset)).collect();
    lines.sort_unstable();
    lines.dedup();
    for line in lines.into_iter().filter(|line| !source.is_test_line(*line)) {
        let detail =
            "starts a task or thread: return a future to run.rs, or list the place here with its reason";
        violations.push(Violation::new(&source.path, line, "spawn-site", detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(path: &str, text: &str) -> Vec<usize> {
        let mut violations = Vec::new();
        check(&Source::new(path, text), &mut violations);
        violations.iter().map(|violation| violation.line).collect()
    }

    #[test]
    fn every_way_to_start_something_is_seen() {
        let text = "tokio::spawn(a);\nstd::thread::spawn(b);\nset.spawn(c);\ntokio::task::spawn_blocking(d);\nBuilder::new();\n";
        assert_eq!(lines_of("crates/server/src/api/files.rs", text), [1, 2, 3, 4]);
    }

    #[test]
    fn listed_places_tests_and_processes_may() {
        assert!(lines_of("crates/server/src/run.rs", "set.spawn(a);").is_empty());
        assert!(lines_of("crates/server/tests/it/main.rs", "tokio::spawn(a);").is_empty());
        assert!(lines_of("crates/engine/src/supervise.rs", "command.spawn()?;").is_empty());
        assert!(
            lines_of("a.rs", "#[cfg(test)]\nmod tests {\n    fn a() { tokio::spawn(b); }\n}\n")
                .is_empty()
        );
    }
}
