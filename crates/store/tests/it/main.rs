//! The store, seen only through its trait.

mod conformance;
