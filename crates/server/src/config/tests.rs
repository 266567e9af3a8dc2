use super::*;

struct Folder(tempfile::TempDir);

impl Folder {
    fn with(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("overnight.toml"), text).unwrap();
        Self(folder)
    }

    fn sources(&self) -> Sources {
        Sources { folder: self.0.path().to_owned(), ..Sources::default() }
    }

    /// A message without the folder, which differs from run to run.
    fn without_folder(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.0.path().display()), "")
    }
}

fn error_of(text: &str) -> String {
    let folder = Folder::with(text);
    let environment = Environment::from_pairs([("SECRET", "s3cret"), ("OTHER", "other")]);
    let error = load(Sources { environment, ..folder.sources() }).expect_err("must be refused");
    folder.without_folder(&error.to_string())
}

fn origin_of(origins: &Origins, key: &str) -> (String, Origin) {
    let shown = origins.0.iter().find(|shown| shown.key == key).expect(key);
    (shown.value.clone(), shown.origin.clone())
}

#[test]
fn without_anything_the_defaults_hold() {
    let folder = tempfile::tempdir().unwrap();
    let (config, origins) =
        load(Sources { folder: folder.path().to_owned(), ..Sources::default() }).unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8642");
    assert_eq!(config.limits, AdmissionLimits::DESKTOP);
    assert_eq!(config.database, PathBuf::from("overnight-data/overnight.db"));
    assert_eq!(config.blobs, PathBuf::from("overnight-data/blobs"));
    assert_eq!(config.retention.outputs, None, "nobody's night of work vanishes by surprise");
    let keys: Vec<&str> = origins.0.iter().map(|shown| shown.key.as_str()).collect();
    let mut known = keys::SETTINGS.to_vec();
    known.sort_unstable();
    let mut listed = keys.clone();
    listed.sort_unstable();
    assert_eq!(listed, known, "every setting is read and shown, each once");
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let folder = Folder::with(
        "profile = \"server\"\ndata = \"from-file\"\nlog = \"warn\"\n[server]\nlisten = \"127.0.0.1:1\"\n",
    );
    let (config, origins) = load(Sources {
        environment: Environment::from_pairs([
            ("OVERNIGHT_DATA", "from-environment"),
            ("OVERNIGHT_SERVER_LISTEN", "127.0.0.1:2"),
            ("OVERNIGHT_SERVER_HOSTS", "a.example, b.example"),
            ("OVERNIGHT_QUEUE_MAX_ACTIVE_BATCHES", "3"),
            ("OVERNIGHT_DISPATCH_HARD_EXPIRY", "true"),
        ]),
        flags: vec![FlagValue {
            key: "server.listen",
            name: "--listen",
            value: "localhost:3".to_owned(),
        }],
        ..folder.sources()
    })
    .unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:3");
    assert_eq!(config.data, PathBuf::from("from-environment"));
    assert_eq!(config.blobs, PathBuf::from("from-environment/blobs"));
    assert_eq!(config.server.hosts, ["a.example", "b.example"]);
    assert_eq!(config.queue.active_batches_max, Some(3));
    assert!(config.dispatch.hard_expiry);
    assert_eq!(config.limits, AdmissionLimits::SERVER);
    assert_eq!(config.retention.files, Some(Duration::from_secs(30 * 86_400)));
    let line = |line| Origin::File { path: folder.0.path().join("overnight.toml"), line };
    assert_eq!(origin_of(&origins, "profile"), ("server".to_owned(), line(1)));
    assert_eq!(origin_of(&origins, "log"), ("warn".to_owned(), line(3)));
    assert_eq!(
        origin_of(&origins, "server.listen"),
        ("127.0.0.1:3".to_owned(), Origin::Flag("--listen"))
    );
    assert_eq!(origin_of(&origins, "data").1, Origin::Environment("OVERNIGHT_DATA".to_owned()));
    assert_eq!(
        origin_of(&origins, "retention.files"),
        ("30d".to_owned(), Origin::Profile(Profile::Server))
    );
}

