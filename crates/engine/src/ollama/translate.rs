//! From the body of an OpenAI route to the one that Ollama takes.
//!
//! Whatever has no counterpart is refused by name: a caller who is told can change the request, one who is not gets
//! another answer than was asked for.

use overnight_domain::route::Route;

use super::messages;
use super::object::{Members, Object, elements, text};
use super::refusal::Refusal;
use super::sizes::{Part, Sizes};

/// How long Ollama keeps a model in memory after a call, where the caller does not say: every call of a batch asks for
/// it anew, and a pause between two calls that is longer than this has other reasons.
pub(super) const KEEP_ALIVE: &str = "30m";

/// A request as it goes to Ollama.
#[derive(Debug)]
pub(super) struct Translated {
    pub(super) path: Path,
    pub(super) body: Vec<u8>,
    pub(super) model: String,
    /// The context that it is sent with; none: whatever the model is loaded with.
    pub(super) num_ctx: Option<u64>,
    /// What makes Ollama load the model anew where it changes.
    pub(super) reload_options: String,
    pub(super) sizes: Sizes,
    pub(super) back: Back,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    Chat,
    Generate,
    Embed,
}

impl Translated {
    /// The model, and what it is loaded with.
    pub(super) fn loaded_as(&self) -> String {
        if self.reload_options.is_empty() {
            self.model.clone()
        } else {
            format!("{} {}", self.model, self.reload_options)
        }
    }
}

/// What must be known of a request to put its answer into OpenAI's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Back {
    pub(super) wants_logprobs: bool,
    pub(super) in_base64: bool,
    pub(super) dimensions: Option<usize>,
}

/// What holds for every request of an endpoint.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Defaults {
    /// Sent with a request that sets none.
    pub(super) num_ctx: Option<u64>,
}

/// What OpenAI takes and what changes nothing about an answer here.
const WITHOUT_EFFECT: [&str; 9] = [
    "stream",
    "stream_options",
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
];

/// Members that are options of Ollama under the same or another name.
const OPTIONS: [(&str, &str); 9] = [
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("top_k", "top_k"),
    ("min_p", "min_p"),
    ("seed", "seed"),
    ("presence_penalty", "presence_penalty"),
    ("frequency_penalty", "frequency_penalty"),
    ("repeat_penalty", "repeat_penalty"),
    ("repetition_penalty", "repeat_penalty"),
];

pub(super) fn translate(route: Route, body: &str, defaults: Defaults) -> Result<Translated, Refusal> {
    let mut members =
        Members::of(body).ok_or_else(|| Refusal::new("body", "the body must be an object"))?;
    let model =
        members.take_text("model")?.ok_or_else(|| Refusal::new("model", "there is no `model`"))?;
    let mut out = Object::new();
    out.put("model", &model).put("stream", &false);
    let mut sizes = Sizes::default();
    let mut back = Back::default();
    let options = Options::read(&mut members, defaults)?;
    let path = match route {
        Route::ChatCompletions => {
            chat(&mut members, &mut out, &mut sizes)?;
            back.wants_logprobs = chat_logprobs(&mut members, &mut out)?;
            Path::Chat
        }
        Route::Completions => {
            completion(&mut members, &mut out, &mut sizes)?;
            back.wants_logprobs = completion_logprobs(&mut members, &mut out)?;
            Path::Generate
        }
        Route::Embeddings => {
            back = embedding(&mut members, &mut out, &mut sizes)?;
            Path::Embed
        }
        Route::Responses | Route::Moderations | Route::Rerank | Route::Score => {
            let message = format!("Ollama has no route of its own for `{}`", route.path());
            return Err(Refusal::new("url", message));
        }
    };
    match members.take("keep_alive") {
        Some(asked) => out.raw("keep_alive", asked),
        None => out.put("keep_alive", KEEP_ALIVE),
    };
    // A prompt that does not fit is to be refused, and an answer that does not fit is to end.
    refuse_true(&mut members, "truncate")?;
    out.put("truncate", &false);
    if path != Path::Embed {
        refuse_true(&mut members, "shift")?;
        out.put("shift", &false);
    }
    out.raw("options", &options.text);
    members.ignore(&WITHOUT_EFFECT);
    members.end()?;
    Ok(Translated {
        path,
        body: out.end(),
        model,
        num_ctx: options.num_ctx,
        reload_options: options.reload,
        sizes,
        back,
    })
}

