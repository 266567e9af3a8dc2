//! JSON objects as they come and go: members stay the text that they were, so that nothing of a schema or of a tool
//! changes, not even the order of its members.

use serde::Serialize;
use serde_json::value::RawValue;

use super::refusal::Refusal;
use crate::answer::each_member;

/// The members of an object, those that are `null` left out.
#[derive(Debug)]
pub(super) struct Members<'a> {
    /// What stands before the name of a member where one is refused.
    place: String,
    all: Vec<(String, &'a str)>,
}

impl<'a> Members<'a> {
    pub(super) fn of(text: &'a str) -> Option<Self> {
        Self::read(text, String::new())
    }

    /// An object within another one, at a place such as `messages[0]`.
    pub(super) fn at(place: &str, text: &'a str) -> Result<Self, Refusal> {
        let refused = || Refusal::new(place, format!("`{place}` must be an object"));
        Self::read(text, format!("{place}.")).ok_or_else(refused)
    }

    fn read(text: &'a str, place: String) -> Option<Self> {
        let mut members: Vec<(String, &'a str)> = Vec::new();
        let take = |name: &str, value: &'a RawValue| {
            // Of members that come twice the last one counts, as everywhere.
            members.retain(|(known, _)| known != name);
            if value.get() != "null" {
                members.push((name.to_owned(), value.get()));
            }
        };
        each_member(text, take).ok()?;
        Some(Self { place, all: members })
    }

    /// The name of a member as the caller finds it.
    pub(super) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.place)
    }

    pub(super) fn take(&mut self, name: &str) -> Option<&'a str> {
        let at = self.all.iter().position(|(known, _)| known == name)?;
        Some(self.all.remove(at).1)
    }

    /// None where it is not there: what is there and no text is refused.
    pub(super) fn take_text(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        let Some(raw) = self.take(name) else { return Ok(None) };
        match text(raw) {
            Some(text) => Ok(Some(text)),
            None => Err(self.refusal(name, "must be a text")),
        }
    }

    pub(super) fn refusal(&self, name: &str, why: &str) -> Refusal {
        let path = self.path(name);
        let message = format!("`{path}` {why}");
        Refusal::new(path, message)
    }

    pub(super) fn ignore(&mut self, names: &[&str]) {
        self.all.retain(|(known, _)| !names.contains(&known.as_str()));
    }

    /// Refuses a member that nobody took.
    pub(super) fn end(self) -> Result<(), Refusal> {
        match self.all.first() {
            None => Ok(()),
            Some((name, _)) => Err(Refusal::unknown(self.path(name))),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.all.iter().map(|(name, value)| (name.as_str(), *value))
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