#[test]
fn the_whole_file_is_understood_and_secrets_are_masked() {
    let folder = Folder::with(
        r#"
profile = "desktop"
store = "sqlite:elsewhere/o.db"
blobs = "file:/big/blobs"

[server]
listen = "0.0.0.0:8642"
hosts = ["overnight.lan"]

[[key]]
name = "ops"
value = "env:SECRET"
admin = true

[[key]]
name = "team"
tenant = "blue"
value = "env:OTHER"

[limits]
requests_per_batch = 70_000
file_len = "1.5GB"

[retention]
files = "7d"
outputs = "never"

[dispatch]
memory_len = "512MiB"
attempts_max = 3
commit_after = "5ms"

[[engine]]
name = "gpu0"
kind = "openai"
url = "http://gpu0:8000/v1"
concurrency = 32
api_key = "env:SECRET"
headers = { X-Team = "blue" }
models = ["Qwen/Qwen3-8B"]
aliases = { "gpt-4o-mini" = "Qwen/Qwen3-8B" }

[[engine]]
name = "gpu1"
kind = "openai"
url = "http://gpu1:8000/v1"
concurrency = "auto"
gpu = 1
memory_rule = true

[gpu]
unhealthy_at = 75
"#,
    );
    let environment = Environment::from_pairs([("SECRET", "s3cret\n"), ("OTHER", "other")]);
    let (config, origins) = load(Sources { environment, ..folder.sources() }).unwrap();
    assert_eq!(config.database, PathBuf::from("elsewhere/o.db"));
    assert_eq!(config.blobs, PathBuf::from("/big/blobs"));
    assert_eq!(config.limits.requests_per_batch, 70_000);
    assert_eq!(config.limits.file_len, 1_500_000_000);
    assert_eq!(config.limits.unfinished_batches, AdmissionLimits::DESKTOP.unfinished_batches);
    assert_eq!(config.retention.files, Some(Duration::from_secs(7 * 86_400)));
    assert_eq!(config.dispatch.commit_after, Duration::from_millis(5));
    let [ops, team] = &config.server.keys[..] else { panic!("two keys") };
    assert_eq!((ops.value.expose(), ops.admin, ops.tenant.as_str()), ("s3cret", true, "default"));
    assert_eq!((team.tenant.as_str(), team.admin), ("blue", false));
    let [gpu0, gpu1] = &config.engines[..] else { panic!("two engines") };
    assert_eq!((gpu0.window, gpu1.window), (Some(32), None));
    assert_eq!((gpu0.gpu, gpu0.memory_rule, gpu1.gpu, gpu1.memory_rule), (None, false, Some(1), true));
    assert_eq!((config.gpu.unhealthy_at, config.gpu.warn_at), (75, 70));
    assert_eq!(gpu0.api_key.as_ref().map(Secret::expose), Some("s3cret"));
    assert_eq!(gpu0.headers, [("X-Team".to_owned(), Secret::new("blue"))]);
    assert_eq!(gpu0.aliases, [("gpt-4o-mini".to_owned(), "Qwen/Qwen3-8B".to_owned())]);
    assert_eq!(origin_of(&origins, "engine[0].api_key").0, "*** (env:SECRET)");
    let all = format!("{origins:?}{config:?}");
    assert!(!all.contains("s3cret") && !all.contains("X-Team\", \"blue"), "{all}");
}

