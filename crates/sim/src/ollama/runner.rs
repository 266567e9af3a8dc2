//! The one runner: what is loaded, how many it serves at once, and who waits.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Ollama;

/// What a model is loaded with. Another request with other values makes Ollama load it anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    model: String,
    pub(super) num_ctx: u64,
    others: BTreeMap<&'static str, String>,
}

impl Options {
    pub(super) fn of(options: &Value, model: &str, setup: &Ollama) -> Self {
        // The `Runner` part of Ollama's options.
        let others = ["num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread"].into_iter();
        Self {
            model: model.to_owned(),
            num_ctx: options["num_ctx"].as_u64().unwrap_or(setup.num_ctx).min(setup.trained_ctx),
            others: others
                .filter(|name| !options[name].is_null())
                .map(|name| (name, options[name].to_string()))
                .collect(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Runner {
    slots: Arc<Semaphore>,
    loaded: Mutex<Option<Options>>,
    waiting: AtomicUsize,
    loads: AtomicUsize,
}

/// More wait for a load than may.
pub(super) struct QueueIsFull;

impl Runner {
    pub(crate) fn new(setup: &Ollama) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(setup.parallel.max(1) as usize)),
            loaded: Mutex::default(),
            waiting: AtomicUsize::new(0),
            loads: AtomicUsize::new(0),
        }
    }

    /// The model that is loaded, and its context.
    pub(super) fn loaded(&self) -> Option<(String, u64)> {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.as_ref().map(|options| (options.model.clone(), options.num_ctx))
    }

    pub(crate) fn loads(&self) -> usize {
        self.loads.load(Ordering::Relaxed)
    }

    fn has(&self, wanted: &Options) -> bool {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(wanted)
    }

    /// A slot of the runner with these options, after as much waiting as it takes.
    pub(super) async fn take(
        &self,
        wanted: Options,
        setup: &Ollama,
    ) -> Result<OwnedSemaphorePermit, QueueIsFull> {
        loop {
            if self.has(&wanted) {
                let slot = self.acquired(1).await;
                if self.has(&wanted) {
                    return Ok(slot);
                }
                continue;
            }
            let _place = Place::take(&self.waiting, setup.max_queue)?;
            let mut all = self.acquired(setup.parallel.max(1)).await;
            if !self.has(&wanted) {
                tokio::time::sleep(Duration::from_millis(setup.load_ms)).await;
                self.loads.fetch_add(1, Ordering::Relaxed);
                *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = Some(wanted);
            }
            drop(all.split(setup.parallel.max(1) as usize - 1));
            return Ok(all);
        }
    }

    async fn acquired(&self, count: u32) -> OwnedSemaphorePermit {
        let slots = Arc::clone(&self.slots);
        slots.acquire_many_owned(count).await.expect("the semaphore of a script is never closed")
    }
}

/// A place in the queue before a load, given back when its client leaves.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, max: usize) -> Result<Self, QueueIsFull> {
        let place = Self(waiting);
        if waiting.fetch_add(1, Ordering::Relaxed) >= max { Err(QueueIsFull) } else { Ok(place) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
