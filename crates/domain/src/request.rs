//! One line of the input: what it must be, and what the plan wants to know about it.
//!
//! A line is parsed with borrowed text and never built into a tree: the body travels to the engine as the bytes that
//! the caller wrote.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::limits::CUSTOM_ID_LEN_MAX;
use crate::route::Route;

/// A valid request line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    pub custom_id: Cow<'a, str>,
    /// The body, as it lies in the line.
    pub body: &'a str,
    /// The model that the body names, or the batch's default.
    pub model: Option<Cow<'a, str>>,
    /// The raw JSON of what the prompt begins with: equal beginnings share an engine's prefix cache.
    pub prompt: Option<&'a str>,
    /// What of the engine's options forces a reload when it differs ([`reload_options`]).
    pub reload_options: Option<String>,
    /// How many inputs an embedding request has; 1 elsewhere.
    pub inputs: u64,
}

/// What is wrong with a line. One line may have several problems.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineError {
    pub code: &'static str,
    pub message: String,
    pub param: Option<&'static str>,
}

impl LineError {
    pub fn new(code: &'static str, param: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), param }
    }
}

/// What all lines of a batch are checked against.
#[derive(Debug, Clone, Copy)]
pub struct LineRules<'a> {
    pub route: Route,
    /// Fills the lines that name no model.
    pub default_model: Option<&'a str>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    custom_id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<&'a RawValue>,
    #[serde(borrow)]
    url: Option<&'a RawValue>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

/// The members of a body that we look at, all still raw.
#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    stream: Option<&'a RawValue>,
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    query: Option<&'a RawValue>,
    #[serde(borrow)]
    instructions: Option<&'a RawValue>,
    #[serde(borrow)]
    options: Option<&'a RawValue>,
}

impl<'a> Request<'a> {
    /// Parses and checks one line, without its line break.
    pub fn parse(line: &'a [u8], rules: LineRules<'a>) -> Result<Self, Vec<LineError>> {
        let text = std::str::from_utf8(line).map_err(|error| {
            let at = error.valid_up_to() + 1;
            vec![LineError::new(
                "invalid_json_line",
                None,
                format!("the line is not UTF-8 text (byte {at})"),
            )]
        })?;
        let envelope: Envelope<'a> =
            serde_json::from_str(text).map_err(|error| vec![not_a_request(text, &error)])?;
        if text.trim_start().as_bytes().first() != Some(&b'{') {
            return Err(vec![LineError::new(
                "invalid_request",
                None,
                "the line is JSON, but not an object",
            )]);
        }

        let mut problems = Vec::new();
        let custom_id = custom_id(envelope.custom_id, &mut problems);
        check_method(envelope.method, &mut problems);
        check_url(envelope.url, rules.route, &mut problems);
        let body = body(envelope.body, rules, &mut problems);
        match (custom_id, body) {
            (Some(custom_id), Some((raw, body))) if problems.is_empty() => {
                Ok(Self::assemble(custom_id, raw, &body, rules))
            }
            _ => Err(problems),
        }
    }

    fn assemble(
        custom_id: Cow<'a, str>,
        raw: &'a RawValue,
        body: &Body<'a>,
        rules: LineRules<'a>,
    ) -> Self {
        let prompt = rules.route.has_prompt_prefix().then(|| {
            // A Responses request begins with its instructions; both are part of the prefix, the first decides most.
            body.instructions.or(body.messages).or(body.prompt).or(body.input).map(RawValue::get)
        });
        let inputs = match (rules.route, body.input) {
            (Route::Embeddings | Route::Moderations, Some(input)) => count_inputs(input),
            _ => 1,
        };
        Self {
            custom_id,
            body: raw.get(),
            model: body.model.and_then(text_of).or_else(|| rules.default_model.map(Cow::Borrowed)),
            prompt: prompt.flatten(),
            reload_options: body.options.and_then(|options| reload_options(options.get())),
            inputs,
        }
    }
}

