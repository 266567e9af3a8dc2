//! Packs: several embeddings requests as one, and its answer as theirs.
//!
//! This happens at the level of the OpenAI shape, above the engines' dialects: what an engine is asked is one
//! embeddings request whose `input` is a list, and no driver needs to know of it. Everything but `input` is taken from
//! the first request byte for byte, and an embedding is never read as numbers: what comes out is what the engine wrote.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::Xxh3;

use crate::engine_facts::{EngineFacts, Flavour};
use crate::limits::{PACK_INPUTS_AUTO, PACK_MEMBERS_LEN_MAX, PACK_TOKENS_AUTO};
use crate::tally::Usage;

/// What must be known of a request to put it into a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackShape {
    /// A digest of everything but the inputs, and of what kind they are: only equals travel together.
    pub key: u128,
    pub inputs: u32,
    /// About how many tokens the inputs are; exact for lists of token ids.
    pub tokens: u32,
    /// Of the inputs, in bytes.
    pub len: u32,
}

impl PackShape {
    /// None when the body has no input, or one that cannot be joined with others.
    pub fn of(body: &str) -> Option<Self> {
        let input = Input::of(body)?;
        let mut digest = Xxh3::new();
        let walk = each_member(body, |name, value| {
            if name != "input" {
                // Both lengths go in, so that no two bodies run together.
                digest.update(&(name.len() as u64).to_le_bytes());
                digest.update(name.as_bytes());
                digest.update(&(value.get().len() as u64).to_le_bytes());
                digest.update(value.get().as_bytes());
            }
        });
        walk.ok()?;
        digest.update(&[u8::from(input.is_tokens)]);
        Some(Self {
            key: digest.digest128(),
            inputs: u32::try_from(input.count).ok()?,
            tokens: u32::try_from(input.tokens).unwrap_or(u32::MAX),
            len: u32::try_from(input.raw.len()).unwrap_or(u32::MAX),
        })
    }
}

/// What one member has of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub inputs: u32,
    /// What it is charged by, where the engine counts only the whole.
    pub tokens: u32,
}

/// How much one call of an endpoint may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackLimits {
    pub inputs: u32,
    pub tokens: u64,
}

impl PackLimits {
    /// Every request is a call of its own.
    pub const NONE: Self = Self { inputs: 1, tokens: PACK_TOKENS_AUTO };

    /// What is asked for, as far as the engine takes it; and what its owner should know when it does not. Where nobody
    /// asked, requests are packed only for an engine that is known to take lists.
    pub fn of(
        inputs: Option<u32>,
        tokens: Option<u32>,
        facts: Option<&EngineFacts>,
    ) -> (Self, Vec<String>) {
        let capacity = facts.map(|facts| facts.capacity).unwrap_or_default();
        let takes_lists = capacity.inputs_per_call.is_some()
            || facts.is_some_and(|facts| facts.flavour != Flavour::Other);
        let mut notices = Vec::new();
        let mut clamped = |name: &str, asked: u64, own: Option<u64>| match own {
            Some(own) if asked > own => {
                notices.push(format!(
                    "`{name}` is {asked}, but the engine takes at most {own} in a call: {own} is used; set \
                     `{name} = {own}`"
                ));
                own
            }
            _ => asked,
        };
        let own = capacity.inputs_per_call.map(|own| own.max(1));
        let inputs = match inputs {
            Some(asked) => clamped("inputs_per_call", u64::from(asked), own.map(u64::from)) as u32,
            None if takes_lists => own.unwrap_or(PACK_INPUTS_AUTO).min(PACK_INPUTS_AUTO),
            None => 1,
        };
        let own = capacity.tokens_per_call.map(|own| own.max(1));
        let tokens = match tokens {
            Some(asked) => clamped("tokens_per_call", u64::from(asked), own),
            None => own.unwrap_or(PACK_TOKENS_AUTO),
        };
        (Self { inputs, tokens }, notices)
    }
}

