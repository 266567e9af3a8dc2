//! Fetching a model: redirects, cuts, refusals, and the cache that it lies in afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::Duration;

use overnight_engine_llama::fetch::{
    Address, FetchError, Fetched, Hub, Patience, Progress, Stage, fetch,
};
use tempfile::TempDir;

use crate::hub::{COMMIT, HubStandIn, NEXT_COMMIT, sha256};

const MODEL: &str = "hf:org/repo/model.gguf";

/// A cache of its own, and what is fetched into it.
struct Scene {
    cache: TempDir,
    endpoint: String,
    variables: Vec<(&'static str, &'static str)>,
    patience: Patience,
}

impl Scene {
    fn at(hub: &HubStandIn) -> Self {
        Self {
            cache: tempfile::tempdir().unwrap(),
            endpoint: format!("http://{}", hub.hub),
            variables: Vec::new(),
            patience: Patience {
                pause: Duration::from_millis(1),
                repeats_max: 2,
                silence_max: Duration::from_secs(5),
                lock_silence_max: Duration::from_secs(5),
            },
        }
    }

    fn hub(&self) -> Hub {
        let variable = |name: &str| match name {
            "HF_ENDPOINT" => Some(self.endpoint.clone()),
            "HF_HUB_CACHE" => Some(self.cache.path().display().to_string()),
            _ => {
                let found = self.variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            }
        };
        Hub::from_variables(&variable).unwrap().with_patience(self.patience)
    }

    fn fetch(&self, address: &str) -> Result<Fetched, FetchError> {
        fetch(&self.hub(), &address.parse().unwrap(), &mut |_| {})
    }

    fn refused(&self, address: &str) -> String {
        self.fetch(address).expect_err("refused").to_string()
    }

    fn repo(&self) -> PathBuf {
        self.cache.path().join("models--org--repo")
    }

