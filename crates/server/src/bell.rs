//! The bell: what was written to the store is news for ingest, dispatch, finalize and upkeep.
//!
//! Nothing travels through it. Whoever hears it asks the store; whoever was busy finds that it rang meanwhile.

use tokio::sync::watch;

#[derive(Debug, Clone)]
pub(crate) struct Bell(watch::Sender<u64>);

impl Bell {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    pub(crate) fn ring(&self) {
        self.0.send_modify(|rings| *rings = rings.wrapping_add(1));
    }

    pub(crate) fn listen(&self) -> Ear {
        Ear(self.0.subscribe())
    }
}

#[derive(Debug)]
pub(crate) struct Ear(watch::Receiver<u64>);

impl Ear {
    /// Returns when it rang since the last time. Safe to drop and call again.
    pub(crate) async fn heard(&mut self) {
        // The sender lives in the context that every listener holds, so the channel cannot close under it; if it did,
        // never returning leaves the caller to its other events.
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
