//! The OpenAI dialect: strict reading of what is asked, and the words for what is answered. What would be ignored is
//! refused by name.

pub(crate) mod chat;
pub(crate) mod completion;
pub(crate) mod embedding;
mod fields;
pub(crate) mod generation;
pub(crate) mod reply;
pub(crate) mod tools;

#[cfg(test)]
mod tests;