/// The requests of a pack as one: the first body, with the inputs of all. None when one of them has no input, as
/// [`PackShape::of`] said; then it was never packed.
pub fn pack<'a>(
    bodies: impl ExactSizeIterator<Item = &'a str> + Clone,
) -> Option<(Vec<u8>, Vec<Share>)> {
    let first = bodies.clone().next()?;
    let place = Input::of(first)?.raw;
    let start = place.as_ptr() as usize - first.as_ptr() as usize;
    let len = first.len() + bodies.clone().skip(1).map(str::len).sum::<usize>();
    let (mut packed, mut shares) = (Vec::with_capacity(len), Vec::with_capacity(bodies.len()));
    packed.extend_from_slice(&first.as_bytes()[..start]);
    packed.push(b'[');
    for body in bodies {
        let input = Input::of(body)?;
        if !shares.is_empty() {
            packed.push(b',');
        }
        packed.extend_from_slice(input.elements().as_bytes());
        shares.push(input.share()?);
    }
    packed.push(b']');
    packed.extend_from_slice(&first.as_bytes()[start + place.len()..]);
    Some((packed, shares))
}

/// The answer to a pack, taken apart: one body for each member, in their order. Says what is wrong with an answer that
/// does not hold exactly one embedding for each input.
pub fn unpack(answer: &str, shares: &[Share]) -> Result<Vec<Vec<u8>>, String> {
    let mut members: Vec<(Cow<'_, str>, &RawValue)> = Vec::with_capacity(8);
    each_member(answer, |name, value| members.push((name, value)))
        .map_err(|error| format!("not a JSON object: {error}"))?;
    // Of a member that comes twice the last one counts.
    let last = |wanted: &str| members.iter().rposition(|(name, _)| name == wanted);
    let data_at = last("data").ok_or("no data")?;
    let usage_at = last("usage");
    members = members
        .into_iter()
        .enumerate()
        .filter(|(at, (name, _))| {
            (name != "data" || *at == data_at) && (name != "usage" || Some(*at) == usage_at)
        })
        .map(|(_, member)| member)
        .collect();
    let is_copied = |name: &str| name != "data" && name != "usage";
    let copied = members.iter().filter(|(name, _)| is_copied(name));
    let copied_len: usize = copied.map(|(name, value)| name.len() + value.get().len()).sum();
    if copied_len > PACK_MEMBERS_LEN_MAX {
        return Err(format!("{copied_len} bytes beside its embeddings, which each line would get"));
    }
    let elements =
        in_order(members.iter().find(|(name, _)| name == "data").ok_or("no data")?.1, shares)?;
    let usages =
        members.iter().find(|(name, _)| name == "usage").map(|(_, raw)| share_usage(raw, shares));
    let mut from = 0;
    let lines = shares.iter().enumerate().map(|(at, share)| {
        let own = &elements[from..from + share.inputs as usize];
        from += share.inputs as usize;
        let own_len: usize = own.iter().map(|element| element.text.len() + 8).sum();
        let mut line = Vec::with_capacity(own_len + 256);
        for (nth, (name, value)) in members.iter().enumerate() {
            line.push(if nth == 0 { b'{' } else { b',' });
            push_json(&mut line, name);
            line.push(b':');
            match (name.as_ref(), &usages) {
                ("data", _) => push_elements(&mut line, own),
                ("usage", Some(usages)) => push_json(&mut line, &usages[at]),
                _ => line.extend_from_slice(value.get().as_bytes()),
            }
        }
        line.push(b'}');
        line
    });
    Ok(lines.collect())
}

/// The one usage of a packed call, shared out: the sums are what the engine reported.
pub fn share_tokens(usage: Usage, shares: &[Share]) -> Vec<Usage> {
    let parts = [usage.input_tokens, usage.cached_tokens, usage.output_tokens, usage.reasoning_tokens]
        .map(|total| parts_of(total, shares));
    let usage_at = |at: usize| Usage {
        input_tokens: parts[0][at],
        cached_tokens: parts[1][at],
        output_tokens: parts[2][at],
        reasoning_tokens: parts[3][at],
        cut_short: 0,
    };
    (0..shares.len()).map(usage_at).collect()
}

/// The `input` of a request.
struct Input<'a> {
    /// As it stands in the body.
    raw: &'a str,
    /// It is a list of inputs, not one.
    is_list: bool,
    is_tokens: bool,
    count: usize,
    tokens: usize,
}

