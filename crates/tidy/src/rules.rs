//! One file per kind of rule.

pub(crate) mod attributes;
pub(crate) mod names;
pub(crate) mod places;
pub(crate) mod sizes;
pub(crate) mod spawns;
pub(crate) mod words;
