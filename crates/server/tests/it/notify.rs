//! Telling whoever went to bed: every event reaches an address and a command, once, and at least once when the server is
//! killed at the worst moment; who does not answer delays nothing.

mod receiver;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use overnight_sim::{Latency, Script};
use serde_json::{Value, json};

use self::receiver::{Conduct, Receiver};
use crate::harness::{PATIENCE, Server, Setup, input, overnight};

const HOURS: Duration = Duration::from_secs(24 * 3_600);
/// For a server that has nothing to do but to tell who does not listen: a message is given up after 30 s, and one that
/// waited for it would be later.
const SOON: Duration = Duration::from_secs(25);

/// A command that appends each message to a file, and that file.
struct Diary(tempfile::TempDir);

impl Diary {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The setting. `script` runs in the folder, behind the append.
    fn setting(&self, script: &str) -> String {
        let folder = self.0.path().display();
        let text = format!(
            "cd {folder}\n(cat; echo) >> told\n\
             echo \"$OVERNIGHT_EVENT|$OVERNIGHT_BATCH|$OVERNIGHT_TITLE\" >> variables\n{script}\n"
        );
        fs::write(self.path("tell"), text).unwrap();
        format!("command = \"sh '{}'\"\n", self.path("tell").display())
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        // The last line may be in the middle of being written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(str::to_owned).collect()
    }

