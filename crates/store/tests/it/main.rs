//! The store, seen only through its trait.

mod concurrency;
mod conformance;
mod database;
mod sequences;