fn refuse_true(members: &mut Members<'_>, name: &str) -> Result<(), Refusal> {
    match members.take(name) {
        None | Some("false") => Ok(()),
        Some(_) => {
            Err(Refusal::new(name, format!("`{name}` must not be set: no prompt is cut here unseen")))
        }
    }
}

fn chat(members: &mut Members<'_>, out: &mut Object, sizes: &mut Sizes) -> Result<(), Refusal> {
    let list =
        members.take("messages").ok_or_else(|| Refusal::new("messages", "there are no `messages`"))?;
    out.raw("messages", &messages::translate(list, sizes)?);
    only(members, "n", &["1"])?;
    only(members, "parallel_tool_calls", &["true"])?;
    only(members, "modalities", &["[\"text\"]"])?;
    // With `none` OpenAI leaves the tools out of what the model may do; Ollama has no other way than to leave them out.
    let has_tools = match members.take("tool_choice") {
        None | Some("\"auto\"") => true,
        Some("\"none\"") => false,
        Some(_) => {
            let message = "`tool_choice` must be `auto` or `none`: Ollama cannot be made to call a tool";
            return Err(Refusal::new("tool_choice", message));
        }
    };
    if let Some(tools) = members.take("tools").filter(|_| has_tools) {
        check_tools(tools)?;
        sizes.frame_len += tools.len();
        out.raw("tools", tools);
    }
    if let Some(format) = members.take("response_format") {
        if let Some(format) = response_format(format)? {
            out.raw("format", format);
        }
    } else if let Some(format) = members.take("format") {
        out.raw("format", format);
    }
    if let Some(think) = think(members)? {
        out.raw("think", &think);
    }
    Ok(())
}

/// They go as they are; what Ollama would drop of them is refused. The schema of the parameters is the model's to read.
fn check_tools(raw: &str) -> Result<(), Refusal> {
    let tools = elements(raw).ok_or_else(|| Refusal::new("tools", "`tools` must be a list"))?;
    for (at, tool) in tools.into_iter().enumerate() {
        let place = format!("tools[{at}]");
        let mut tool = Members::at(&place, tool)?;
        only(&mut tool, "type", &["\"function\""])?;
        let function = tool.take("function").ok_or_else(|| {
            Refusal::new(&*place, format!("`{place}` has no `function`: Ollama has no other tools"))
        })?;
        let mut function = Members::at(&tool.path("function"), function)?;
        // Of `strict` Ollama has no choice.
        function.ignore(&["name", "description", "parameters", "strict"]);
        function.end()?;
        tool.end()?;
    }
    Ok(())
}

/// `none` for a text, the word or the schema otherwise.
fn response_format(raw: &str) -> Result<Option<&str>, Refusal> {
    const NAME: &str = "response_format";
    let refused = |why: &str| Refusal::new(NAME, format!("`{NAME}` {why}"));
    let mut format = Members::at(NAME, raw)?;
    let wanted = match format.take_text("type")?.as_deref() {
        Some("text") => None,
        Some("json_object") => Some("\"json\""),
        Some("json_schema") => {
            let missing = || refused("has no `json_schema.schema`");
            let schema = format.take("json_schema").ok_or_else(missing)?;
            let mut schema = Members::at(&format.path("json_schema"), schema)?;
            let wanted = schema.take("schema").ok_or_else(missing)?;
            // Every answer is held to its schema; the name is for the caller.
            schema.ignore(&["name", "description", "strict"]);
            schema.end()?;
            Some(wanted)
        }
        _ => return Err(refused("must be of the type `text`, `json_object` or `json_schema`")),
    };
    format.end()?;
    Ok(wanted)
}

