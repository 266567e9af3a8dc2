//! The one thread that asks the drivers. A call of theirs may block for minutes, and then only this thread waits: looks do
//! not pile up, and the process ends without it.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};

use anyhow::Context as _;
use overnight_domain::gpu_health::GpuFacts;
use overnight_domain::limits::GPU_SAMPLE_EVERY;
use tokio::sync::watch;

use super::amd;
use super::nvidia::Nvidia;

/// What was seen of all GPUs at once.
#[derive(Debug, Clone, Default)]
pub(super) struct Look {
    pub(super) devices: Vec<GpuFacts>,
    /// Why there is nothing to see, or not all.
    pub(super) unknown: Option<Unknown>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unknown {
    pub(super) text: String,
    /// Somebody should do something; otherwise there is only no GPU here.
    pub(super) is_trouble: bool,
}

impl Unknown {
    pub(super) fn trouble(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_trouble: true }
    }
}

pub(super) struct Sampler {
    looks: watch::Receiver<Look>,
    /// Dropped with us, which ends the thread at its next pause.
    _stop: SyncSender<()>,
}

impl Sampler {
    pub(super) fn start(library: String, sysfs: PathBuf) -> io::Result<Self> {
        let (publish, looks) = watch::channel(Look::default());
        let (stop, stopped) = sync_channel(0);
        let sampling = Sampling { nvidia: Nvidia::new(library), sysfs, publish, stopped };
        std::thread::Builder::new().name("gpu".to_owned()).spawn(move || sampling.run())?;
        Ok(Self { looks, _stop: stop })
    }

    /// The next look. Safe to drop and call again.
    pub(super) async fn next(&mut self) -> anyhow::Result<Look> {
        self.looks.changed().await.context("the thread `gpu` panicked")?;
        Ok(self.looks.borrow_and_update().clone())
    }
}

/// What the thread owns.
struct Sampling {
    nvidia: Nvidia,
    sysfs: PathBuf,
    publish: watch::Sender<Look>,
    stopped: Receiver<()>,
}

impl Sampling {
    fn run(mut self) {
        loop {
            let look = self.look();
            if self.publish.send(look).is_err()
                || !matches!(self.stopped.recv_timeout(GPU_SAMPLE_EVERY), Err(RecvTimeoutError::Timeout))
            {
                return;
            }
        }
    }

    fn look(&mut self) -> Look {
        let mut look = self.nvidia.look();
        look.devices.extend(amd::look(&self.sysfs, look.devices.len() as u32));
        let is_known = !look.devices.is_empty();
        look.unknown = look.unknown.filter(|unknown| unknown.is_trouble || !is_known);
        look
    }
}
