//! A batch whose first outcomes are all the same refusal is paused: burning through the rest would help nobody.

use serde::Deserialize;

use crate::limits::{REFUSALS_PAUSE_BATCH_LEN, REFUSALS_PAUSE_COUNT};

/// What refusals are compared by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalPattern {
    pub status: u16,
    pub code: Option<String>,
    pub message: String,
}

impl RefusalPattern {
    pub(super) fn read(status: u16, body: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Envelope {
            error: Inner,
        }
        #[derive(Deserialize)]
        struct Inner {
            code: Option<serde_json::Value>,
            message: Option<String>,
        }
        let inner = serde_json::from_slice::<Envelope>(body).ok().map(|envelope| envelope.error);
        let (code, message) = inner.map_or((None, None), |inner| (inner.code, inner.message));
        let code = code.and_then(|code| match code {
            serde_json::Value::Null => None,
            serde_json::Value::String(code) => Some(code),
            other => Some(other.to_string()),
        });
        Self { status, code, message: message.unwrap_or_default().chars().take(300).collect() }
    }

    /// A prompt that is too long says nothing about the other prompts.
    fn is_own_fault(&self) -> bool {
        let says = |text: &str| text.contains("context_length") || text.contains("context length");
        self.code.as_deref().is_some_and(says) || says(&self.message)
    }
}

#[derive(Debug)]
pub(super) enum RefusalWatch {
    /// All outcomes so far are this refusal, so many times.
    Watching { pattern: Option<RefusalPattern>, count: u64 },
    /// To be told once.
    Found(RefusalPattern),
    /// The batch is small, is past its first outcomes, or had another outcome.
    Over,
}

impl RefusalWatch {
    pub(super) const fn new(total: u64, done_before: u64) -> Self {
        if total > REFUSALS_PAUSE_BATCH_LEN && done_before == 0 {
            Self::Watching { pattern: None, count: 0 }
        } else {
            Self::Over
        }
    }

    pub(super) fn note(&mut self, refusal: Option<RefusalPattern>) {
        let Self::Watching { pattern, count } = self else { return };
        match refusal {
            Some(refusal) if !refusal.is_own_fault() => {
                let is_same = pattern
                    .as_ref()
                    .is_none_or(|first| first.status == refusal.status && first.code == refusal.code);
                if !is_same {
                    *self = Self::Over;
                    return;
                }
                *count += 1;
                if *count >= REFUSALS_PAUSE_COUNT {
                    *self = Self::Found(refusal);
                } else {
                    *pattern = Some(refusal);
                }
            }
            _ => *self = Self::Over,
        }
    }

    pub(super) fn take(&mut self) -> Option<RefusalPattern> {
        match std::mem::replace(self, Self::Over) {
            Self::Found(pattern) => Some(pattern),
            other => {
                *self = other;
                None
            }
        }
    }
}
