//! Sending failed requests again, and showing their results in the place of the failed ones.
//!
//! A retry is a child batch whose input is the failed lines of its parent, in the parent's order and byte for byte.
//! The parent never changes. Because every list here (failed requests, output, error file, a child's results) is in
//! input order, all of it is done in lockstep: memory does not grow with the batch.

pub(crate) mod collect;
pub(crate) mod merge;
pub(crate) mod sent_again;
mod stored_lines;
