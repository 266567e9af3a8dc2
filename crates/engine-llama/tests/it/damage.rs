//! Model files that are none, or not whole, and models that do not fit: words, no crash.

use overnight_engine_llama::serve;

use crate::gguf::{self, Sketch};
use crate::harness::options;

async fn error_of(change: impl FnOnce(&std::path::Path), memory_bytes: Option<u64>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path(), 64, 1);
    options.memory_bytes = memory_bytes;
    change(&options.model);
    let ended = serve(options, std::future::pending()).await;
    format!("{:#}", ended.expect_err("it cannot be loaded"))
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_files_are_refused_in_words() {
    let cut = |path: &std::path::Path| {
        let len = std::fs::metadata(path).unwrap().len();
        std::fs::File::options().write(true).open(path).unwrap().set_len(len / 2).unwrap();
    };
    assert!(error_of(cut, None).await.contains("it is not whole"));
    let zip = |path: &std::path::Path| std::fs::write(path, "PK\x03\x04 a zip").unwrap();
    assert!(error_of(zip, None).await.contains("no GGUF file"));
    let gone = |path: &std::path::Path| std::fs::remove_file(path).unwrap();
    assert!(error_of(gone, None).await.contains("random.gguf"));
    // The head is whole, and lacks what belongs to its architecture.
    let strange = |path: &std::path::Path| {
        let mut bytes = std::fs::read(path).unwrap();
        let at = bytes.windows(5).position(|window| window == b"llama").unwrap();
        bytes[at..at + 5].copy_from_slice(b"lemma");
        std::fs::write(path, bytes).unwrap();
    };
    assert!(error_of(strange, None).await.contains("`lemma.block_count`"));
}

/// llama.cpp loads it, and ended the process with the first step.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_this_engine_cannot_use_is_refused_before_it_is_loaded() {
    let t5 = |path: &std::path::Path| {
        gguf::write_sketch(path, &Sketch { architecture: "t5", ..Sketch::llama(64) });
    };
    let error = error_of(t5, None).await;
    assert!(error.contains("`random` cannot be used") && error.contains("an encoder"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_does_not_fit_is_refused_with_figures() {
    let error = error_of(|_| (), Some(1024 * 1024)).await;
    assert!(error.contains("1 MiB") && error.contains("weights"), "{error}");
}
