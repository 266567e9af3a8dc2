//! JSON objects as they come and go: members stay the text that they were, so that nothing of a schema or of a tool
//! changes, not even the order of its members.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::answer::each_member;

/// The members of an object, those that are `null` left out.
#[derive(Debug)]
pub(super) struct Members<'a>(Vec<(String, &'a str)>);

impl<'a> Members<'a> {
    pub(super) fn of(text: &'a str) -> Option<Self> {
        let mut members: Vec<(String, &'a str)> = Vec::new();
        let take = |name: &str, value: &'a RawValue| {
            // Of members that come twice the last one counts, as everywhere.
            members.retain(|(known, _)| known != name);
            if value.get() != "null" {
                members.push((name.to_owned(), value.get()));
            }
        };
        each_member(text, take).ok()?;
        Some(Self(members))
    }

    pub(super) fn take(&mut self, name: &str) -> Option<&'a str> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.remove(at).1)
    }

    pub(super) fn take_text(&mut self, name: &str) -> Option<String> {
        text(self.take(name)?)
    }

    pub(super) fn ignore(&mut self, names: &[&str]) {
        self.0.retain(|(known, _)| !names.contains(&known.as_str()));
    }

    /// The name of the first member that nobody took.
    pub(super) fn left(&self) -> Option<&str> {
        self.0.first().map(|(name, _)| name.as_str())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }
}

/// The text that a JSON string stands for.
pub(super) fn text(raw: &str) -> Option<String> {
    serde_json::from_str(raw).ok()
}

/// The elements of an array.
pub(super) fn elements(raw: &str) -> Option<Vec<&str>> {
    let elements: Vec<&RawValue> = serde_json::from_str(raw).ok()?;
    Some(elements.into_iter().map(RawValue::get).collect())
}

/// An object that is being written.
#[derive(Debug)]
pub(super) struct Object(Vec<u8>);

impl Object {
    pub(super) fn new() -> Self {
        Self(vec![b'{'])
    }

    /// A member whose value is JSON already.
    pub(super) fn raw(&mut self, name: &str, value: &str) -> &mut Self {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        push(&mut self.0, name);
        self.0.push(b':');
        self.0.extend_from_slice(value.as_bytes());
        self
    }

    pub(super) fn put(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> &mut Self {
        let value = serde_json::to_string(value).expect("texts, numbers and lists of them are JSON");
        self.raw(name, &value)
    }

    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }

    pub(super) fn end_text(self) -> String {
        String::from_utf8(self.end()).expect("it is written from text")
    }
}

fn push(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("text into memory");
}