impl<'a> Input<'a> {
    fn of(body: &'a str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Asked<'a> {
            #[serde(borrow)]
            input: &'a RawValue,
        }
        let raw = serde_json::from_str::<Asked<'_>>(body).ok()?.input.get();
        if raw.starts_with('"') {
            return Some(Self {
                raw,
                is_list: false,
                is_tokens: false,
                count: 1,
                tokens: text_tokens(raw),
            });
        }
        let elements: Vec<&RawValue> = serde_json::from_str(raw).ok()?;
        let all = |begins: fn(u8) -> bool| {
            !elements.is_empty() && elements.iter().all(|element| begins(element.get().as_bytes()[0]))
        };
        if all(|byte| byte.is_ascii_digit()) {
            return Some(Self {
                raw,
                is_list: false,
                is_tokens: true,
                count: 1,
                tokens: elements.len(),
            });
        }
        let is_tokens = all(|byte| byte == b'[');
        if !is_tokens && !all(|byte| byte == b'"') {
            return None;
        }
        let tokens = elements.iter().map(|element| {
            // As many as there are commas, and one more: what stands in it is the engine's to judge.
            let commas = || element.get().bytes().filter(|byte| *byte == b',').count();
            if is_tokens { commas() + 1 } else { text_tokens(element.get()) }
        });
        Some(Self { raw, is_list: true, is_tokens, count: elements.len(), tokens: tokens.sum() })
    }

    /// Its inputs, with commas between them.
    fn elements(&self) -> &'a str {
        if self.is_list { &self.raw[1..self.raw.len() - 1] } else { self.raw }
    }

    fn share(&self) -> Option<Share> {
        let tokens = u32::try_from(self.tokens).unwrap_or(u32::MAX);
        Some(Share { inputs: u32::try_from(self.count).ok()?, tokens })
    }
}

/// Careful rather than close: most tokenizers make a token of three to four bytes of English, and more of code.
const fn text_tokens(raw: &str) -> usize {
    raw.len() / 3 + 1
}

/// An element of `data`, and where its index stands.
#[derive(Clone, Copy)]
struct Element<'a> {
    text: &'a str,
    index_at: usize,
    index_len: usize,
}

/// The elements by their index: each of 0 to the number of inputs exactly once, in whatever order they came.
fn in_order<'a>(data: &'a RawValue, shares: &[Share]) -> Result<Vec<Element<'a>>, String> {
    #[derive(Deserialize)]
    struct Numbered<'a> {
        #[serde(borrow)]
        index: &'a RawValue,
    }
    let elements: Vec<&RawValue> =
        serde_json::from_str(data.get()).map_err(|error| format!("`data` is no list: {error}"))?;
    let wanted: usize = shares.iter().map(|share| share.inputs as usize).sum();
    if elements.len() != wanted {
        return Err(format!("{} embeddings for {wanted} inputs", elements.len()));
    }
    let mut ordered: Vec<Option<Element<'_>>> = vec![None; wanted];
    for element in elements {
        let text = element.get();
        let index = serde_json::from_str::<Numbered<'_>>(text)
            .map_err(|error| format!("an embedding has no index: {error}"))?
            .index
            .get();
        let place = index.parse::<usize>().ok().and_then(|index| ordered.get_mut(index));
        let place = place.ok_or_else(|| format!("an embedding has the index `{index}` of {wanted}"))?;
        let index_at = index.as_ptr() as usize - text.as_ptr() as usize;
        if place.replace(Element { text, index_at, index_len: index.len() }).is_some() {
            return Err(format!("two embeddings have the index {index}"));
        }
    }
    // As many as wanted, none twice: none is missing.
    Ok(ordered.into_iter().flatten().collect())
}

