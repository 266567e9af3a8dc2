//! Documents into requests, and answers into labels: what `overnight classify` is besides a batch.
//!
//! Guaranteed: equal documents are asked once; what was answered is not asked again; an answer that is no label is
//! shown as it is and never guessed at. One document is in memory at a time; of all of them their paths and digests.
//! Absent on purpose: reading anything but text, and looking at the end of a long document.

mod answer;
mod documents;
mod expected;
mod labels;
mod question;
mod report;
mod score;
mod state;
mod survey;

pub(crate) use answer::{Answers, Outcome};
pub(crate) use documents::Listing;
pub(crate) use expected::Expected;
pub(crate) use labels::Labels;
pub(crate) use question::Question;
pub(crate) use report::{Counts, Report};
pub(crate) use score::{NO_LABEL, Score};
pub(crate) use state::{Round, Sent, State};
pub(crate) use survey::{Room, Survey, survey};
