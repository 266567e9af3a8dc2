//! `overnight classify`: the real command, at a server and by itself, in front of an engine that answers with the document
//! that it was sent. A document here is its own answer.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use overnight_sim::{Engine, Latency, Script, Text, When};
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Server, Setup, lines};

const LABELS: &str = "invoice,contract,other";
/// Requests in flight at an engine that has not said how many it takes.
const WINDOW: u64 = 8;

/// A folder of documents, and what was made of it beside them.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(documents: &[(&str, &[u8])]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::create_dir(folder.path("docs")).unwrap();
        for (name, content) in documents {
            folder.add(name, content);
        }
        folder
    }

    fn add(&self, name: &str, content: &[u8]) {
        let path = self.path("docs").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The command over the folder, with more arguments, in a folder of its own.
    fn classify(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_overnight"));
        command.args(["classify", "docs", "-o", "out.jsonl"]).args(arguments);
        command.env_remove("OVERNIGHT_URL").env_remove("OVERNIGHT_API_KEY");
        command.current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    /// Runs it to its end, and holds it to its exit code.
    fn run(&self, code: i32, arguments: &[&str]) -> Output {
        let ended = self.classify(arguments).output().unwrap();
        assert_eq!(ended.status.code(), Some(code), "{}", said(&ended));
        ended
    }

    fn lines(&self) -> Vec<Value> {
        lines(&fs::read(self.path("out.jsonl")).unwrap())
    }

    /// Path -> label, and `null` for none.
    fn labels(&self) -> BTreeMap<String, Value> {
        let pair = |line: Value| (line["path"].as_str().unwrap().to_owned(), line["label"].clone());
        self.lines().into_iter().map(pair).collect()
    }
}

fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{err}\n{out}")
}

fn echo() -> Script {
    Script { text: Text::Echo, ..Script::default() }
}

fn server() -> (Server, String) {
    let server = Server::with(Setup { script: echo(), ..Setup::default() });
    let url = format!("http://{}", server.address);
    (server, url)
}