fn push_elements(line: &mut Vec<u8>, elements: &[Element<'_>]) {
    line.push(b'[');
    for (index, element) in elements.iter().enumerate() {
        if index > 0 {
            line.push(b',');
        }
        line.extend_from_slice(&element.text.as_bytes()[..element.index_at]);
        line.extend_from_slice(index.to_string().as_bytes());
        line.extend_from_slice(&element.text.as_bytes()[element.index_at + element.index_len..]);
    }
    line.push(b']');
}

/// Every count in it, shared out; each part says that it is an estimate.
fn share_usage(raw: &RawValue, shares: &[Share]) -> Vec<serde_json::Value> {
    let whole: serde_json::Value = serde_json::from_str(raw.get()).unwrap_or_default();
    let mut parts = share_counts(&whole, shares);
    for part in parts.iter_mut().filter_map(serde_json::Value::as_object_mut) {
        part.insert("estimated".to_owned(), true.into());
    }
    parts
}

fn share_counts(whole: &serde_json::Value, shares: &[Share]) -> Vec<serde_json::Value> {
    if let serde_json::Value::Object(members) = whole {
        let mut parts = vec![serde_json::Map::new(); shares.len()];
        for (name, value) in members {
            for (part, value) in parts.iter_mut().zip(share_counts(value, shares)) {
                part.insert(name.clone(), value);
            }
        }
        return parts.into_iter().map(Into::into).collect();
    }
    match count_of(whole) {
        Some(total) => parts_of(total, shares).into_iter().map(Into::into).collect(),
        None => vec![whole.clone(); shares.len()],
    }
}

/// Some engines write whole numbers as `12.0`.
fn count_of(value: &serde_json::Value) -> Option<u64> {
    const EXACT_MAX: f64 = (1_u64 << 53) as f64;
    value.as_u64().or_else(|| {
        value
            .as_f64()
            .filter(|count| count.fract() == 0.0 && (0.0..=EXACT_MAX).contains(count))
            .map(|count| count as u64)
    })
}

/// By tokens, rounded down; what is left goes to those who lost most by it, the first before the others.
fn parts_of(total: u64, shares: &[Share]) -> Vec<u64> {
    let weights = shares.iter().map(|share| u128::from(share.tokens.max(1)));
    let sum: u128 = weights.clone().sum();
    let exact = |weight: u128| u128::from(total) * weight;
    let mut parts: Vec<u64> = weights.clone().map(|weight| (exact(weight) / sum) as u64).collect();
    let left = total - parts.iter().sum::<u64>();
    let mut by_loss: Vec<(u128, usize)> =
        weights.enumerate().map(|(at, weight)| (exact(weight) % sum, at)).collect();
    by_loss.sort_unstable_by_key(|(loss, at)| (std::cmp::Reverse(*loss), *at));
    for (_, at) in by_loss.into_iter().take(left as usize) {
        parts[at] += 1;
    }
    parts
}

fn push_json(line: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) {
    serde_json::to_writer(line, value).expect("plain data into memory");
}

/// Calls `visit` for each member of the one object that `text` must be.
fn each_member<'text>(
    text: &'text str,
    visit: impl FnMut(Cow<'text, str>, &'text RawValue),
) -> serde_json::Result<()> {
    struct Members<F>(F);

    impl<'de, F: FnMut(Cow<'de, str>, &'de RawValue)> Visitor<'de> for Members<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
            while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                (self.0)(name, map.next_value()?);
            }
            Ok(())
        }
    }

    let mut json = serde_json::Deserializer::from_str(text);
    json.deserialize_map(Members(visit))?;
    json.end()
}

#[cfg(test)]
mod tests;