/// Ollama's own word goes before OpenAI's, and the plain one before the one in an object.
fn think(members: &mut Members<'_>) -> Result<Option<String>, Refusal> {
    let mut effort = members.take("reasoning_effort");
    if let Some(reasoning) = members.take("reasoning") {
        let mut reasoning = Members::at("reasoning", reasoning)?;
        effort = effort.or(reasoning.take("effort"));
        reasoning.end()?;
    }
    if let Some(think) = members.take("think") {
        return Ok(Some(think.to_owned()));
    }
    match effort.map(text) {
        None => Ok(None),
        Some(Some(effort)) if effort == "none" => Ok(Some("false".to_owned())),
        Some(Some(effort)) if ["low", "medium", "high"].contains(&effort.as_str()) => {
            Ok(Some(format!("\"{effort}\"")))
        }
        Some(_) => Err(Refusal::new(
            "reasoning_effort",
            "`reasoning_effort` must be `none`, `low`, `medium` or `high` for Ollama",
        )),
    }
}

fn chat_logprobs(members: &mut Members<'_>, out: &mut Object) -> Result<bool, Refusal> {
    let wanted = match members.take("logprobs") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Refusal::new("logprobs", "`logprobs` must be true or false")),
    };
    let most = members.take("top_logprobs").filter(|most| *most != "0");
    if most.is_some() && !wanted {
        return Err(Refusal::new("top_logprobs", "`top_logprobs` needs `logprobs`"));
    }
    if wanted {
        out.put("logprobs", &true);
    }
    if let Some(most) = most {
        out.raw("top_logprobs", most);
    }
    Ok(wanted)
}

fn completion(members: &mut Members<'_>, out: &mut Object, sizes: &mut Sizes) -> Result<(), Refusal> {
    let message = "`prompt` must be one text: Ollama takes neither tokens nor several prompts at once";
    let refused = || Refusal::new("prompt", message);
    let raw = members.take("prompt").ok_or_else(refused)?;
    let prompt = if raw.starts_with('[') {
        let list = elements(raw).ok_or_else(refused)?;
        let [only] = *list else { return Err(refused()) };
        only
    } else {
        raw
    };
    let prompt_len = text(prompt).ok_or_else(refused)?.len();
    if prompt_len == 0 {
        return Err(Refusal::new("prompt", "`prompt` is empty: Ollama would only load the model"));
    }
    out.raw("prompt", prompt);
    sizes.parts.push(Part { is_system: false, len: prompt_len, images: 0 });
    for (name, allowed) in [("n", "1"), ("best_of", "1"), ("echo", "false")] {
        only(members, name, &[allowed])?;
    }
    for name in ["suffix", "system", "template", "raw", "format"] {
        if let Some(value) = members.take(name) {
            sizes.frame_len += value.len();
            out.raw(name, value);
        }
    }
    if let Some(think) = think(members)? {
        out.raw("think", &think);
    }
    Ok(())
}

fn completion_logprobs(members: &mut Members<'_>, out: &mut Object) -> Result<bool, Refusal> {
    let Some(most) = members.take("logprobs") else { return Ok(false) };
    let most: u64 = most.parse().map_err(|_| Refusal::new("logprobs", "`logprobs` must be a number"))?;
    out.put("logprobs", &true).put("top_logprobs", &most);
    Ok(true)
}