    /// What lies in `blobs`, in the order of the names.
    fn blobs(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.repo().join("blobs")) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn model_bytes() -> Vec<u8> {
    (0..3_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn stand_in() -> HubStandIn {
    HubStandIn::with(&[("model.gguf", &model_bytes())])
}

#[test]
fn a_model_comes_from_where_the_hub_redirects_to_and_lies_where_other_tools_find_it() {
    let hub = stand_in();
    let mut scene = Scene::at(&hub);
    scene.variables = vec![("HF_TOKEN", "hf_secret")];
    hub.conduct().token = Some("hf_secret".to_owned());
    let mut told: Vec<(Stage, u64, u64)> = Vec::new();
    let mut tell =
        |progress: Progress<'_>| told.push((progress.stage, progress.done, progress.total_len));
    let fetched = fetch(&scene.hub(), &MODEL.parse().unwrap(), &mut tell).unwrap();
    let bytes = model_bytes();
    let snapshot = scene.repo().join("snapshots").join(COMMIT).join("model.gguf");
    assert_eq!(fetched.paths, std::slice::from_ref(&snapshot));
    assert_eq!((fetched.commit.as_str(), fetched.fetched_len), (COMMIT, bytes.len() as u64));
    assert!(fetched.unchecked.is_empty());
    assert_eq!(fs::read(&snapshot).unwrap(), bytes);
    assert_eq!(fs::read_to_string(scene.repo().join("refs/main")).unwrap(), COMMIT);
    assert_eq!(scene.blobs(), [sha256(&bytes)]);
    let link = fs::read_link(&snapshot).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(sha256(&bytes)), "relative: a cache can be moved");
    assert_eq!(told.last(), Some(&(Stage::Fetching, bytes.len() as u64, bytes.len() as u64)));
    // The token went to the hub, and not to the other host.
    let seen = hub.conduct().seen.clone();
    assert!(
        seen.iter().all(|seen| seen.headers.contains_key("authorization") != seen.at_store),
        "{seen:?}"
    );
    assert!(seen.iter().all(|seen| seen.method == if seen.at_store { "GET" } else { &seen.method }));
    assert_eq!(hub.pulls().len(), 1);
}

#[test]
fn what_is_in_the_cache_is_taken_without_asking_anybody() {
    let hub = stand_in();
    let mut scene = Scene::at(&hub);
    let first = scene.fetch(MODEL).unwrap();
    let asked = hub.conduct().seen.len();
    let again = scene.fetch(MODEL).unwrap();
    assert_eq!(again, Fetched { fetched_len: 0, ..first.clone() });
    assert_eq!(hub.conduct().seen.len(), asked);
    drop(hub);
    assert_eq!(scene.fetch(MODEL).unwrap().paths, first.paths);
    assert_eq!(scene.fetch(&format!("hf:org/repo@{COMMIT}/model.gguf")).unwrap().paths, first.paths);
    scene.variables = vec![("HF_HUB_OFFLINE", "1")];
    assert_eq!(scene.fetch(MODEL).unwrap().paths, first.paths);
    let error = scene.refused("hf:org/repo/other.gguf");
    assert!(error.contains("HF_HUB_OFFLINE") && error.contains("hf:org/repo/other.gguf"), "{error}");
}

#[test]
fn what_another_tool_has_fetched_is_used() {
    let hub = stand_in();
    let scene = Scene::at(&hub);
    let snapshot = scene.repo().join("snapshots").join(COMMIT);
    for folder in ["blobs", "refs"] {
        fs::create_dir_all(scene.repo().join(folder)).unwrap();
    }
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(scene.repo().join("blobs/etag"), "weights").unwrap();
    fs::write(scene.repo().join("refs/main"), COMMIT).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("../../blobs/etag", snapshot.join("model.gguf")).unwrap();
    let fetched = scene.fetch(MODEL).unwrap();
    assert_eq!(fs::read(&fetched.paths[0]).unwrap(), b"weights");
    assert!(hub.conduct().seen.is_empty());
    // A link to what was deleted is no file: it is fetched.
    fs::remove_file(scene.repo().join("blobs/etag")).unwrap();
    let fetched = scene.fetch(MODEL).unwrap();
    assert_eq!(fs::read(&fetched.paths[0]).unwrap(), model_bytes());
}

#[test]
fn a_cut_connection_is_gone_on_with_and_no_byte_comes_twice() {
    let hub = stand_in();
    hub.conduct().cuts = [1_200_000, 1_100_000, 200_000].into();
    let scene = Scene::at(&hub);
    let fetched = scene.fetch(MODEL).unwrap();
    assert_eq!(fs::read(&fetched.paths[0]).unwrap(), model_bytes());
    let pulls = hub.pulls();
    let ranges: Vec<_> =
        pulls.iter().map(|pull| pull.headers.get("range").map_or("", String::as_str)).collect();
    assert_eq!(ranges, ["", "bytes=1200000-", "bytes=2300000-", "bytes=2500000-"]);
    assert_eq!(pulls.iter().map(|pull| pull.sent).sum::<usize>(), model_bytes().len());
    assert_eq!(fetched.fetched_len, model_bytes().len() as u64);
}

#[test]
fn a_connection_that_falls_silent_is_given_up_and_gone_on_with() {
    let hub = stand_in();
    let mut scene = Scene::at(&hub);
    scene.patience.silence_max = Duration::from_millis(200);
    hub.conduct().falls_silent = true;
    hub.conduct().cuts = [2_000_000].into();
    let fetched = scene.fetch(MODEL).unwrap();
    assert_eq!(fs::read(&fetched.paths[0]).unwrap(), model_bytes());
    assert_eq!(hub.pulls().len(), 2);
}

#[test]
fn what_an_earlier_process_left_is_gone_on_with() {
    let hub = stand_in();
    let mut scene = Scene::at(&hub);
    scene.patience.repeats_max = 0;
    hub.conduct().cuts = [1_234_567].into();
    let error = scene.refused(MODEL);
    assert!(error.contains("1234567 of 3000000"), "{error}");
    assert_eq!(scene.blobs(), [format!("{}.incomplete", sha256(&model_bytes()))]);
    assert!(!scene.repo().join("snapshots").exists(), "nothing has the name of a whole file");
    let mut stages = Vec::new();
    let mut tell = |progress: Progress<'_>| stages.push(progress.stage);
    let fetched = fetch(&scene.hub(), &MODEL.parse().unwrap(), &mut tell).unwrap();
    assert_eq!(stages[0], Stage::Resuming);
    assert_eq!(fetched.fetched_len, 3_000_000 - 1_234_567);
    assert_eq!(fs::read(&fetched.paths[0]).unwrap(), model_bytes());
}

#[test]
fn a_hub_that_never_gets_further_is_given_up_with_what_came_kept() {
    let hub = stand_in();
    let scene = Scene::at(&hub);
    hub.conduct().cuts = [10; 100].into();
    let error = scene.refused(MODEL);
    assert!(error.contains("2 times without progress"), "{error}");
    assert_eq!(hub.pulls().len(), 3);
}

#[test]
fn a_hub_without_ranges_begins_anew() {
    let hub = stand_in();
    hub.conduct().has_ranges = false;
    hub.conduct().cuts = [1_000].into();
    let scene = Scene::at(&hub);
    let fetched = scene.fetch(MODEL).unwrap();
    assert_eq!(fs::read(&fetched.paths[0]).unwrap(), model_bytes());
}

#[test]
fn bytes_of_a_wrong_hash_are_deleted_and_said() {
    let hub = stand_in();
    let scene = Scene::at(&hub);
    let expected = "0".repeat(64);
    hub.conduct().etag = Some(expected.clone());
    let error = scene.refused(MODEL);
    assert!(error.contains(&expected) && error.contains(&sha256(&model_bytes())), "{error}");
    assert!(error.contains("deleted"), "{error}");
    assert_eq!(scene.blobs(), Vec::<String>::new());
    // Where what was left was wrong, it is only the next run that begins with nothing.
    hub.conduct().etag = None;
    let partial = scene.repo().join("blobs").join(format!("{}.incomplete", sha256(&model_bytes())));
    fs::write(partial, "not the beginning").unwrap();
    assert!(scene.refused(MODEL).contains("deleted"));
    assert_eq!(fs::read(&scene.fetch(MODEL).unwrap().paths[0]).unwrap(), model_bytes());
}

#[test]
fn a_partial_file_that_is_too_long_is_begun_anew() {
    let hub = stand_in();
    let scene = Scene::at(&hub);
    fs::create_dir_all(scene.repo().join("blobs")).unwrap();
    let partial = scene.repo().join("blobs").join(format!("{}.incomplete", sha256(&model_bytes())));
    fs::write(partial, vec![0; 3_000_001]).unwrap();
    assert_eq!(fs::read(&scene.fetch(MODEL).unwrap().paths[0]).unwrap(), model_bytes());
}

#[test]
fn without_a_sha256_the_length_is_checked_and_that_is_said() {
    let hub = stand_in();
    hub.conduct().etag = Some("a".repeat(40));
    let fetched = Scene::at(&hub).fetch(MODEL).unwrap();
    assert_eq!(fetched.unchecked, ["model.gguf"]);
}

#[test]
fn refusals_say_what_to_do() {
    let hub = stand_in();
    let mut scene = Scene::at(&hub);
    let mut refused = |variables: &[(&'static str, &'static str)], status, code| {
        scene.variables = variables.to_vec();
        hub.conduct().refusals = [(status, code)].into();
        scene.refused(MODEL)
    };
    let token = [("HF_TOKEN", "hf_old")];
    let terms = format!("terms at http://{}/org/repo", hub.hub);
    for error in [refused(&[], 401, "GatedRepo"), refused(&token, 403, "GatedRepo")] {
        assert!(error.contains(&terms) && error.contains("set `HF_TOKEN`"), "{error}");
    }
    assert!(refused(&token, 403, "").contains("gated"));
    let error = refused(&[], 401, "RepoNotFound");
    assert!(error.contains("does not exist, or it is private"), "{error}");
    let error = refused(&token, 401, "");
    assert!(error.contains("wrong or has expired") && !error.contains("hf_old"), "{error}");
    let error = refused(&[], 404, "RevisionNotFound");
    assert!(error.contains("no revision `main`"), "{error}");
    let error = refused(&[], 418, "");
    assert!(error.contains("418"), "{error}");
}

#[test]
fn a_missing_file_is_named_with_those_that_were_meant() {
    let hub = HubStandIn::with(&[
        ("README.md", b"words"),
        ("model-Q8_0.gguf", b"weights"),
        ("model-Q4_K_M.gguf", b"weights"),
    ]);
    let error = Scene::at(&hub).refused("hf:org/repo/model-q4_k.gguf");
    let close = "no file `model-q4_k.gguf` at `main`; it has `model-Q4_K_M.gguf`, `model-Q8_0.gguf`";
    assert!(error.ends_with(close), "{error}");
}

#[test]
fn a_hub_that_is_busy_is_asked_again() {
    let hub = stand_in();
    let scene = Scene::at(&hub);
    hub.conduct().refusals = [(503, "")].into();
    // And again when the bytes are asked for.
    let mut is_told = false;
    let mut tell = |progress: Progress<'_>| {
        if progress.stage == Stage::Fetching && !is_told {
            is_told = true;
            hub.conduct().refusals = [(429, ""), (500, "")].into();
        }
    };
    let fetched = fetch(&scene.hub(), &MODEL.parse().unwrap(), &mut tell).unwrap();
    assert_eq!(fs::read(&fetched.paths[0]).unwrap(), model_bytes());
    assert!(hub.conduct().refusals.is_empty());
    hub.conduct().refusals = [(503, "down"); 100].into();
    let error = scene.refused("hf:org/repo@main/other.gguf");
    assert!(error.contains("503"), "{error}");
}

#[test]
fn a_hub_that_cannot_be_reached_is_named() {
    let hub = stand_in();
    let scene = Scene::at(&hub);
    drop(hub);
    let error = scene.refused(MODEL);
    assert!(error.contains(&scene.endpoint) && error.contains("could not reach"), "{error}");
}

#[test]
fn all_parts_are_fetched_of_one_commit_though_the_branch_moves() {
    let names = ["q4/m-00001-of-00003.gguf", "q4/m-00002-of-00003.gguf", "q4/m-00003-of-00003.gguf"];
    let hub = HubStandIn::with(&[(names[0], b"one"), (names[1], b"two"), (names[2], b"three")]);
    hub.conduct().moves = true;
    let scene = Scene::at(&hub);
    let fetched = scene.fetch("hf:org/repo/q4/m-00002-of-00003.gguf").unwrap();
    let snapshot = scene.repo().join("snapshots").join(COMMIT);
    assert_eq!(fetched.paths, names.map(|name| snapshot.join(name)));
    let words: Vec<_> = fetched.paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    assert_eq!(words, ["one", "two", "three"]);
    assert_eq!(hub.conduct().commit, NEXT_COMMIT);
    // One part gone is the model gone: it is fetched anew, alone.
    fs::remove_file(snapshot.join(names[2])).unwrap();
    fs::remove_file(scene.repo().join("blobs").join(sha256(b"three"))).unwrap();
    assert_eq!(scene.fetch("hf:org/repo/q4/m-00001-of-00003.gguf").unwrap().fetched_len, 5);
}

#[test]
fn of_two_that_want_the_same_one_fetches_it() {
    let hub = stand_in();
    let scene = Scene::at(&hub);
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                start.wait();
                let fetched = scene.fetch(MODEL).unwrap();
                assert_eq!(fs::read(&fetched.paths[0]).unwrap(), model_bytes());
            });
        }
    });
    assert_eq!(hub.pulls().len(), 1);
}

