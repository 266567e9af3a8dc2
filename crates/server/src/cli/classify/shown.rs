//! What is printed at the end: how many documents have which label, and how that compares with what was expected.

use std::path::Path;

use serde_json::json;

use super::super::screen::Screen;
use crate::classify::{Counts, NO_LABEL, Report, Score};

/// Wrong answers that are shown; the output has them all.
const MISTAKES_SHOWN: usize = 20;

pub(super) fn print(
    screen: Screen,
    output: &Path,
    model: Option<&str>,
    report: &Report<'_>,
    counts: &Counts,
) -> anyhow::Result<()> {
    if screen.is_json {
        let mut object = serde_json::to_value(counts)?;
        object["output"] = json!(output.to_string_lossy());
        object["model"] = json!(model);
        screen.print(&object.to_string())?;
        return Ok(());
    }
    match &counts.score {
        Some(score) => print_score(screen, report, score)?,
        None => print_labels(screen, counts)?,
    }
    for line in notes(counts, output) {
        screen.note(&line);
    }
    Ok(())
}

fn print_labels(screen: Screen, counts: &Counts) -> std::io::Result<()> {
    let line = |name: &str, count: u64| vec![name.to_owned(), count.to_string()];
    let mut lines: Vec<Vec<String>> =
        counts.labels.iter().map(|count| line(&count.label, count.documents)).collect();
    if counts.documents > counts.labelled {
        lines.push(line(NO_LABEL, counts.documents - counts.labelled));
    }
    screen.print_table(&["LABEL", "DOCUMENTS"], &lines)
}

fn print_score(screen: Screen, report: &Report<'_>, score: &Score) -> std::io::Result<()> {
    let mistakes: Vec<Vec<String>> =
        report.mistakes(MISTAKES_SHOWN).into_iter().map(Vec::from).collect();
    if !mistakes.is_empty() {
        screen.print_table(&["WRONG", "EXPECTED", "ANSWERED"], &mistakes)?;
        let more = (score.documents - score.right).saturating_sub(mistakes.len() as u64);
        if more > 0 {
            screen.print(&format!("... and {more} more"))?;
        }
        screen.print("")?;
    }
    let percent = |right, documents| {
        Score::accuracy(right, documents).map_or_else(|| "-".to_owned(), |share| format!("{share:.1} %"))
    };
    let rows: Vec<Vec<String>> = score
        .labels
        .iter()
        .map(|row| {
            let instead = row.confusions().into_iter().map(|(name, count)| format!("{name} {count}"));
            vec![
                row.label.clone(),
                row.documents.to_string(),
                row.right.to_string(),
                percent(row.right, row.documents),
                instead.collect::<Vec<_>>().join(", "),
            ]
        })
        .collect();
    screen.print_table(&["EXPECTED", "DOCUMENTS", "RIGHT", "ACCURACY", "ANSWERED INSTEAD"], &rows)?;
    screen.print(&format!(
        "accuracy {} ({} of {})",
        percent(score.right, score.documents),
        score.right,
        score.documents
    ))
}

/// Everything that somebody who trusts the table should know.
fn notes(counts: &Counts, output: &Path) -> Vec<String> {
    let mut notes = Vec::new();
    let mut say = |count: u64, text: &str| {
        if count > 0 {
            notes.push(format!("{count} {text}"));
        }
    };
    say(counts.duplicates, "are equal to another document and were not asked for again");
    say(counts.cut, "were cut to their beginning (--max-chars)");
    for (reason, count) in &counts.skipped {
        say(*count, &format!("skipped: {reason}"));
    }
    for (reason, count) in &counts.passed_over {
        say(*count, &format!("passed over: {reason}"));
    }
    say(counts.unreadable, "could not be read");
    say(counts.stray, "got an answer that is no label");
    say(
        counts.failed,
        "have no answer, their lines say why; the same command again asks for them again",
    );
    notes.push(format!(
        "`{}`: {} files, {} documents, {} with a label",
        output.display(),
        counts.files,
        counts.documents,
        counts.labelled
    ));
    notes
}
