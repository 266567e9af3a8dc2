use overnight_domain::result::LineHead;
use uuid::Uuid;

use super::*;

fn batch() -> BatchId {
    BatchId::from_uuid(Uuid::from_u128(7))
}

/// A batch whose every tenth request failed.
struct Files {
    input: Vec<String>,
    output: Vec<String>,
    errors: Vec<String>,
}

impl Files {
    fn of(count: u32) -> Self {
        Self::failing(count, |index| index % 10 == 9)
    }

    fn failing(count: u32, fails: impl Fn(u32) -> bool) -> Self {
        let mut files = Self { input: Vec::new(), output: Vec::new(), errors: Vec::new() };
        for index in 0..count {
            let custom_id = format!("row-{index}");
            files.input.push(format!(
                "{{\"custom_id\":\"{custom_id}\",\"method\":\"POST\",\"url\":\"/v1/embeddings\",\"body\":{{}}}}\n"
            ));
            let batch = batch();
            let head = LineHead::new(&batch, RequestIndex(index), &custom_id);
            let text = |line: Vec<u8>| String::from_utf8(line).unwrap();
            if !fails(index) {
                files.output.push(text(head.answered(format!("{{\"n\":{index}}}").as_bytes())));
            } else if index.is_multiple_of(2) {
                files.errors.push(text(head.refused(400, b"no")));
            } else {
                files.errors.push(text(head.unanswered("batch_expired", "late")));
            }
        }
        files
    }

    fn proof(&self) -> Proof {
        self.proof_with(false)
    }

    fn proof_with(&self, is_together: bool) -> Proof {
        let [input, output, errors] =
            [&self.input, &self.output, &self.errors].map(|lines| lines.concat());
        let batch = batch();
        verify(Sources {
            input: &mut input.as_bytes(),
            output: Some(&mut output.as_bytes()),
            errors: (!is_together).then_some(&mut errors.as_bytes()),
            is_together,
            batch: Some(&batch),
        })
        .unwrap()
    }

    fn problems(&self) -> Vec<String> {
        let proof = self.proof();
        assert_eq!(proof.problems.count, proof.problems.listed.len() as u64);
        proof.problems.listed.iter().map(ToString::to_string).collect()
    }
}

#[test]
fn a_complete_output_is_proved() {
    let files = Files::of(1_000);
    let proof = files.proof();
    assert!(proof.holds(), "{:?}", proof.problems);
    assert_eq!((proof.total, proof.completed, proof.failed), (1_000, 900, 100));
    assert_eq!(proof.miscounts(1_000, 900, 100), Vec::<String>::new());
    assert_eq!(proof.miscounts(1_000, 901, 99).len(), 2);
}

#[test]
fn blank_lines_and_a_byte_order_mark_are_no_requests() {
    let mut files = Files::of(20);
    files.input[0].insert(0, '\u{feff}');
    files.input.insert(3, "  \r\n".to_owned());
    let last = files.input.len() - 1;
    files.input[last] = files.input[last].trim_end().to_owned();
    assert_eq!(files.problems(), Vec::<String>::new());
}

#[test]
fn a_removed_line_is_found() {
    let mut files = Files::of(100);
    files.output.remove(40);
    assert_eq!(files.problems(), ["input line 45 (`row-44`): has no result line"]);
    let mut files = Files::of(100);
    files.errors.remove(2);
    assert_eq!(files.problems(), ["input line 30 (`row-29`): has no result line"]);
    let mut files = Files::of(100);
    files.output.pop();
    assert_eq!(files.problems(), ["input line 99 (`row-98`): has no result line"]);
}

#[test]
fn a_doubled_line_is_found() {
    let mut files = Files::of(100);
    files.output.insert(6, files.output[5].clone());
    assert_eq!(files.problems(), ["output line 7 (`row-5`): its request had a line already"]);
    let mut files = Files::of(100);
    files.output.push(files.output[5].clone());
    assert_eq!(files.problems(), ["output line 91 (`row-5`): its request had a line already"]);
    let mut files = Files::of(100);
    files.errors.insert(1, files.output[12].clone());
    assert_eq!(files.problems(), ["error file line 2 (`row-13`): its request had a line already"]);
}

#[test]
fn swapped_lines_are_found() {
    for (first, second) in [(0, 1), (10, 50), (0, 89)] {
        let mut files = Files::of(100);
        files.output.swap(first, second);
        let problems = files.problems();
        assert!(
            !problems.is_empty() && problems.iter().all(|text| text.contains("order")),
            "{problems:?}"
        );
    }
    let mut files = Files::of(100);
    files.output.swap(3, 4);
    assert_eq!(files.problems(), ["output line 4 (`row-4`): not in the order of the input"]);
}

