//! The configuration: whatever stands in `overnight.toml`.

use std::path::Path;

use super::{Campaign, kind, put_file};
use crate::config::{Config, Environment, Origin, Shown, Sources, load};

const SECRET: &str = "s3cret-of-the-environment";
const WORDS: &[&[u8]] = &[
    b"[server]\n",
    b"[[engine]]\n",
    b"[[key]]\n",
    b"[limits]\n",
    b"[dispatch]\n",
    b"[retention]\n",
    b"[queue]\n",
    b"listen = ",
    b"\"0.0.0.0:1\"\n",
    b"\"env:SECRET\"\n",
    b"\"never\"\n",
    b"\"auto\"\n",
    b"\"1h30m\"\n",
    b"\"200MB\"\n",
    b"\"99999999TB\"\n",
    b"0x7fffffffffffffff\n",
    b"1_000\n",
    b"-1\n",
    b"inf\n",
    b"1979-05-27\n",
    b"\"\"\"",
    b"'''",
    b"\\u0000",
    b"\xef\xbb\xbf",
    b"[[[",
    b"{ a = \"b\" }\n",
    b"insecure = true\n",
    b"data.data.data = 1\n",
    b"files = ",
    b"concurrency = ",
    b"# ",
    b"\r\n",
];

#[test]
fn configuration() {
    let seeds = [
        "profile = \"server\"\ndata = \"d\"\nstore = \"sqlite:d/overnight.db\"\nlog = \"info\"\n\n[server]\nlisten = \"localhost:8642\"\nhosts = [\"a\", \"b\"]\n",
        "[[engine]]\nname = \"gpu0\"\nkind = \"openai\"\nurl = \"http://127.0.0.1:1/v1\"\nconcurrency = 8\napi_key = \"env:SECRET\"\nheaders = { x-a = \"env:SECRET\" }\nmodels = [\"m\"]\naliases = { a = \"m\" }\n",
        "[[key]]\nname = \"k\"\ntenant = \"t\"\nvalue = \"env:SECRET\"\nadmin = true\n[limits]\nrequests_per_batch = 10\nfile_len = \"1.5GB\"\n",
        "[retention]\nfiles = \"30d\"\noutputs = \"never\"\n[queue]\nmax_active_batches = 2\n[dispatch]\nmemory_len = \"1GiB\"\ncommit_after = \"10ms\"\nattempts_max = 5\nhard_expiry = true\n",
    ];
    let folder = tempfile::tempdir().unwrap();
    let seeds = seeds.map(|seed| seed.as_bytes().to_vec()).to_vec();
    let campaign = Campaign { seeds, words: WORDS, len_max: 8 * 1024, repair: None, executions: 3_000 };
    campaign.run(|input| check(folder.path(), input));
}

fn check(folder: &Path, input: &[u8]) -> u64 {
    put_file(&folder.join("overnight.toml"), input);
    let environment = Environment::from_pairs([("SECRET", SECRET)]);
    let sources = Sources { folder: folder.to_owned(), environment, ..Sources::default() };
    match load(sources) {
        Ok((config, origins)) => {
            assert!(!format!("{config:?}{origins:?}").contains(SECRET), "a secret is shown");
            check_bounds(&config);
            let lines = memchr::memchr_iter(b'\n', input).count() + 1;
            origins.0.iter().for_each(|shown| check_origin(shown, lines));
            let keys = origins.0.iter().filter(|shown| matches!(shown.origin, Origin::File { .. }));
            kind(keys.map(|shown| shown.key.as_str()).collect::<Vec<_>>())
        }
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains(SECRET), "a secret is shown");
            assert!(text.contains("overnight.toml"), "`{text}` names no place");
            // Which refusal it is, without what it quotes and where.
            let words = text
                .split([' ', ':'])
                .skip(2)
                .filter(|word| word.bytes().all(|b| b.is_ascii_lowercase()));
            kind(words.take(6).collect::<Vec<_>>())
        }
    }
}

/// What the rest of the server relies on.
fn check_bounds(config: &Config) {
    let dispatch = &config.dispatch;
    assert!(dispatch.request_len_max + dispatch.answer_len_max <= dispatch.memory_len);
    assert!(dispatch.attempts_max > 0 && dispatch.request_len_max > 0 && dispatch.answer_len_max > 0);
    assert!(config.limits.requests_per_batch > 0 && config.limits.file_len > 0);
    let server = &config.server;
    assert!(server.listen.ip().is_loopback() || !server.keys.is_empty() || server.insecure);
    assert!(config.engines.iter().all(|engine| !engine.name.is_empty() && engine.window != Some(0)));
}

fn check_origin(shown: &Shown, lines: usize) {
    if let Origin::File { line, .. } = &shown.origin {
        assert!((1..=lines).contains(line), "`{}` is in line {line} of {lines}", shown.key);
    }
}