#[test]
fn a_lock_that_nobody_works_under_is_named() {
    let hub = stand_in();
    let mut scene = Scene::at(&hub);
    scene.patience.lock_silence_max = Duration::from_millis(20);
    let locks = scene.cache.path().join(".locks/models--org--repo");
    fs::create_dir_all(&locks).unwrap();
    let path = locks.join(format!("{}.lock", sha256(&model_bytes())));
    let held = fs::File::create(&path).unwrap();
    held.lock().unwrap();
    let error = scene.refused(MODEL);
    assert!(error.contains(&path.display().to_string()), "{error}");
    drop(held);
    assert!(scene.fetch(MODEL).is_ok());
}

#[test]
fn more_than_the_disk_holds_is_refused_before_the_first_byte() {
    let hub = stand_in();
    hub.conduct().len = Some(1 << 60);
    let error = Scene::at(&hub).refused(MODEL);
    assert!(error.contains("bytes free") && error.contains("HF_HUB_CACHE"), "{error}");
    assert!(hub.pulls().is_empty());
}

#[test]
fn a_hostile_hub_gets_nothing_written_outside_the_cache() {
    let hub = stand_in();
    let scene = Scene::at(&hub);
    let outside = scene.cache.path().join("models--org--repo/evil");
    let strange = |change: &dyn Fn(&HubStandIn)| {
        change(&hub);
        let error = scene.refused(MODEL);
        assert!(error.contains("HF_ENDPOINT"), "{error}");
    };
    for etag in ["../evil", "/tmp/evil", "", ".", "..", "a/b", &"a".repeat(200)] {
        strange(&|hub| hub.conduct().etag = Some(etag.to_owned()));
    }
    hub.conduct().etag = None;
    for commit in ["../../evil", "", "main", "1111"] {
        strange(&|hub| commit.clone_into(&mut hub.conduct().commit));
    }
    COMMIT.clone_into(&mut hub.conduct().commit);
    for redirect in
        ["file:///etc/passwd", "ftp://host.example/", "model.gguf", "/org/repo/resolve/main/model.gguf"]
    {
        strange(&|hub| hub.conduct().redirect = Some(redirect.to_owned()));
    }
    assert!(!outside.exists());
    assert_eq!(scene.blobs(), Vec::<String>::new());
    assert!(hub.pulls().is_empty());
}

#[test]
fn names_with_spaces_are_found() {
    let hub = HubStandIn::with(&[("my model.gguf", b"weights")]);
    let address: Address = "hf:org/repo/my model.gguf".parse().unwrap();
    let fetched = fetch(&Scene::at(&hub).hub(), &address, &mut |_| {}).unwrap();
    assert_eq!(fetched.fetched_len, 7);
}
