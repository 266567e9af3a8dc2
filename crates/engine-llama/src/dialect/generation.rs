//! What chats and completions have in common: how the answer is chosen, where it ends, what it may look like.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::fields::Fields;
use crate::question::Sampling;
use crate::refusal::{self, Refusal};

/// Stop strings of one call, as OpenAI has it.
const STOPS_MAX: usize = 4;
const STOP_LEN_MAX: usize = 1_024;
/// Alternatives that are shown for each token, as OpenAI has it.
pub(super) const TOP_LOGPROBS_MAX: u8 = 20;
/// A larger one names more than anybody reads.
const SCHEMA_LEN_MAX: usize = 256 * 1024;

/// What is asked for, beside the prompt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    pub(crate) model: Option<String>,
    pub(crate) sampling: Sampling,
    pub(crate) has_seed: bool,
    pub(crate) stop: Vec<String>,
    /// Absent: what is left of the context.
    pub(crate) answer_len_max: Option<u32>,
    pub(crate) top_logprobs: Option<u8>,
    pub(crate) form: FormAsked,
    pub(crate) streams: bool,
    /// A streamed answer ends with its usage.
    pub(crate) shows_usage: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum FormAsked {
    Free,
    /// The text of a JSON schema, its members in their order.
    Schema(Box<str>),
}

impl FormAsked {
    pub(super) fn schema(schema: &str, param: &str) -> Result<Self, Refusal> {
        if schema.len() > SCHEMA_LEN_MAX {
            let expected = format!("a schema of at most {SCHEMA_LEN_MAX} bytes");
            return Err(refusal::out_of_range(param, &expected));
        }
        Ok(Self::Schema(schema.into()))
    }
}

/// Any JSON object.
const ANY_OBJECT: &str = r#"{"type":"object"}"#;

impl Asked {
    pub(super) fn take(fields: &mut Fields) -> Result<Self, Refusal> {
        let seed: Option<i64> = fields.take("seed", "an integer")?;
        let stream: Option<bool> = fields.take("stream", "true or false")?;
        let asked = Self {
            model: fields.take("model", "a text")?,
            sampling: sampling(fields, seed)?,
            has_seed: seed.is_some(),
            stop: stops(fields)?,
            answer_len_max: answer_len_max(fields)?,
            top_logprobs: None,
            form: FormAsked::Free,
            streams: stream.unwrap_or(false),
            shows_usage: shows_usage(fields)?,
        };
        fields.only("n", &["1"])?;
        fields.only("logit_bias", &["{}"])?;
        fields.only("store", &["false"])?;
        fields.only("service_tier", &["\"auto\"", "\"default\""])?;
        Ok(asked)
    }
}

fn sampling(fields: &mut Fields, seed: Option<i64>) -> Result<Sampling, Refusal> {
    let top_k: Option<i64> = fields.take("top_k", "an integer")?;
    let repeat_penalty = match fields.number("repeat_penalty", 0.01..=10.0)? {
        Some(penalty) => Some(penalty),
        None => fields.number("repetition_penalty", 0.01..=10.0)?,
    };
    let top_p = fields.number("top_p", 0.0..=1.0)?;
    Ok(Sampling {
        temperature: fields.number("temperature", 0.0..=2.0)?.unwrap_or(1.0),
        // -1 is vLLM's word for all.
        top_k: u32::try_from(top_k.unwrap_or(0).max(0)).unwrap_or(u32::MAX),
        top_p: top_p.unwrap_or(1.0),
        min_p: fields.number("min_p", 0.0..=1.0)?.unwrap_or(0.0),
        frequency_penalty: fields.number("frequency_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        presence_penalty: fields.number("presence_penalty", -2.0..=2.0)?.unwrap_or(0.0),
        repeat_penalty: repeat_penalty.unwrap_or(1.0),
        seed: seed.map_or(0, folded),
    })
}

/// To the bits that the sampling has. To llama.cpp all of them set mean a seed by chance: whoever names a seed wants the
/// same again.
const fn folded(seed: i64) -> u32 {
    match (seed ^ (seed >> 32)) as u32 {
        u32::MAX => 0,
        seed => seed,
    }
}

fn stops(fields: &mut Fields) -> Result<Vec<String>, Refusal> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stops {
        One(String),
        Many(Vec<String>),
    }
    let expected = "a text or a list of texts";
    let stops = match fields.take("stop", expected)? {
        Some(Stops::One(stop)) => vec![stop],
        Some(Stops::Many(stops)) => stops,
        None => Vec::new(),
    };
    if stops.len() > STOPS_MAX || stops.iter().any(|stop| stop.is_empty() || stop.len() > STOP_LEN_MAX) {
        let expected = format!("at most {STOPS_MAX} texts of 1 to {STOP_LEN_MAX} bytes");
        return Err(refusal::out_of_range("stop", &expected));
    }
    Ok(stops)
}

fn answer_len_max(fields: &mut Fields) -> Result<Option<u32>, Refusal> {
    let mut found = None;
    for name in ["max_tokens", "max_completion_tokens"] {
        let Some(len): Option<u32> = fields.take(name, "an integer of at least 1")? else { continue };
        if len == 0 {
            return Err(refusal::out_of_range(name, "an integer of at least 1"));
        }
        found = Some(found.map_or(len, |other: u32| other.min(len)));
    }
    Ok(found)
}

fn shows_usage(fields: &mut Fields) -> Result<bool, Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct StreamOptions {
        #[serde(default)]
        include_usage: Option<bool>,
    }
    let options: Option<StreamOptions> =
        fields.take("stream_options", "an object with no member but `include_usage`")?;
    Ok(options.and_then(|options| options.include_usage).unwrap_or(false))
}

/// Chats name a form; completions have none.
pub(super) fn form(fields: &mut Fields) -> Result<FormAsked, Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Format {
        r#type: String,
        json_schema: Option<Named>,
        /// llama.cpp's older place for it.
        schema: Option<Box<RawValue>>,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Named {
        schema: Option<Box<RawValue>>,
        #[serde(rename = "name")]
        _name: Option<String>,
        #[serde(rename = "description")]
        _description: Option<String>,
        /// Always so here.
        #[serde(rename = "strict")]
        _strict: Option<bool>,
    }
    let param = "response_format";
    let Some(raw) = fields.raw(param) else { return Ok(FormAsked::Free) };
    let format: Format = serde_json::from_str(raw.get())
        .map_err(|error| refusal::wrong_type(param, &format!("another object ({error})")))?;
    let schema = match (format.r#type.as_str(), format.json_schema, format.schema) {
        ("text", None, None) => return Ok(FormAsked::Free),
        ("json_object", None, None) => ANY_OBJECT.to_owned(),
        ("json_object", None, Some(schema))
        | ("json_schema", Some(Named { schema: Some(schema), .. }), None) => schema.get().to_owned(),
        ("json_schema", ..) => return Err(refusal::missing("response_format.json_schema.schema")),
        _ => return Err(refusal::out_of_range(param, "the type text, json_object or json_schema")),
    };
    FormAsked::schema(&schema, param)
}