/// Ollama's options that belong to a loaded model (the `Runner` of its `api/types.go`, with those of older versions): a
/// request with another value makes it load the model anew. All other options cost nothing to change.
const RELOAD_OPTIONS: [&str; 12] = [
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "use_mmap",
    "num_thread",
    "numa",
    "low_vram",
    "f16_kv",
    "logits_all",
    "vocab_only",
    "use_mlock",
];

/// The options in an `options` object that force a reload, in one form however they were written; none where there are
/// none.
pub fn reload_options(options: &str) -> Option<String> {
    let options: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(options).ok()?;
    let told = RELOAD_OPTIONS.iter().filter_map(|name| {
        let value = options.get(*name)?.get();
        (value != "null").then(|| format!("{name}={value}"))
    });
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| told.join(" "))
}

/// A line that was validated before, taken apart again: its custom id and its body.
pub fn split(line: &[u8]) -> Option<(Cow<'_, str>, &str)> {
    #[derive(Deserialize)]
    struct Parts<'a> {
        #[serde(borrow)]
        custom_id: &'a RawValue,
        #[serde(borrow)]
        body: &'a RawValue,
    }
    let parts: Parts<'_> = serde_json::from_slice(line).ok()?;
    Some((text_of(parts.custom_id)?, parts.body.get()))
}

/// The model that a body names.
pub fn model_of(body: &str) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        model: Option<&'a RawValue>,
    }
    let named: Named<'_> = serde_json::from_str(body).ok()?;
    named.model.and_then(text_of)
}

/// The body with another model in the place of the one that it names, or with one where it names none. Nothing else of
/// it changes.
pub fn with_model(body: &str, model: &str) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    struct Named<'a> {
        // A model of `null` names none and is replaced all the same: a second `model` would make the body ambiguous.
        #[serde(borrow, default, deserialize_with = "even_null")]
        model: Option<&'a RawValue>,
    }
    let named: Named<'_> = serde_json::from_str(body).ok()?;
    let model = serde_json::to_string(model).ok()?;
    let mut out = Vec::with_capacity(body.len() + model.len() + 12);
    if let Some(raw) = named.model {
        // The raw value is a part of the body: its place follows from the addresses.
        let at = raw.get().as_ptr() as usize - body.as_ptr() as usize;
        out.extend_from_slice(&body.as_bytes()[..at]);
        out.extend_from_slice(model.as_bytes());
        out.extend_from_slice(&body.as_bytes()[at + raw.get().len()..]);
    } else {
        let inside = body.trim_start().strip_prefix('{')?;
        let comma = if inside.trim_start().starts_with('}') { "" } else { "," };
        out.extend_from_slice(format!("{{\"model\":{model}{comma}").as_bytes());
        out.extend_from_slice(inside.as_bytes());
    }
    Some(out)
}

fn even_null<'de, D: serde::Deserializer<'de>>(reader: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(reader).map(Some)
}

/// Why serde could not read the envelope: no JSON at all, or JSON of another shape.
fn not_a_request(text: &str, error: &serde_json::Error) -> LineError {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(raw) if raw.get().starts_with('{') => {
            LineError::new("invalid_request", None, format!("the line is not a request: {error}"))
        }
        Ok(_) => LineError::new("invalid_request", None, "the line is JSON, but not an object"),
        Err(error) => {
            let what = error.to_string();
            // Which line of the file it is stands before this; here there is only one.
            let what = what.replace(" at line 1 column ", " at column ");
            LineError::new("invalid_json_line", None, format!("the line is not valid JSON: {what}"))
        }
    }
}

fn text_of(raw: &RawValue) -> Option<Cow<'_, str>> {
    let json = raw.get();
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str::<String>(json).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

fn missing(param: &'static str) -> LineError {
    LineError::new("missing_required_parameter", Some(param), format!("the line has no `{param}`"))
}

fn custom_id<'a>(raw: Option<&'a RawValue>, problems: &mut Vec<LineError>) -> Option<Cow<'a, str>> {
    let Some(raw) = raw else {
        problems.push(missing("custom_id"));
        return None;
    };
    let problem = match text_of(raw) {
        None => "`custom_id` must be a string".to_owned(),
        Some(id) if id.is_empty() => "`custom_id` must not be empty".to_owned(),
        Some(id) if id.len() > CUSTOM_ID_LEN_MAX => {
            format!("`custom_id` has {} bytes, the limit is {CUSTOM_ID_LEN_MAX}", id.len())
        }
        Some(id) => return Some(id),
    };
    problems.push(LineError::new("invalid_request", Some("custom_id"), problem));
    None
}

