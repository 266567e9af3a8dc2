//! The body of a form on its way to the parser, which by itself takes all that is there into its memory: whatever has
//! arrived before it hands out the first byte, and everything before a field until the field begins.
//!
//! Guaranteed: the parser is given one piece at a time, and before a field no more than its allowance.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::body::BodyDataStream;
use bytes::Bytes;
use futures::stream::Stream;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
#[error("no field begins where one must")]
pub(super) struct HeadTooLong;

/// How many bytes the parser may still be given. Cheap to clone.
#[derive(Clone)]
pub(super) struct Allowance(Arc<AtomicUsize>);

impl Allowance {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicUsize::new(usize::MAX)))
    }

    pub(super) fn set(&self, len: usize) {
        self.0.store(len, Ordering::Relaxed);
    }

    pub(super) fn lift(&self) {
        self.set(usize::MAX);
    }

    fn is_used_up(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// Without one, nothing is counted.
    fn take(&self, len: usize) {
        let left = self.0.load(Ordering::Relaxed);
        if left != usize::MAX {
            self.set(left.saturating_sub(len));
        }
    }
}

pub(super) struct Paced {
    body: BodyDataStream,
    allowance: Allowance,
    /// The parser has been given a piece and looks at it first.
    has_given: bool,
}

impl Paced {
    pub(super) fn new(body: BodyDataStream, allowance: Allowance) -> Self {
        Self { body, allowance, has_given: false }
    }
}

impl Stream for Paced {
    type Item = Result<Bytes, BoxError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if std::mem::take(&mut this.has_given) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if this.allowance.is_used_up() {
            return Poll::Ready(Some(Err(HeadTooLong.into())));
        }
        Pin::new(&mut this.body).poll_next(cx).map(|piece| {
            let piece = piece?;
            if let Ok(bytes) = &piece {
                this.has_given = true;
                this.allowance.take(bytes.len());
            }
            Some(piece.map_err(Into::into))
        })
    }
}