    fn messages(&self) -> Vec<Value> {
        self.lines("told").iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn server(settings: &str) -> Server {
    Server::with(Setup { settings: format!("[notify]\n{settings}"), ..Setup::default() })
}

fn url(receiver: &Receiver) -> String {
    format!("url = \"{}/hook?token=secret-1\"\n", receiver.url())
}

fn create(server: &Server, content: &[u8]) -> String {
    server.create(&server.upload(content))
}

fn small_batch(server: &Server) -> String {
    create(server, &input(3, |at| format!("question {at}")))
}

fn wait(server: &Server, what: &str, is_there: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_there() {
        assert!(started.elapsed() < PATIENCE, "not reached: {what}\n{}", server.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn name(message: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&message["event"]), text(&message["batch"]["id"]))
}

/// How often each event of each batch was told.
fn counts(messages: &[Value]) -> BTreeMap<(String, String), usize> {
    let mut counts = BTreeMap::new();
    for message in messages {
        *counts.entry(name(message)).or_default() += 1;
    }
    counts
}

fn once(events: &[(&str, &str)]) -> BTreeMap<(String, String), usize> {
    events.iter().map(|(event, batch)| (((*event).to_owned(), (*batch).to_owned()), 1)).collect()
}

/// Waits until both were told of the event.
fn wait_for_both(server: &Server, receiver: &Receiver, diary: &Diary, event: (&str, &str)) {
    let event = (event.0.to_owned(), event.1.to_owned());
    wait(server, &event.0, || receiver.messages().iter().any(|message| name(message) == event));
    wait(server, &event.0, || diary.messages().iter().any(|message| name(message) == event));
}

#[test]
fn every_end_and_every_pause_is_told_once() {
    let (receiver, diary) = (Receiver::start(), Diary::new());
    let headers = "headers = { X-Night = \"watch\" }\n";
    let server = server(&format!("{}{headers}{}", url(&receiver), diary.setting("echo thanks")));
    let completed = small_batch(&server);
    server.wait_for_end_of(&completed);
    let prompts = ["fine", "[[sim:status=400,code=too_rude]]"];
    let with_failed = create(&server, &input(2, |at| prompts[at].to_owned()));
    server.wait_for_end_of(&with_failed);
    let failed = create(&server, b"{\"custom_id\": \"a\"}\n");
    server.wait_for_end_of(&failed);
    let refused = create(&server, &input(1_100, |_| "[[sim:status=400,code=no_such]]".to_owned()));
    server.wait_for(&refused, |batch| batch["overnight"]["paused"] == true);
    wait_for_both(&server, &receiver, &diary, ("batch_paused", &refused));
    // A person's own pause is no news to a person.
    for verb in ["resume", "pause", "cancel"] {
        server.post(&format!("/v1/batches/{refused}/{verb}"), &json!({}));
    }
    server.wait_for_end_of(&refused);
    wait_for_both(&server, &receiver, &diary, ("batch_ended", &refused));
    let expected = once(&[
        ("batch_ended", &completed),
        ("batch_ended", &with_failed),
        ("batch_ended", &failed),
        ("batch_paused", &refused),
        ("batch_ended", &refused),
    ]);
    assert_eq!(counts(&receiver.messages()), expected);
    assert_eq!(counts(&diary.messages()), expected);

    let messages = diary.messages();
    let of = |event: &str, batch: &str| {
        let is_it = |message: &&Value| name(message) == (event.to_owned(), batch.to_owned());
        messages.iter().find(is_it).unwrap()
    };
    let first = of("batch_ended", &completed);
    assert_eq!(first["title"], "Batch completed: all 3 requests answered");
    let mut counted = first["batch"]["request_counts"].clone();
    assert_eq!(counted.take(), json!({"total": 3, "completed": 3, "failed": 0}));
    assert_eq!(first["batch"]["output_file_id"], server.batch(&completed)["output_file_id"]);
    assert_eq!(first["server"]["url"], format!("http://{}", server.address));
    assert!(first["what_to_do"].as_str().unwrap().contains(&format!("overnight results {completed}")));
    assert!(first["at"].as_str().unwrap().ends_with('Z'), "{first}");
    assert_eq!(of("batch_ended", &with_failed)["title"], "Batch completed: 1 of 2 requests failed");
    let text = of("batch_ended", &failed)["text"].as_str().unwrap();
    assert!(text.contains("no request was sent") && text.contains("line 1"), "{text}");
    let text = of("batch_paused", &refused)["text"].as_str().unwrap();
    assert!(text.contains("refused with 400 (`no_such`)"), "{text}");

    let post = &receiver.posts()[0];
    let header = |name: &str| post.headers.iter().find(|(known, _)| known == name).unwrap().1.clone();
    assert_eq!(post.path, "/hook?token=secret-1");
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("idempotency-key"), post.body["id"].as_str().unwrap());
    assert_eq!(header("x-night"), "watch");
    assert!(!server.log().contains("secret-1"), "{}", server.log());
    let variables = format!("batch_ended|{completed}|Batch completed: all 3 requests answered");
    assert_eq!(diary.lines("variables")[0], variables);
}

/// The engine takes requests and never answers; then it is gone.
#[test]
fn silence_and_an_outage_are_told_once() {
    let (receiver, diary) = (Receiver::start(), Diary::new());
    let spans = "no_progress_after = \"3s\"\nno_endpoint_after = \"1s\"\n";
    let server = server(&format!("{}{spans}{}", url(&receiver), diary.setting("true")));
    let script = |latency| Script { latency: Latency::Fixed(latency), ..Script::default() };
    server.engine.set_script(script(HOURS));
    let silent = small_batch(&server);
    wait_for_both(&server, &receiver, &diary, ("no_progress", &silent));
    server.engine.crash();
    wait_for_both(&server, &receiver, &diary, ("no_endpoint", ""));
    // Longer than either takes, and there is nothing to wait for: neither comes again.
    std::thread::sleep(Duration::from_secs(5));
    let expected = once(&[("no_progress", &silent), ("no_endpoint", "")]);
    assert_eq!(counts(&receiver.messages()), expected);
    assert_eq!(counts(&diary.messages()), expected);
    let messages = receiver.messages();
    let title = messages[0]["title"].as_str().unwrap();
    assert!(title.starts_with("No progress for ") && title.ends_with("s: batch at 0 of 3"), "{title}");
    assert_eq!(messages[1]["title"], "No engine is up: 1 batch waits");
    assert_eq!(messages[1]["endpoints"][0]["name"], "sim");

    // It comes back for so long that two looks, a second apart, lie more than `no_endpoint_after` apart whatever the
    // moment of the first; then a second outage is news again.
    server.engine.set_script(script(Duration::from_millis(3_500)));
    server.engine.restart();
    server.wait_for_end_of(&silent);
    server.engine.crash();
    let waiting = small_batch(&server);
    wait(&server, "another outage", || receiver.messages().len() == 4 && diary.messages().len() == 4);
    // At once: this batch has not been silent yet, and must not become so while it waits for answers.
    server.engine.set_script(Script::default());
    server.engine.restart();
    server.wait_for_end_of(&waiting);
    wait_for_both(&server, &receiver, &diary, ("batch_ended", &waiting));
    let mut expected =
        once(&[("no_progress", &silent), ("batch_ended", &silent), ("batch_ended", &waiting)]);
    expected.insert(("no_endpoint".to_owned(), String::new()), 2);
    assert_eq!(counts(&receiver.messages()), expected);
    assert_eq!(counts(&diary.messages()), expected);
}

#[test]
fn what_was_not_delivered_before_a_kill_is_delivered_after_it() {
    let receiver = Receiver::absent();
    let mut server = server(&url(&receiver));
    let id = small_batch(&server);
    server.wait_for_end_of(&id);
    server.kill();
    receiver.arrive();
    server.up();
    wait(&server, "the end is told", || !receiver.messages().is_empty());
    assert_eq!(counts(&receiver.messages()), once(&[("batch_ended", &id)]));
}

/// The receiver has it, and the server dies before it knows so: it is told again, and the id says that it is the same.
#[test]
fn what_was_delivered_and_not_noted_before_a_kill_is_delivered_again() {
    let (receiver, diary) = (Receiver::start(), Diary::new());
    receiver.conduct(Conduct::Hang);
    let kill =
        "until [ -e posted ]; do sleep 0.01; done\n[ -e killed ] || { touch killed; kill -9 $PPID; }";
    let mut server = server(&format!("{}{}", url(&receiver), diary.setting(kill)));
    let id = small_batch(&server);
    wait(&server, "it was posted", || receiver.messages().len() == 1);
    fs::write(diary.path("posted"), "").unwrap();
    assert_eq!(server.wait_for_end().code(), None, "it is killed");
    receiver.conduct(Conduct::Take);
    server.up();
    wait(&server, "both again", || diary.messages().len() == 2 && receiver.messages().len() == 2);
    let messages = [diary.messages(), receiver.messages()].concat();
    assert!(messages.iter().all(|message| *message == messages[0]), "{messages:?}");
    assert_eq!(name(&messages[0]), ("batch_ended".to_owned(), id));
    // Settled now: another start tells nothing.
    wait(&server, "both are settled", || server.log().matches("told event").count() == 2);
    server.restart();
    let next = small_batch(&server);
    wait_for_both(&server, &receiver, &diary, ("batch_ended", &next));
    assert_eq!(diary.messages().len(), 3);
}

#[test]
fn who_refuses_or_is_away_for_a_while_is_told_later() {
    let (receiver, diary) = (Receiver::start(), Diary::new());
    receiver.conduct(Conduct::Refuse(503));
    let fail_twice = "[ $(wc -l < told) -gt 2 ] || { echo busy >&2; exit 7; }";
    let server = server(&format!("{}{}", url(&receiver), diary.setting(fail_twice)));
    let id = small_batch(&server);
    wait(&server, "it was refused", || receiver.messages().len() >= 2);
    receiver.conduct(Conduct::Take);
    wait(&server, "it was taken", || diary.messages().len() == 3 && receiver.messages().len() >= 3);
    let next = small_batch(&server);
    wait_for_both(&server, &receiver, &diary, ("batch_ended", &next));
    let counted = counts(&diary.messages());
    assert_eq!(counted[&("batch_ended".to_owned(), id)], 3, "the third was taken");
    let log = server.log();
    assert!(log.contains("ended with exit status: 7: busy"), "{log}");
    assert!(log.contains("it answered 503") && log.contains("go away"), "{log}");
}

#[test]
fn who_hangs_delays_neither_a_batch_nor_the_end() {
    let (receiver, diary) = (Receiver::start(), Diary::new());
    receiver.conduct(Conduct::Hang);
    let hang = "sleep 1000 & echo $! >> hanging; wait";
    let mut server = server(&format!("{}{}", url(&receiver), diary.setting(hang)));
    let started = Instant::now();
    for _ in 0..5 {
        server.wait_for_end_of(&small_batch(&server));
    }
    assert!(started.elapsed() < SOON, "five small batches took {:?}", started.elapsed());
    wait(&server, "both hang", || !receiver.messages().is_empty() && !diary.lines("hanging").is_empty());
    let stopped = Instant::now();
    server.terminate();
    assert!(server.wait_for_end().success(), "{}", server.log());
    assert!(stopped.elapsed() < SOON, "the end took {:?}", stopped.elapsed());
    let hanging = Path::new("/proc").join(&diary.lines("hanging")[0]);
    wait(&server, "what the command has started is gone", || !is_running(&hanging));
}

/// A process that has ended but was not waited for is no longer running.
fn is_running(process: &Path) -> bool {
    fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_test_message_shows_what_is_answered() {
    let (receiver, diary) = (Receiver::start(), Diary::new());
    let folder = tempfile::tempdir().unwrap();
    let test = |settings: &str| {
        let config = format!("[notify]\n{settings}");
        fs::write(folder.path().join("overnight.toml"), config).unwrap();
        let output = overnight(folder.path(), &["notify", "--test"]);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, said, _) = test(&format!("{}{}", url(&receiver), diary.setting("echo thanks")));
    let shown = format!("url `{}/***`: delivered: 204 No Content", receiver.url());
    assert_eq!((code, said), (Some(0), format!("command `sh`: delivered: thanks\n{shown}\n")));
    for message in [&receiver.messages()[0], &diary.messages()[0]] {
        assert_eq!((&message["event"], &message["batch"]), (&json!("test"), &Value::Null));
    }
    receiver.conduct(Conduct::Refuse(404));
    let (code, said, _) = test(&format!("{}command = \"no-such-program -x\"\n", url(&receiver)));
    assert_eq!(code, Some(1));
    assert!(said.contains("not delivered: it answered 404"), "{said}");
    assert!(said.contains("not delivered: failed to start `no-such-program`"), "{said}");
    let (code, _, why) = test("");
    assert_eq!(code, Some(1));
    assert!(why.contains("set `notify.command` or `notify.url`"), "{why}");
}

#[test]
fn a_run_tells_of_its_end_before_it_ends() {
    let (receiver, diary) = (Receiver::start(), Diary::new());
    let server = Server::idle(Setup::default());
    let folder = server.folder.path();
    fs::write(folder.join("in.jsonl"), input(3, |at| format!("question {at}"))).unwrap();
    let config = format!("[notify]\n{}{}", url(&receiver), diary.setting("true"));
    fs::write(folder.join("overnight.toml"), config).unwrap();
    let engine = format!("{}/v1", server.engine.url());
    let output = overnight(folder, &["run", "in.jsonl", "-o", "out.jsonl", "--engine", &engine]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for messages in [receiver.messages(), diary.messages()] {
        let [message] = &messages[..] else { panic!("told {} times", messages.len()) };
        assert_eq!(message["title"], "Batch completed: all 3 requests answered");
        assert_eq!(message["server"]["output"], "out.jsonl");
        assert!(message["what_to_do"].as_str().unwrap().contains("`out.jsonl`"), "{message}");
    }
}

/// When the run was over but for telling of it, signals did nothing: nobody listened to them any more.
#[test]
fn a_run_that_waits_for_who_is_told_can_be_interrupted() {
    let (receiver, diary) = (Receiver::start(), Diary::new());
    let server = Server::idle(Setup::default());
    let folder = server.folder.path();
    fs::write(folder.join("in.jsonl"), input(3, |at| format!("question {at}"))).unwrap();
    let engine = format!("{}/v1", server.engine.url());
    let run = ["run", "in.jsonl", "-o", "out.jsonl", "--engine", &engine];
    let settings = |script| {
        let config = format!("[notify]\n{}{}", url(&receiver), diary.setting(script));
        fs::write(folder.join("overnight.toml"), config).unwrap();
    };
    settings("sleep 1000 & echo $! >> hanging; wait");
    let mut child = Command::new(env!("CARGO_BIN_EXE_overnight"))
        .args(run)
        .current_dir(folder)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait(&server, "the command hangs", || !diary.lines("hanging").is_empty());
    // Until the run sees that its batch has ended, a signal ends it in the way of one that is still at work.
    std::thread::sleep(Duration::from_secs(1));
    let killed = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status();
    assert!(killed.unwrap().success());
    // Otherwise it would end by itself, and well, once telling had taken too long.
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!folder.join("out.jsonl").exists());
    settings("true");
    let output = overnight(folder, &run);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_to_string(folder.join("out.jsonl")).unwrap().lines().count(), 3);
}