fn check_method(raw: Option<&RawValue>, problems: &mut Vec<LineError>) {
    match raw.map(text_of) {
        None => problems.push(missing("method")),
        Some(Some(method)) if method.eq_ignore_ascii_case("POST") => {}
        Some(_) => {
            problems.push(LineError::new("invalid_method", Some("method"), "`method` must be `POST`"));
        }
    }
}

fn check_url(raw: Option<&RawValue>, route: Route, problems: &mut Vec<LineError>) {
    match raw.map(text_of) {
        None => problems.push(missing("url")),
        Some(Some(url)) if Route::parse(&url) == Some(route) => {}
        Some(Some(url)) => {
            let url: String = url.chars().take(200).collect();
            let message = format!("`url` is `{url}`, but the batch was created for `{}`", route.path());
            problems.push(LineError::new("invalid_url", Some("url"), message));
        }
        Some(None) => {
            problems.push(LineError::new("invalid_request", Some("url"), "`url` must be a string"));
        }
    }
}

fn body<'a>(
    raw: Option<&'a RawValue>,
    rules: LineRules<'_>,
    problems: &mut Vec<LineError>,
) -> Option<(&'a RawValue, Body<'a>)> {
    let Some(raw) = raw else {
        problems.push(missing("body"));
        return None;
    };
    if !raw.get().starts_with('{') {
        problems.push(LineError::new("invalid_request", Some("body"), "`body` must be an object"));
        return None;
    }
    let body: Body<'a> = match serde_json::from_str(raw.get()) {
        Ok(body) => body,
        Err(error) => {
            problems.push(LineError::new(
                "invalid_request",
                Some("body"),
                format!("`body` is ambiguous: {error}"),
            ));
            return None;
        }
    };
    match body.model.map(text_of) {
        None if rules.default_model.is_some() => {}
        None => problems.push(LineError::new(
            "invalid_request",
            Some("body.model"),
            "`body` names no `model`, and neither does the batch (`overnight.model`, or `--model`)",
        )),
        Some(Some(model)) if !model.is_empty() => {}
        Some(_) => {
            problems.push(LineError::new(
                "invalid_request",
                Some("body.model"),
                "`model` must be a non-empty string",
            ));
        }
    }
    if body.stream.is_some_and(|stream| stream.get() == "true") {
        let message = "`stream` must not be true: a batch collects whole answers";
        problems.push(LineError::new("streaming_unsupported", Some("body.stream"), message));
    }
    if let Some((member, param)) = absent_member(&body, rules.route) {
        problems.push(LineError::new(
            "invalid_request",
            Some(param),
            format!("`body` has no `{member}`"),
        ));
    }
    Some((raw, body))
}

fn absent_member(body: &Body<'_>, route: Route) -> Option<(&'static str, &'static str)> {
    let member = route.required_member()?;
    let (present, param) = match member {
        "messages" => (body.messages.is_some(), "body.messages"),
        "prompt" => (body.prompt.is_some(), "body.prompt"),
        // A stored prompt (`prompt`) stands in for the input of a Responses request.
        "input" => {
            (body.input.is_some() || (route == Route::Responses && body.prompt.is_some()), "body.input")
        }
        _ => (body.query.is_some(), "body.query"),
    };
    (!present).then_some((member, param))
}

/// An array of texts or of token lists counts its elements; one text, or one list of tokens, is one input.
fn count_inputs(input: &RawValue) -> u64 {
    if !input.get().starts_with('[') {
        return 1;
    }
    match serde_json::from_str::<Vec<&RawValue>>(input.get()) {
        Ok(elements)
            if elements.first().is_some_and(|first| first.get().starts_with(['"', '[', '{'])) =>
        {
            elements.len() as u64
        }
        _ => 1,
    }
}

#[cfg(test)]
mod tests;