#[test]
fn an_altered_line_is_found() {
    let cases: [(&str, &str, &str); 7] = [
        ("\"id\":\"batch_req_", "\"id\":\"batch_req_f", "output line 6 (`row-5`): altered, `id`"),
        ("\"request_id\":\"", "\"request_id\":\"0", "output line 6 (`row-5`): altered, `request_id`"),
        ("\"error\":null", "\"error\":null,\"more\":1", "no result line: unknown field `more`"),
        (
            "\"status_code\":200",
            "\"status_code\":500",
            "output line 6 (`row-5`): belongs into the other file",
        ),
        ("{\"n\":5}", "[5]", "its body is no object"),
        ("{\"n\":5}", "{\"n\":5", "no result line"),
        (
            "\"error\":null",
            "\"error\":{\"code\":\"a\",\"message\":\"b\"}",
            "both an answer and an error",
        ),
    ];
    for (from, to, message) in cases {
        let mut files = Files::of(100);
        files.output[5] = files.output[5].replacen(from, to, 1);
        let problems = files.problems();
        assert!(problems.iter().any(|problem| problem.contains(message)), "{to}: {problems:?}");
    }
    let mut files = Files::of(100);
    files.output[5] = files.output[5].replace("row-5", "row-x");
    let problems = files.problems();
    assert_eq!(
        problems,
        [
            "output line 6 (`row-x`): belongs to no request near here",
            "input line 6 (`row-5`): has no result line"
        ]
        .into_iter()
        .rev()
        .collect::<Vec<_>>()
    );
}

#[test]
fn a_torn_end_is_found() {
    let mut files = Files::of(100);
    let last = files.output.len() - 1;
    files.output[last].pop();
    assert_eq!(files.problems(), ["output line 90 (`row-98`): the output ends inside a line"]);
}

#[test]
fn a_line_of_another_batch_is_found() {
    let mut files = Files::of(10);
    let other = BatchId::from_uuid(Uuid::from_u128(8));
    let line = LineHead::new(&other, RequestIndex(4), "row-4").answered(b"{}");
    files.output[4] = String::from_utf8(line).unwrap();
    assert_eq!(files.problems(), ["output line 5 (`row-4`): altered, `id` is not what it must be"]);
}

#[test]
fn an_altered_answer_is_found_by_the_manifest() {
    let files = Files::of(100);
    let proof = files.proof();
    let manifest = Manifest {
        batch: batch(),
        requests: 100,
        completed: 90,
        failed: 10,
        input_sha256: Some(proof.input_sha256),
        output_sha256: proof.output_sha256,
        error_sha256: proof.error_sha256,
        endpoints: Vec::new(),
        model: None,
    };
    assert_eq!(proof.differences(&manifest), Vec::<String>::new());
    let mut altered = files;
    altered.output[5] = altered.output[5].replace("\"n\":5", "\"n\":6");
    let proof = altered.proof();
    assert!(proof.holds(), "the line is still well-formed");
    let differences = proof.differences(&manifest);
    assert_eq!(differences.len(), 1);
    assert!(differences[0].starts_with("the output is not the one that was written"), "{differences:?}");
}

#[test]
fn together_failures_may_stand_in_the_output() {
    let files = Files::failing(50, |index| index % 7 == 3);
    let mut lines: Vec<(usize, String)> = files
        .output
        .iter()
        .chain(&files.errors)
        .map(|line| {
            let custom_id = line.split("row-").nth(1).unwrap().split('"').next().unwrap();
            (custom_id.parse().unwrap(), line.clone())
        })
        .collect();
    lines.sort();
    let output = lines.into_iter().map(|(_, line)| line).collect();
    let together = Files { input: files.input, output, errors: Vec::new() };
    let proof = together.proof_with(true);
    assert!(proof.holds(), "{:?}", proof.problems);
    assert_eq!((proof.completed, proof.failed), (43, 7));
    assert_eq!(together.proof_with(false).problems.count, 7);
}

#[test]
fn without_files_everything_is_missing() {
    let input = Files::of(3).input.concat();
    let proof = verify(Sources {
        input: &mut input.as_bytes(),
        output: None,
        errors: None,
        is_together: false,
        batch: None,
    })
    .unwrap();
    assert_eq!((proof.problems.count, proof.output_sha256), (3, None));
}

/// The line that is missing lies behind a long run of lines of the other file: the look ahead must not take the
/// lines behind the run for strays.
#[test]
fn long_runs_of_failures_confuse_nobody() {
    let mut files = Files::failing(20_000, |index| (5_000..15_000).contains(&index));
    assert!(files.proof().holds());
    files.errors.remove(3_000);
    assert_eq!(files.problems(), ["input line 8001 (`row-8000`): has no result line"]);
}

#[test]
fn memory_stays_bounded_and_a_hundred_thousand_lines_are_quick() {
    let mut files = Files::of(100_000);
    assert!(files.proof().holds());
    // Every line is wrong: the problems are counted, and only the first are kept.
    files.output = files.output.iter().map(|line| line.replace("row-", "other-")).collect();
    let proof = files.proof();
    assert_eq!(proof.problems.listed.len(), LISTED_MAX);
    assert_eq!(proof.problems.count, 90_000 * 2);
}

mod random {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
        /// Whatever is done to the lines, a proof holds only for the files as they were.
        #[test]
        fn no_change_goes_unseen(
            changes in prop::collection::vec((0_u8..4, any::<bool>(), any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..5)
        ) {
            let before = Files::failing(60, |index| index % 4 == 1);
            let mut files = Files::failing(60, |index| index % 4 == 1);
            for (kind, in_errors, at, to) in changes {
                let lines = if in_errors { &mut files.errors } else { &mut files.output };
                if lines.len() < 2 {
                    continue;
                }
                let (at, to) = (at.index(lines.len()), to.index(lines.len()));
                match kind {
                    0 => drop(lines.remove(at)),
                    1 => lines.insert(to, lines[at].clone()),
                    2 => lines.swap(at, to),
                    _ => lines[at] = lines[to].clone(),
                }
            }
            let is_same = files.output == before.output && files.errors == before.errors;
            prop_assert_eq!(files.proof().holds(), is_same);
        }
    }
}
