pub(super) mod scripted;

use clap::CommandFactory as _;

use super::view::BatchView;
use super::*;

#[test]
fn the_command_line_is_consistent() {
    Overnight::command().debug_assert();
}

#[test]
fn wrong_usage_is_seen_before_anything_is_sent() {
    for line in [
        "overnight",
        "overnight nonsense",
        "overnight submit",
        "overnight submit a.jsonl --priority 101",
        "overnight submit a.jsonl --attempts 0",
        "overnight submit a.jsonl --window soon",
        "overnight submit a.jsonl --timeout 5",
        "overnight submit a.jsonl --metadata novalue",
        "overnight submit a.jsonl --endpoint /v1/nope",
        "overnight submit a.jsonl --split 0",
        "overnight results batch_1 --follow --with-retries",
        "overnight list --status paused",
    ] {
        let error = Overnight::try_parse_from(line.split(' ')).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

const HELP_COLUMNS: usize = 100;

#[test]
fn every_command_has_help_with_an_example() {
    for command in Overnight::command().get_subcommands().filter(|command| !command.is_hide_set()) {
        assert!(command.get_about().is_some(), "{}", command.get_name());
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(after.contains("overnight "), "{} shows no example", command.get_name());
        // Longer lines are broken in their midst, where they can be.
        let is_broken = |line: &&str| line.chars().count() > HELP_COLUMNS && line.trim().contains(' ');
        let long = after.lines().find(is_broken);
        assert_eq!(long, None, "{}", command.get_name());
    }
}

#[test]
fn exit_codes_follow_the_counts() {
    let code = |status: &str, total: u64, completed: u64, failed: u64| {
        let batch: BatchView = serde_json::from_value(serde_json::json!({
            "id": "batch_1", "status": status, "endpoint": "/v1/embeddings", "input_file_id": "file-1",
            "created_at": 1, "request_counts": {"total": total, "completed": completed, "failed": failed},
        }))
        .unwrap();
        assert!(batch.is_over());
        batch.ending().code()
    };
    assert_eq!(code("completed", 3, 3, 0), 0);
    assert_eq!(code("completed", 3, 2, 1), 3);
    assert_eq!(code("cancelled", 3, 1, 2), 3);
    assert_eq!(code("failed", 0, 0, 0), 1);
    assert_eq!(code("cancelled", 0, 0, 0), 1);
    assert!(Ending::Failure > Ending::WithFailed && Ending::WithFailed > Ending::Answered);
}

#[test]
fn a_broken_pipe_is_no_failure() {
    let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    assert!(is_broken_pipe(&anyhow::Error::new(broken).context("failed to write")));
    assert!(!is_broken_pipe(&anyhow::anyhow!("something else")));
}