/// Each text is refused with the message, which names the place and repeats no secret.
fn assert_refused(cases: &[(&str, &str)]) {
    for (text, message) in cases {
        let error = error_of(text);
        assert!(error.contains(message), "`{text}`\n gave {error}\n not {message}");
        assert!(error.starts_with("overnight.toml:"), "no place in: {error}");
        assert!(!error.contains("s3cret") && !error.contains("sk-secret") && !error.contains("pw@"));
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_with_its_place() {
    assert_refused(&[
        (
            "\n\n[server]\nlisen = \"127.0.0.1:1\"",
            "overnight.toml:4: unknown key `server.lisen`; did you mean `server.listen`?",
        ),
        (
            "listen = \"127.0.0.1:1\"",
            "overnight.toml:1: unknown key `listen`; did you mean `server.listen`?",
        ),
        ("[sever]\nlisten = \"x\"", "overnight.toml:1: unknown key `sever`; did you mean `server`?"),
        ("zzz = 1", "overnight.toml:1: unknown key `zzz`; `overnight config` lists the known ones"),
        ("a = ", "overnight.toml:1: not valid TOML"),
        (
            "[limits]\nfile_len = 200",
            "overnight.toml:2: `limits.file_len` needs a unit, as in \"200MB\"",
        ),
        ("[limits]\nfile_len = \"200\"", "overnight.toml:2: `limits.file_len` `200` is no size"),
        ("[limits]\nqueued_requests = 0", "must be from 1 to"),
        ("[limits]\nqueued_requests = \"9\"", "must be a whole number, not negative and without quotes"),
        ("[dispatch]\ncommit_after = 10", "`dispatch.commit_after` needs a unit"),
        ("[dispatch]\ncommit_after = \"1m\"", "must be at most 1s"),
        ("[dispatch]\nattempts_max = 1000", "must be from 1 to 100, not 1000"),
        ("[gpu]\nunhealthy_at = 151", "must be from 1 to 150, not 151"),
        ("[gpu]\nwarn_at = 90", "`gpu.warn_at` is 90, above `gpu.unhealthy_at`, which is 85"),
        ("[gpu]\nlibrary = \"\"", "`gpu.library` must not be empty"),
        ("[dispatch]\nmemory_len = \"16MiB\"", "less than one request and one answer"),
        ("[retention]\nfiles = \"5m\"", "must be \"never\" or at least \"1h\""),
        (
            "store = \"postgres://db/overnight\"",
            "`postgres:` is not in this build yet: PostgreSQL comes later",
        ),
        ("blobs = \"s3://bucket/prefix\"", "`s3:` is not in this build yet: object storage comes later"),
        ("store = \"sqlite:\"", "must be `sqlite:PATH`"),
        (
            "[schedule]\nwindow = \"22:00-07:00\"",
            "`schedule` cannot be honoured: this build cannot keep to hours",
        ),
        (
            "[server]\nlisten = \"0.0.0.0:8642\"",
            "overnight.toml:2: `server.listen` is 0.0.0.0:8642, which others can reach, and there is no key",
        ),
        ("[server]\nlisten = \"8642\"", "must be an address and a port"),
        ("profile = \"laptop\"", "must be `desktop` or `server`, not `laptop`"),
        ("[server]\ninsecure = \"yes\"", "`server.insecure` must be true or false, without quotes"),
    ]);
}

#[test]
fn who_is_told_is_refused_with_its_place() {
    assert_refused(&[
        ("[notify]\nurl = \"ftp://a\"", "overnight.toml:2: `notify.url` must begin with `http://`"),
        ("[notify]\nurl = \"https://me:pw@a/\"", "must not hold a password: use `notify.headers`"),
        ("[notify]\nurl = \"env:NOT_SET\"", "names the variable `NOT_SET`, which is not set"),
        ("[notify]\ncommand = \"sh -c 'echo\"", "`notify.command` ends inside quotes"),
        ("[notify]\ncommand = \" \"", "`notify.command` names no program"),
        ("[notify]\ncommand = [\"sh\"]", "`notify.command` must be text in quotes"),
        ("[notify]\ncommand = \"a \\u0000\"", "`notify.command` must not hold a NUL"),
        (
            "[notify]\nevents = [\"batch_end\"]",
            "may hold batch_ended, batch_paused, no_progress, no_endpoint, not `batch_end`",
        ),
        ("[notify]\nevents = []", "`notify.events` names no event"),
        ("[notify]\nno_progress_after = \"10ms\"", "must be at least 1s"),
        (
            "[notify]\n\nheaders = { A = \"b\" }",
            "overnight.toml:3: `notify.headers` are sent to `notify.url`, and there is none",
        ),
        (
            "[notify]\nurl = \"http://a\"\nheaders = { A = \"env:NOT_SET\" }",
            "`notify.headers` has `A`, which names the variable `NOT_SET`",
        ),
        (
            "[notify]\nurl = \"http://a\"\nheaders = { \"a b\" = \"sk-secret\" }",
            "`notify.headers` has `a b`, which is no header that HTTP could carry",
        ),
        ("[notify]\nurls = \"http://a\"", "unknown key `notify.urls`; did you mean `notify.url`?"),
    ]);
}

#[test]
fn who_is_told_is_shown_without_its_secrets() {
    let folder = Folder::with(
        "[notify]\ncommand = \"tell 'a b'\"\nurl = \"env:HOOK\"\nheaders = { X-Auth = \"env:SECRET\" }\n",
    );
    let hook = "https://hooks.example/services/s3cret?a=b";
    let environment = Environment::from_pairs([("SECRET", "s3cret"), ("HOOK", hook)]);
    let (config, origins) = load(Sources { environment, ..folder.sources() }).unwrap();
    assert_eq!(config.notify.command, Some(vec!["tell".to_owned(), "a b".to_owned()]));
    assert_eq!(config.notify.url.as_ref().map(|url| url.address.expose()), Some(hook));
    assert_eq!(config.notify.subscriptions().len(), 2);
    assert_eq!(origin_of(&origins, "notify.command").0, "tell 'a b'");
    assert_eq!(origin_of(&origins, "notify.url").0, "https://hooks.example/***");
    assert_eq!(origin_of(&origins, "notify.headers").0, "X-Auth = ***");
    let all = format!("{origins:?}{config:?}");
    assert!(!all.contains("s3cret"), "{all}");
}

#[test]
fn engines_and_keys_are_refused_with_their_place() {
    let engine = "[[engine]]\nname = \"a\"\nkind = \"openai\"\nurl = \"http://a/v1\"\n";
    assert_refused(&[
        (&format!("{engine}command = \"vllm 'serve\""), "`engine.command` cannot be taken apart"),
        (&format!("{engine}command = \"\""), "`engine.command` is empty"),
        (&format!("{engine}command = \"a\"\nready_within = \"0s\""), "`engine.ready_within` must be"),
        (
            &format!("{engine}command = \"a\"\nenvironment = {{ \"a=b\" = \"c\" }}"),
            "`engine.environment.a=b`",
        ),
        (
            &format!("{engine}modells = []"),
            "overnight.toml:5: unknown key `engine.modells`; did you mean `engine.models`",
        ),
        (
            &engine.replace("\"openai\"", "\"llama\""),
            "`engine.kind` must be `openai` or `ollama`, not `llama`",
        ),
        (&format!("{engine}num_ctx = 8192"), "`engine.num_ctx` is for `kind = \"ollama\"`"),
        (
            &format!("{}num_ctx = 0", engine.replace("\"openai\"", "\"ollama\"")),
            "`engine.num_ctx` must be a number of tokens",
        ),
        (
            &engine.replace("http://a/v1", "gpu0:8000"),
            "`engine.url` must begin with `http://` or `https://`",
        ),
        (&engine.replace("//a", "//me:pw@a"), "must not hold a password"),
        (&engine.replace("\"a\"", "\"\""), "`engine.name` must be 1 to 64 letters"),
        (&format!("{engine}gpu = 64"), "`engine.gpu` must be the number of a GPU, from 0 to 63"),
        (&format!("{engine}gpu = -1"), "`engine.gpu` must be the number of a GPU"),
        (
            &format!("{engine}memory_rule = true"),
            "`engine.memory_rule` cannot be honoured: the engine is on",
        ),
        (&format!("{engine}concurrency = 0"), "must be \"auto\" or a number from 1 to 4096"),
        (
            &format!("{engine}api_key = \"sk-secret\""),
            "`engine.api_key` must be `env:NAME` or `file:PATH`, never the secret itself",
        ),
        (
            &format!("{engine}api_key = \"env:NOT_SET\""),
            "names the variable `NOT_SET`, which is not set",
        ),
        (&format!("{engine}{engine}"), "overnight.toml:5: two engines have the name `a`"),
        (
            &format!("{engine}{}", engine.replace("\"a\"", "\"b\"")),
            "the engines `a` and `b` have the same `url`",
        ),
        (
            &format!(
                "{engine}command = \"a\"\ngpu = 0\n{}command = \"b\"\ngpu = 1\n",
                engine.replace("\"a\"", "\"b\"")
            ),
            "the engines `a` and `b` have the same `url`",
        ),
        (
            "[[engine]]\nname = \"a\"\nkind = \"openai\"",
            "overnight.toml:1: this `[[engine]]` has no `url`",
        ),
        (
            "[[engine]]\nname = \"a\"\nurl = \"http://a/v1\"\ncommand = \"vllm serve a\"",
            "overnight.toml:1: this `[[engine]]` has no `kind`",
        ),
        ("[engine]\nname = \"a\"", "`engine` is a list: write `[[engine]]`"),
        (
            "[[key]]\nname = \"a\"\nvalue = \"env:SECRET\"\n[[key]]\nname = \"b\"\nvalue = \"env:SECRET\"",
            "the keys `a` and `b` have the same value",
        ),
        ("[[key]]\nname = \"a\"", "this `[[key]]` has no `value`"),
    ]);
}

#[test]
fn an_open_listener_needs_a_key_or_a_word() {
    let listen = "[server]\nlisten = \"0.0.0.0:8642\"\n";
    let key = "[[key]]\nname = \"a\"\nvalue = \"env:SECRET\"\n";
    for more in ["insecure = true\n", key] {
        let folder = Folder::with(&format!("{listen}{more}"));
        let environment = Environment::from_pairs([("SECRET", "s")]);
        assert!(load(Sources { environment, ..folder.sources() }).is_ok(), "{more}");
    }
}

#[test]
fn unknown_variables_are_refused_with_close_names() {
    let folder = Folder::with("");
    let environment = Environment::from_pairs([("OVERNIGHT_SERVER_LISTN", "x")]);
    let error = load(Sources { environment, ..folder.sources() }).expect_err("must be refused");
    assert_eq!(
        error.to_string(),
        "environment OVERNIGHT_SERVER_LISTN: unknown key `OVERNIGHT_SERVER_LISTN`; did you mean `OVERNIGHT_SERVER_LISTEN`?"
    );
}

#[test]
fn the_built_in_engine_needs_no_kind_and_is_missed_soon() {
    let file = |command: &str| {
        format!(
            "[[engine]]\nname = \"a\"\nkind = \"openai\"\nurl = \"http://a/v1\"\ncommand = \"{command}\""
        )
    };
    let rules = |text: &str| {
        let folder = Folder::with(text);
        let (config, _) = load(folder.sources()).unwrap();
        config.engines[0].process.as_ref().unwrap().rules
    };
    let builtin = file("overnight engine --model a.gguf");
    let builtin = rules(&builtin.replace("kind = \"openai\"\n", ""));
    let other = rules(&file("vllm serve a"));
    assert!(builtin.silent_after < other.silent_after, "{builtin:?} {other:?}");
}

#[test]
fn engines_may_be_given_by_their_address_alone() {
    let folder = Folder::with("[[engine]]\nname = \"a\"\nkind = \"openai\"\nurl = \"http://a/v1\"\n");
    let environment = Environment::from_pairs([("OVERNIGHT_ENGINE", "http://b:8000/v1,http://c/v1")]);
    let sources = Sources { environment, ..folder.sources() };
    let (config, _) = load(sources.clone()).unwrap();
    let names: Vec<&str> = config.engines.iter().map(|engine| engine.name.as_str()).collect();
    assert_eq!(names, ["b:8000", "c"]);
    assert!(config.engines.iter().all(|engine| engine.is_kind_open), "what they are is asked");
    let (config, _) = load(folder.sources()).unwrap();
    assert!(!config.engines[0].is_kind_open, "its owner has said what it is");
    let (config, origins) =
        load(Sources { engines: vec!["http://d/v1".to_owned()], ..sources }).unwrap();
    assert_eq!(config.engines.len(), 1);
    assert_eq!(origin_of(&origins, "engine[0].url").1, Origin::Flag("--engine"));
    for urls in [vec!["d"], vec!["http://d", "http://d"]] {
        let engines = urls.into_iter().map(str::to_owned).collect();
        assert!(load(Sources { engines, ..folder.sources() }).is_err());
    }
}

#[test]
fn a_model_has_one_name_at_all_engines() {
    let engine = |name: &str, more: &str| {
        format!("[[engine]]\nname = \"{name}\"\nkind = \"openai\"\nurl = \"http://{name}/v1\"\n{more}\n")
    };
    let model = |name: &str, more: &str| {
        format!("[[model]]\nname = \"{name}\"\nserves = \"qwen3:8b\"\n{more}\n")
    };
    let pair = |name: &str, serves: &str| (name.to_owned(), serves.to_owned());
    let text = [
        engine("a", "aliases = { big = \"mine\" }"),
        engine("b", ""),
        model("big", ""),
        model("gpt", "engines = [\"b\"]"),
    ];
    let folder = Folder::with(&text.concat());
    let (config, _) = load(folder.sources()).unwrap();
    let [a, b] = &config.engines[..] else { panic!("two engines") };
    assert_eq!(a.aliases, [pair("big", "mine")]);
    assert_eq!(a.shared_aliases, []);
    assert_eq!(b.aliases, [pair("gpt", "qwen3:8b")]);
    assert_eq!(b.shared_aliases, [pair("big", "qwen3:8b")]);
    // Engines that were found, or given by their address, are concerned as well.
    let sources = Sources { engines: vec!["http://d/v1".to_owned()], ..folder.sources() };
    let (config, _) = load(sources).unwrap();
    assert_eq!(config.engines[0].shared_aliases, [pair("big", "qwen3:8b")]);
    assert_eq!(config.engines[0].aliases, []);

    let twice = [model("big", ""), model("big", "")].concat();
    let unknown = [engine("a", ""), model("big", "engines = [\"a\", \"c\"]")].concat();
    let against =
        [engine("a", "aliases = { big = \"mine\" }"), model("big", "engines = [\"a\"]")].concat();
    assert_refused(&[
        (&twice, "overnight.toml:5: two models have the name `big`"),
        (&unknown, "the engine `c`, and no `[[engine]]` has that name"),
        (&against, "the engine `a` has the alias `big` for `mine`"),
        (&model("qwen3:8b", ""), "is said to serve itself"),
        (&model("big", "engines = []"), "names no engine"),
        ("[[model]]\nname = \"a\"", "overnight.toml:1: this `[[model]]` has no `serves`"),
        ("[model]\nname = \"a\"", "`model` is a list: write `[[model]]`"),
        ("[[model]]\nserve = \"a\"", "unknown key `model.serve`; did you mean `model.serves`?"),
        ("[discovery]\nports = []", "must name 1 to 64 ports"),
        ("[discovery]\nports = [0]", "may only hold ports, 1 to 65535, not `0`"),
        ("[discovery]\nports = [1.5]", "may only hold texts in quotes, or numbers"),
    ]);
}

#[test]
fn ports_are_numbers_in_a_file_and_text_elsewhere() {
    let folder = Folder::with("[discovery]\nports = [8000, \"9000\"]\n");
    assert_eq!(load(folder.sources()).unwrap().0.discovery.ports, [8000, 9000]);
    let environment = Environment::from_pairs([("OVERNIGHT_DISCOVERY_PORTS", "1, 2")]);
    let sources = Sources { environment, ..folder.sources() };
    assert_eq!(load(sources).unwrap().0.discovery.ports, [1, 2]);
}

#[test]
fn a_named_file_must_exist() {
    let folder = tempfile::tempdir().unwrap();
    let file = Some(folder.path().join("missing.toml"));
    let error = load(Sources { file, ..Sources::default() }).expect_err("must be refused").to_string();
    assert!(error.contains("missing.toml: the configuration cannot be read"), "{error}");
}

#[test]
fn the_documentation_names_every_key() {
    let text = include_str!("../../../../docs/configuration.md");
    let engine = keys::ENGINE.iter().map(|member| format!("`engine.{member}`"));
    let key = keys::KEY.iter().map(|member| format!("`key.{member}`"));
    let settings = keys::SETTINGS.iter().map(|key| format!("`{key}`"));
    let model = keys::MODEL.iter().map(|member| format!("`model.{member}`"));
    for name in settings.chain(engine).chain(key).chain(model) {
        assert!(text.contains(&name), "docs/configuration.md does not name {name}");
    }
}