fn embedding(members: &mut Members<'_>, out: &mut Object, sizes: &mut Sizes) -> Result<Back, Refusal> {
    let message = "`input` must be a text or a list of texts: Ollama takes no tokens";
    let refused = || Refusal::new("input", message);
    let raw = members.take("input").ok_or_else(refused)?;
    let texts = if raw.starts_with('[') { elements(raw).ok_or_else(refused)? } else { vec![raw] };
    if texts.is_empty() || !texts.iter().all(|text| text.starts_with('"')) {
        return Err(refused());
    }
    // None can be dropped: each is read by itself.
    sizes.parts =
        texts.iter().map(|text| Part { is_system: true, len: text.len(), images: 0 }).collect();
    out.raw("input", raw);
    let mut back = Back::default();
    match members.take_text("encoding_format")?.as_deref() {
        None | Some("float") => {}
        Some("base64") => back.in_base64 = true,
        Some(_) => {
            let message = "`encoding_format` must be `float` or `base64`";
            return Err(Refusal::new("encoding_format", message));
        }
    }
    if let Some(dimensions) = members.take("dimensions") {
        let message = "`dimensions` must be a number from 1 on";
        let number = dimensions.parse().ok().filter(|number| *number > 0);
        back.dimensions = Some(number.ok_or_else(|| Refusal::new("dimensions", message))?);
        out.raw("dimensions", dimensions);
    }
    Ok(back)
}

/// A member that may only say what is so anyway.
pub(super) fn only(members: &mut Members<'_>, name: &str, allowed: &[&str]) -> Result<(), Refusal> {
    match members.take(name) {
        Some(value) if !allowed.contains(&value) => {
            let allowed = allowed.join(" or ");
            Err(members.refusal(name, &format!("must be {allowed} for Ollama, not `{value}`")))
        }
        _ => Ok(()),
    }
}

/// The `options` of a call.
struct Options {
    text: String,
    num_ctx: Option<u64>,
    reload: String,
}

impl Options {
    /// The caller's own `options` go before members that mean the same, and both before the endpoint's.
    fn read(members: &mut Members<'_>, defaults: Defaults) -> Result<Self, Refusal> {
        let own = members.take("options").unwrap_or("{}");
        let own =
            Members::of(own).ok_or_else(|| Refusal::new("options", "`options` must be an object"))?;
        let mut all: Vec<(String, String)> =
            own.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut add = |name: &str, value: &str| {
            if !all.iter().any(|(known, _)| known == name) {
                all.push((name.to_owned(), value.to_owned()));
            }
        };
        for (name, option) in OPTIONS {
            if let Some(value) = members.take(name) {
                add(option, value);
            }
        }
        // The newer name goes before the older one.
        let most = members.take("max_completion_tokens");
        if let Some(most) = most.or(members.take("max_tokens")) {
            add("num_predict", most);
        }
        members.ignore(&["max_tokens"]);
        if let Some(stop) = members.take("stop") {
            let list = if stop.starts_with('[') { stop.to_owned() } else { format!("[{stop}]") };
            add("stop", &list);
        }
        if let Some(bias) = members.take("logit_bias")
            && Members::of(bias).is_none_or(|bias| bias.end().is_err())
        {
            return Err(Refusal::unknown("logit_bias"));
        }
        if let Some(num_ctx) = defaults.num_ctx {
            add("num_ctx", &num_ctx.to_string());
        }
        let mut text = Object::new();
        for (name, value) in &all {
            text.raw(name, value);
        }
        let text = text.end_text();
        let num_ctx = match all.iter().find(|(name, _)| name == "num_ctx") {
            None => None,
            Some((_, value)) => Some(whole_number("options.num_ctx", value)?),
        };
        let reload = overnight_domain::request::reload_options(&text).unwrap_or_default();
        Ok(Self { text, num_ctx, reload })
    }
}

/// Ollama also takes 2048.0 and 2e3 for a context; whether a prompt was cut to it shows only where it can be read here.
fn whole_number(name: &str, value: &str) -> Result<u64, Refusal> {
    let number = value.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| {
        Refusal::new(name, format!("`{name}` must be a whole number from 1 on, not `{value}`"))
    })
}

#[cfg(test)]
mod tests;