fn wait_for(what: &str, child: &mut Child, mut is_there: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_there() {
        assert_eq!(child.try_wait().unwrap(), None, "the command ended before {what}");
        assert!(started.elapsed() < PATIENCE, "not reached: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Everything that may lie in a folder, at a server: each file has its line, and each different document one call.
#[test]
fn every_file_has_a_line_and_equal_documents_are_asked_once() {
    let (server, url) = server();
    let mut long = b"INVOICE ".to_vec();
    long.resize(10 << 20, b' ');
    long.extend_from_slice("\u{1F980}".as_bytes());
    let folder = Folder::new(&[
        ("invoice/1.txt", b"{\"category\":\"invoice\"}"),
        ("invoice/copy of 1, \"2\".md", b"{\"category\":\"invoice\"}"),
        ("invoice/3", b"\xef\xbb\xbf```json\n{\"category\": \" Invoice\"}\n```\n"),
        ("invoice/long.log", &long),
        ("contract/1.txt", b"contract\r\n"),
        ("contract/2.txt", b"invoice"),
        ("contract/3.txt", "a \"quoted\"\u{2028}line\\".as_bytes()),
        ("nul.bin", b"{\"category\":\"invoice\"}\0"),
        ("latin.txt", b"caf\xe9"),
        ("empty.txt", b" \n"),
        (".hidden/1.txt", b"invoice"),
    ]);
    std::os::unix::fs::symlink("/etc/hostname", folder.path("docs/link.txt")).unwrap();

    let arguments =
        ["--labels", LABELS, "--server", &url, "--csv", "out.csv", "--expected", "folders", "--json"];
    let ended = folder.run(3, &arguments);
    let counts: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let line = |name: &str| folder.lines().into_iter().find(|line| line["path"] == name).unwrap();
    let stray = "the answer is no label: `a \"quoted\"\u{2028}line\\`";
    assert_eq!(line("contract/3.txt")["error"], stray);
    assert_eq!(line("invoice/copy of 1, \"2\".md")["duplicate_of"], "invoice/1.txt");
    assert_eq!(
        (&line("invoice/long.log")["cut"], &line("invoice/1.txt")["cut"]),
        (&json!(true), &json!(false))
    );
    assert!(line("invoice/1.txt")["tokens"]["prompt"].as_u64() > Some(0));
    assert_eq!(line("nul.bin")["skipped"], "holds NUL bytes: binary, or UTF-16");
    let labels = [
        ("contract/1.txt", json!("contract")),
        ("contract/2.txt", json!("invoice")),
        ("contract/3.txt", Value::Null),
        ("empty.txt", Value::Null),
        ("invoice/1.txt", json!("invoice")),
        ("invoice/3", json!("invoice")),
        ("invoice/copy of 1, \"2\".md", json!("invoice")),
        ("invoice/long.log", json!("invoice")),
        ("latin.txt", Value::Null),
        ("nul.bin", Value::Null),
    ];
    assert_eq!(folder.labels(), labels.map(|(path, label)| (path.to_owned(), label)).into());
    assert_eq!(server.engine.calls().total, 6, "one call for each different document");

    assert_eq!(
        (&counts["documents"], &counts["duplicates"], &counts["cut"]),
        (&json!(7), &json!(1), &json!(1))
    );
    assert_eq!((&counts["labelled"], &counts["stray"]), (&json!(6), &json!(1)));
    assert_eq!(counts["passed_over"], json!({"hidden": 1, "links": 1}));
    assert_eq!((&counts["score"]["documents"], &counts["score"]["right"]), (&json!(7), &json!(5)));
    assert_eq!(counts["score"]["labels"][1]["instead"], json!({"(none)": 1, "invoice": 1}));
    let table = fs::read_to_string(folder.path("out.csv")).unwrap();
    assert!(table.contains("\n\"invoice/copy of 1, \"\"2\"\".md\",invoice,invoice,"), "{table}");

    // Said for people, and from what is known: nothing is asked again.
    let ended = folder.run(3, &["--labels", LABELS, "--server", &url, "--expected", "folders"]);
    assert!(said(&ended).contains("accuracy 71.4 % (5 of 7)"), "{}", said(&ended));
    assert!(said(&ended).contains("contract/2.txt"), "{}", said(&ended));
    assert_eq!(server.engine.calls().total, 6);
}

/// The command is killed while some calls hang. What was answered until then is not asked again.
#[test]
fn a_run_that_is_killed_goes_on_where_it_was() {
    let engine = Engine::start(echo()).unwrap();
    let (url, prompt, hanging) = (format!("{}/v1", engine.url()), 40, 4);
    let folder = Folder::new(&[]);
    for at in 0..prompt {
        folder.add(&format!("{at}.txt"), format!("{{\"category\":\"other\",\"at\":{at}}}").as_bytes());
    }
    for at in 0..hanging {
        // The first call of each is never answered.
        let text = format!("{{\"category\":\"invoice\",\"at\":\"{at} [[sim:garbage=hang,times=1]]\"}}");
        folder.add(&format!("hang-{at}.txt"), text.as_bytes());
    }
    let arguments = ["--labels", LABELS, "--engine", &url];
    let log = folder.path("log");
    let mut child = folder.classify(&arguments).stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
    let durable = format!("{prompt} of {} ", prompt + hanging);
    wait_for("all but those that hang are durable", &mut child, || {
        fs::read_to_string(&log).unwrap().contains(&durable)
    });
    kill(child);
    assert!(!folder.path("out.jsonl").exists(), "it appears when it is whole");

    // Meanwhile a document was added.
    folder.add("new.txt", b"contract");
    let ended = folder.run(0, &arguments);
    assert!(said(&ended).contains("going on where it was"), "{}", said(&ended));
    let labels = folder.labels();
    assert_eq!(labels.len(), prompt + hanging + 1);
    assert_eq!(
        (&labels["0.txt"], &labels["hang-3.txt"], &labels["new.txt"]),
        (&json!("other"), &json!("invoice"), &json!("contract"))
    );
    let calls = engine.calls();
    assert_eq!(calls.histogram.get(&1), Some(&41), "what was answered is not asked again: {calls:?}");

    // Nothing is left to do, and so no engine is needed.
    drop(engine);
    folder.run(0, &arguments);
    assert_eq!(folder.labels(), labels);
}

/// Ctrl-C waits for what is under way, and says how to go on.
#[test]
fn a_run_that_is_interrupted_says_so_and_repeats_nothing() {
    let latency = Latency::Fixed(Duration::from_millis(30));
    let engine = Engine::start(Script { latency, slots: Some(2), ..echo() }).unwrap();
    let url = format!("{}/v1", engine.url());
    let folder = Folder::new(&[]);
    for at in 0..200 {
        folder.add(&format!("{at}.txt"), format!("{{\"category\":\"other\",\"at\":{at}}}").as_bytes());
    }
    let arguments = ["--labels", LABELS, "--engine", &url];
    let mut child = folder.classify(&arguments).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("some are answered", &mut child, || engine.calls().finished >= 10);
    let interrupted = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status();
    assert!(interrupted.unwrap().success());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", said(&ended));
    assert!(said(&ended).contains("run the same command again"), "{}", said(&ended));
    let before = engine.calls().total;
    assert!(before < 200, "it was interrupted");
    folder.run(0, &arguments);
    let after = engine.calls().total;
    assert!((200..=200 + WINDOW).contains(&after), "{after} calls, {before} before the interruption");
    assert!(folder.labels().values().all(|label| label == "other"));
}

/// A round that was gone on with left tokio's handlers behind: while the folder was read after it, signals did nothing.
#[test]
fn a_signal_ends_a_command_that_reads_documents() {
    let engine = Engine::start(echo()).unwrap();
    let url = format!("{}/v1", engine.url());
    let folder =
        Folder::new(&[("1.txt", b"{\"category\":\"other\",\"why\":\"[[sim:garbage=hang,times=1]]\"}")]);
    let arguments = ["--labels", LABELS, "--engine", &url];
    let mut child = folder.classify(&arguments).stderr(Stdio::null()).spawn().unwrap();
    wait_for("it is asked", &mut child, || engine.calls().total >= 1);
    kill(child);
    // Holes take no room, and their reading takes a minute or more.
    for at in 0..3_000 {
        let hole = fs::File::create(folder.path("docs").join(format!("hole-{at}"))).unwrap();
        hole.set_len(64 << 20).unwrap();
    }
    let mut child = folder.classify(&arguments).stderr(Stdio::piped()).spawn().unwrap();
    let has_requests = || {
        let files = crate::harness::files_below(&folder.path("out.jsonl.overnight"));
        let is_of_first = |path: &PathBuf| path.ends_with("1.requests.jsonl");
        files.iter().any(is_of_first)
    };
    wait_for("the first round is done", &mut child, || !has_requests());
    let ended = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status();
    assert!(ended.unwrap().success());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", said(&ended));
}

/// An engine that refuses everything is not asked for all of it; once it is mended, the same command goes on.
#[test]
fn an_engine_that_refuses_everything_stops_the_run_until_it_is_run_again() {
    let refusing = echo().with_rule(When::Always, "status=400".parse().unwrap());
    let engine = Engine::start(refusing).unwrap();
    let url = format!("{}/v1", engine.url());
    let folder = Folder::new(&[]);
    for at in 0..1_200 {
        folder.add(&format!("{at}.txt"), format!("{{\"category\":\"other\",\"at\":{at}}}").as_bytes());
    }
    let arguments = ["--labels", LABELS, "--engine", &url];
    let ended = folder.run(1, &arguments);
    assert!(said(&ended).contains("all refused with 400"), "{}", said(&ended));
    assert!(said(&ended).contains("the same command again"), "{}", said(&ended));
    let refused = engine.calls().total;
    assert!(refused < 1_200, "{refused}");
    engine.set_script(echo());
    let ended = folder.run(3, &arguments);
    assert!(said(&ended).contains("have no answer"), "{}", said(&ended));
    // Those that were refused are asked for when the rest is done.
    folder.run(0, &arguments);
    assert!(folder.labels().values().all(|label| label == "other"));
    // The last of them may have reached the engine when the command had ended.
    let calls = engine.calls().total - 1_200;
    assert!(
        (refused..=refused + WINDOW).contains(&calls),
        "{calls} calls again, {refused} were refused"
    );
}

/// At a server the work goes on while the command is away, and there is never a second batch for it.
#[test]
fn a_command_that_is_killed_finds_its_batch_again() {
    let (server, url) = server();
    let folder = Folder::new(&[
        ("1.txt", b"{\"category\":\"invoice\",\"why\":\"[[sim:garbage=hang,times=1]]\"}"),
        ("2.txt", b"contract"),
    ]);
    let arguments = ["--labels", LABELS, "--server", &url];
    let mut child = folder.classify(&arguments).stderr(Stdio::null()).spawn().unwrap();
    wait_for("both are asked", &mut child, || server.engine.calls().total >= 2);
    let batch = noted_batch(&folder, &mut child);
    kill(child);
    // What stands in its state may also be older than the batch: the file was noted, and then it died.
    let (state, mut sent) = noted_round(&folder).unwrap();
    sent["batch"] = Value::Null;
    fs::write(&state, sent.to_string()).unwrap();
    server.post(&format!("/v1/batches/{batch}/cancel"), &json!({}));

    let ended = folder.run(3, &arguments);
    let batches = server.get("/v1/batches").unwrap().json();
    assert_eq!(batches["data"].as_array().unwrap().len(), 1, "{}", said(&ended));
    assert_eq!(folder.labels()["2.txt"], "contract");
    let lines = folder.lines();
    assert!(lines[0]["error"].as_str().unwrap().contains("batch_cancelled"), "{lines:?}");

    // What had no answer is asked for the next time, and only that.
    folder.run(0, &arguments);
    assert_eq!(folder.labels()["1.txt"], "invoice");
    assert_eq!(server.get("/v1/batches").unwrap().json()["data"].as_array().unwrap().len(), 2);
    assert_eq!(server.engine.calls().total, 3);

    // The next round names where the first one was.
    folder.add("3.txt", b"other [[sim:garbage=hang,times=1]]");
    let mut child = folder.classify(&arguments).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the third is asked", &mut child, || server.engine.calls().total >= 4);
    noted_batch(&folder, &mut child);
    kill(child);
    let ended = folder.run(1, &["--labels", LABELS, "--server", "http://127.0.0.1:1"]);
    assert!(said(&ended).contains(&format!("--server {url}")), "{}", said(&ended));
    let ended = folder.run(1, &["--labels", LABELS, "--local"]);
    assert!(said(&ended).contains(&format!("--server {url}")), "{}", said(&ended));
}

/// The newest `N.round.json` of the only question, and what stands in it.
fn noted_round(folder: &Folder) -> Option<(PathBuf, Value)> {
    let files = crate::harness::files_below(&folder.path("out.jsonl.overnight"));
    let rounds = files.into_iter().filter(|path| path.to_string_lossy().ends_with(".round.json"));
    let newest = rounds.max()?;
    let sent = serde_json::from_slice(&fs::read(&newest).ok()?).ok()?;
    Some((newest, sent))
}

/// The batch of the newest round. The command notes it after the server has created it: the engine may be asked before.
fn noted_batch(folder: &Folder, child: &mut Child) -> String {
    let mut batch = None;
    wait_for("its batch is noted", child, || {
        batch = noted_round(folder).and_then(|(_, sent)| Some(sent["batch"].as_str()?.to_owned()));
        batch.is_some()
    });
    batch.unwrap()
}

#[test]
fn a_batch_that_the_server_has_lost_is_sent_again() {
    let (server, url) = server();
    let folder = Folder::new(&[("1.txt", b"invoice [[sim:garbage=hang,times=1]]"), ("2.txt", b"other")]);
    let arguments = ["--labels", LABELS, "--server", &url];
    let mut child = folder.classify(&arguments).stderr(Stdio::null()).spawn().unwrap();
    wait_for("it is asked", &mut child, || server.engine.calls().total >= 2);
    let batch = noted_batch(&folder, &mut child);
    kill(child);
    let (state, mut sent) = noted_round(&folder).unwrap();
    let gone: String = batch.trim_start_matches("batch_").chars().rev().collect();
    sent["batch"] = json!(format!("batch_{gone}"));
    fs::write(&state, sent.to_string()).unwrap();
    let ended = folder.run(3, &arguments);
    assert!(said(&ended).contains("does not know batch_"), "{}", said(&ended));
    assert_eq!(folder.labels()["2.txt"], "other");
}

/// Results are kept for a while only, and can be deleted. Every later run failed for want of them.
#[test]
fn a_batch_whose_results_are_gone_is_sent_again() {
    let (server, url) = server();
    let folder = Folder::new(&[("1.txt", b"invoice [[sim:garbage=hang,times=1]]"), ("2.txt", b"other")]);
    let arguments = ["--labels", LABELS, "--server", &url];
    let mut child = folder.classify(&arguments).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the second is answered", &mut child, || server.engine.calls().finished >= 1);
    let batch = noted_batch(&folder, &mut child);
    kill(child);
    server.post(&format!("/v1/batches/{batch}/cancel"), &json!({}));
    let batch = server.wait_for_end_of(&batch);
    for file in ["output_file_id", "error_file_id"].iter().filter_map(|member| batch[member].as_str()) {
        let path = format!("/v1/files/{file}");
        assert_eq!(server.call("DELETE", &path, &[], b"").unwrap().status, 200, "{batch}");
    }
    let ended = folder.run(3, &arguments);
    assert!(said(&ended).contains(&format!("does not know {}", batch["id"].as_str().unwrap())));
    assert_eq!(folder.labels()["2.txt"], "other");
}

#[test]
fn other_labels_and_other_models_begin_anew_and_the_first_answers_are_kept() {
    let engine =
        Engine::start(Script { models: vec!["small".to_owned(), "large".to_owned()], ..echo() })
            .unwrap();
    let url = format!("{}/v1", engine.url());
    let folder = Folder::new(&[("1.txt", b"invoice"), ("2.txt", b"other")]);
    let with = |labels: &str, more: &[&str]| -> Vec<String> {
        let fixed = ["--labels", labels, "--engine", &url];
        fixed.iter().chain(more).map(|text| (*text).to_owned()).collect()
    };
    let run = |code, labels: &str, more: &[&str]| {
        let arguments = with(labels, more);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        said(&folder.run(code, &arguments))
    };
    let text = run(1, LABELS, &[]);
    assert!(text.contains("2 models are served, so name one with --model: large, small"), "{text}");
    run(0, LABELS, &["--model", "small"]);
    assert_eq!(engine.calls().total, 2);
    // The model of last time stands.
    run(0, LABELS, &[]);
    assert_eq!(engine.calls().total, 2);

    let text = run(3, "invoice,contract", &["--model", "small"]);
    assert!(text.contains("beginning anew"), "{text}");
    assert_eq!((engine.calls().total, &folder.labels()["2.txt"]), (4, &Value::Null));
    let text = run(0, LABELS, &["--model", "large"]);
    assert!(text.contains("last time the model was `small`: beginning anew"), "{text}");
    assert_eq!(engine.calls().total, 6);
    run(0, LABELS, &["--model", "small"]);
    assert_eq!((engine.calls().total, &folder.labels()["2.txt"]), (6, &json!("other")));
    assert!(!folder.path("out.jsonl.overnight/run.json").exists());

    // That of last time is served no more.
    engine.set_script(Script { models: vec!["tiny".to_owned()], ..echo() });
    folder.add("3.txt", b"contract");
    let text = run(1, LABELS, &[]);
    assert!(text.contains("last time it was `large`: name another with --model"), "{text}");
    let text = run(1, LABELS, &["--model", "small"]);
    assert!(text.contains("nothing was sent") && !text.contains("last time it was"), "{text}");
    run(0, LABELS, &["--model", "tiny"]);
    assert_eq!((engine.calls().total, &folder.labels()["3.txt"]), (9, &json!("contract")));
}

/// A server or a machine without engines serves a toy. Whoever did not name it shall not get its labels with exit code 0.
#[test]
fn the_demo_model_is_not_chosen_for_labels_that_it_has_not_learned() {
    let demo = Engine::start(Script { models: vec!["demo".to_owned()], ..echo() }).unwrap();
    let engines =
        format!("[[engine]]\nname = \"demo\"\nkind = \"openai\"\nurl = \"{}/v1\"\n", demo.url());
    let server = Server::with(Setup { engines: Some(engines.clone()), ..Setup::default() });
    let url = format!("http://{}", server.address);
    let folder = Folder::new(&[("1.txt", b"other")]);
    fs::write(folder.path("demo.toml"), engines).unwrap();
    for place in [["--server", &url], ["--config", "demo.toml"]] {
        let ended = folder.run(1, &[&place[..], &["--labels", "urgent,other"]].concat());
        for text in ["a toy", "`urgent`", "or say --model demo"] {
            assert!(said(&ended).contains(text), "{text}: {}", said(&ended));
        }
        assert!(!folder.path("out.jsonl").exists());
        folder.run(0, &[&place[..], &["--labels", "urgent,other", "--model", "demo"]].concat());
        folder.run(0, &[&place[..], &["--labels", LABELS]].concat());
        fs::remove_file(folder.path("out.jsonl")).unwrap();
        fs::remove_dir_all(folder.path("out.jsonl.overnight")).unwrap();
    }
}

/// Whoever may not send batches of any size gets there in several.
#[test]
fn what_the_server_allows_is_enough() {
    let setup = Setup {
        script: echo(),
        settings:
            "[limits]\nrequests_per_batch = 3\n[[key]]\nname = \"guest\"\nvalue = \"env:GUEST_KEY\""
                .to_owned(),
        environment: vec![("GUEST_KEY".to_owned(), "sk-guest-0123456789".to_owned())],
        ..Setup::default()
    };
    let server = Server::with(setup);
    let url = format!("http://{}", server.address);
    let folder = Folder::new(&[]);
    for at in 0..7 {
        folder.add(&format!("{at}.txt"), format!("{{\"category\":\"other\",\"at\":{at}}}").as_bytes());
    }
    let ended = folder.run(1, &["--labels", LABELS, "--server", &url]);
    assert!(said(&ended).contains("OVERNIGHT_API_KEY"), "{}", said(&ended));
    let mut command = folder.classify(&["--labels", LABELS]);
    command.env("OVERNIGHT_API_KEY", "sk-guest-0123456789").env("OVERNIGHT_URL", &url);
    let ended = command.output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", said(&ended));
    assert!(folder.labels().values().all(|label| label == "other"));
    assert_eq!(server.engine.calls().total, 7);
    let headers = [("Authorization", "Bearer sk-guest-0123456789")];
    let batches = server.call("GET", "/v1/batches", &headers, b"").unwrap().json();
    let counts =
        batches["data"].as_array().unwrap().iter().map(|batch| &batch["request_counts"]["total"]);
    assert_eq!(counts.collect::<Vec<_>>(), [1, 3, 3]);
}

#[test]
fn what_is_typed_wrongly_is_said_before_anything_is_asked() {
    let folder = Folder::new(&[("invoice/1.txt", b"invoice"), ("misc/2.txt", b"other")]);
    fs::write(folder.path("expected.csv"), "invoice/1.txt,recipe\n").unwrap();
    fs::write(folder.path("labels.txt"), "# the labels\ninvoice: asks for money\nother\n").unwrap();
    fs::write(folder.path("mine.txt"), "precious").unwrap();
    let here = ["--engine", "http://127.0.0.1:1/v1"];
    for (arguments, text) in [
        (&["--labels", "invoice"][..], "at least two"),
        (&["--labels", "a,b,A"], "stands there twice"),
        (&["--labels-file", "none.txt"], "failed to read `none.txt`"),
        (&["--labels", LABELS, "--expected", "folders"], "the folders `misc` are none of the labels"),
        (&["--labels-file", "labels.txt", "--expected", "expected.csv"], "expects `recipe`"),
        (&["--labels", LABELS, "--csv", "mine.txt"], "`mine.txt` exists and is not of this command"),
        (
            &["--labels", LABELS, "--server", "http://127.0.0.1:1"],
            "--server leaves the engines to the server",
        ),
        (&["--labels", LABELS, "-o", "mine.txt"], "unexpected"),
        (&["--labels", LABELS, "--csv", "docs/../out.jsonl"], "is the output; name another"),
        (&["--labels-file", "labels.txt", "--csv", "./labels.txt"], "is the file of the labels"),
    ] {
        let mut command = folder.classify(&[]);
        if arguments.contains(&"-o") {
            command = Command::new(env!("CARGO_BIN_EXE_overnight"));
            command.current_dir(folder.0.path()).args(["classify", "docs"]);
        }
        let ended = command.args(arguments).args(here).output().unwrap();
        let text =
            if text == "unexpected" { "`mine.txt` exists and is not of this command" } else { text };
        assert_eq!(ended.status.code(), Some(1), "{}", said(&ended));
        assert!(said(&ended).contains(text), "{text}: {}", said(&ended));
    }
    assert!(!folder.path("out.jsonl").exists());
    let mut command = Command::new(env!("CARGO_BIN_EXE_overnight"));
    command.args(["classify", "docs", "--labels", LABELS, "-o", "mine.txt"]);
    let ended = command.current_dir(folder.0.path()).args(here).output().unwrap();
    assert!(said(&ended).contains("`mine.txt` exists and is not of this command"), "{}", said(&ended));
    assert_eq!(fs::read_to_string(folder.path("mine.txt")).unwrap(), "precious");
    for usage in
        [&[][..], &["--labels", "a,b", "--labels-file", "c"], &["--labels", "a,b", "--max-chars", "0"]]
    {
        folder.run(2, usage);
    }
    let ended = Command::new(env!("CARGO_BIN_EXE_overnight"))
        .args(["classify", "nowhere", "--labels", LABELS, "-o", "x.jsonl"])
        .current_dir(folder.0.path())
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(said(&ended).contains("failed to find `nowhere`"), "{}", said(&ended));
    assert!(!folder.path("x.jsonl.overnight").exists());
}

#[test]
fn a_server_that_is_named_and_not_there_is_no_reason_to_do_without() {
    let folder = Folder::new(&[("1.txt", b"invoice")]);
    let ended = folder.run(1, &["--labels", LABELS, "--server", "http://127.0.0.1:1"]);
    assert!(said(&ended).contains("no server answers at http://127.0.0.1:1"), "{}", said(&ended));
}

#[test]
fn a_folder_without_documents_is_an_empty_answer() {
    let folder = Folder::new(&[("a.png", b"\x89PNG\r\n\x1a\n\0")]);
    // Nobody is asked, so nobody has to be there.
    let ended = folder.run(0, &["--labels", LABELS, "--server", "http://127.0.0.1:1"]);
    assert!(said(&ended).contains("1 files, 0 documents"), "{}", said(&ended));
    assert_eq!(folder.lines().len(), 1);
    fs::remove_file(folder.path("docs/a.png")).unwrap();
    folder.run(0, &["--labels", LABELS, "--server", "http://127.0.0.1:1"]);
    assert!(folder.lines().is_empty());
}

/// The output lies in the folder of documents, as does everything else.
#[test]
fn what_the_command_writes_is_no_document() {
    let engine = Engine::start(echo()).unwrap();
    let url = format!("{}/v1", engine.url());
    let folder = Folder::new(&[("1.txt", b"invoice")]);
    fs::write(folder.path("docs/labels.txt"), "invoice\nother\n").unwrap();
    let run = || {
        let ended = Command::new(env!("CARGO_BIN_EXE_overnight"))
            .args(["classify", ".", "--labels-file", "labels.txt", "-o", "out.jsonl", "--csv", "t.csv"])
            .args(["--engine", &url])
            .current_dir(folder.path("docs"))
            .output()
            .unwrap();
        assert_eq!(ended.status.code(), Some(0), "{}", said(&ended));
        lines(&fs::read(folder.path("docs/out.jsonl")).unwrap())
    };
    let first = run();
    assert_eq!(first.len(), 1, "{first:?}");
    assert_eq!(run(), first);
    assert_eq!(engine.calls().total, 1);
    assert!(Path::new(&folder.path("docs/t.csv")).exists());
}
