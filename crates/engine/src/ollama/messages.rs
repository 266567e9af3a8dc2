//! Messages: from the list of a chat completion to the one that Ollama takes.

use super::object::{Members, Object, elements, text};
use super::refusal::Refusal;
use super::sizes::{Part, Sizes};
use super::translate::only;

/// Writes the messages as JSON, and notes what each may count.
pub(super) fn translate(raw: &str, sizes: &mut Sizes) -> Result<String, Refusal> {
    let list = elements(raw).ok_or_else(|| Refusal::new("messages", "`messages` must be a list"))?;
    if list.is_empty() {
        return Err(Refusal::new("messages", "`messages` is empty: Ollama would only load the model"));
    }
    let mut names = ToolNames::default();
    let mut out = String::from("[");
    for (at, message) in list.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str(&one(message, at, &mut names, sizes)?);
    }
    out.push(']');
    Ok(out)
}

/// The names of tools by the ids of their calls: a result names the call, Ollama wants the tool.
#[derive(Default)]
struct ToolNames(Vec<(String, String)>);

fn one(raw: &str, at: usize, names: &mut ToolNames, sizes: &mut Sizes) -> Result<String, Refusal> {
    let place = format!("messages[{at}]");
    let mut members = Members::at(&place, raw)?;
    let role = match members.take_text("role")?.as_deref() {
        Some("developer") => "system".to_owned(),
        Some(role @ ("system" | "user" | "assistant" | "tool")) => role.to_owned(),
        _ => {
            let why = "must be `system`, `developer`, `user`, `assistant` or `tool`";
            return Err(members.refusal("role", why));
        }
    };
    let mut message = Object::new();
    message.put("role", &role);
    let content = Content::read(members.take("content"), &place)?;
    message.raw("content", &content.text);
    if !content.images.is_empty() {
        message.raw("images", &format!("[{}]", content.images.join(",")));
    }
    // The two names are those of Ollama's own /v1 and of the other engines.
    let thinking = members.take("reasoning_content").into_iter().chain(members.take("reasoning")).next();
    if let Some(thinking) = thinking {
        message.raw("thinking", thinking);
    }
    let calls = members.take("tool_calls");
    if let Some(calls) = calls {
        message.raw("tool_calls", &tool_calls(calls, &place, names)?);
    }
    if let Some(id) = members.take_text("tool_call_id")? {
        message.put("tool_call_id", &id);
        if let Some((_, name)) = names.0.iter().find(|(known, _)| *known == id) {
            message.put("tool_name", name);
            members.ignore(&["name"]);
        }
    }
    if role == "tool"
        && let Some(name) = members.take("name")
    {
        message.raw("tool_name", name);
    }
    if members.take("refusal").is_some() {
        return Err(members.refusal("refusal", "is nothing that Ollama takes"));
    }
    members.ignore(&["annotations"]);
    members.end()?;
    sizes.parts.push(Part {
        is_system: role == "system",
        len: content.text.len() + calls.map_or(0, str::len) + thinking.map_or(0, str::len),
        images: content.images.len(),
    });
    Ok(message.end_text())
}

/// A content as Ollama has it: one text, and images beside it.
struct Content {
    /// A JSON string.
    text: String,
    /// JSON strings of base64.
    images: Vec<String>,
}

impl Content {
    fn read(raw: Option<&str>, place: &str) -> Result<Self, Refusal> {
        let Some(raw) = raw else { return Ok(Self { text: "\"\"".to_owned(), images: Vec::new() }) };
        if raw.starts_with('"') {
            return Ok(Self { text: raw.to_owned(), images: Vec::new() });
        }
        let param = format!("{place}.content");
        let parts = elements(raw).ok_or_else(|| {
            Refusal::new(&*param, format!("`{param}` must be a text or a list of parts"))
        })?;
        let mut texts = Vec::new();
        let mut images = Vec::new();
        for (at, part) in parts.into_iter().enumerate() {
            let place = format!("{param}[{at}]");
            let refused = |why: &str| Refusal::new(&*place, format!("`{place}` {why}"));
            let mut part = Members::at(&place, part)?;
            match part.take_text("type")?.as_deref() {
                Some("text" | "input_text") => {
                    texts.push(part.take_text("text")?.ok_or_else(|| refused("has no `text`"))?);
                }
                Some("image_url") => {
                    let url = part.take("image_url").ok_or_else(|| refused("has no `image_url`"))?;
                    images.push(image(url, &place)?);
                }
                other => {
                    let kind = other.unwrap_or("nothing");
                    return Err(refused(&format!(
                        "is of the type `{kind}`; Ollama takes `text` and `image_url`"
                    )));
                }
            }
            part.end()?;
        }
        let text = serde_json::to_string(&texts.join("\n")).expect("text is JSON");
        Ok(Self { text, images })
    }
}

/// The base64 in a `data:` URL, as a JSON string.
fn image(raw: &str, place: &str) -> Result<String, Refusal> {
    let refused = |why: &str| Refusal::new(place, format!("`{place}` {why}"));
    let url = if raw.starts_with('"') {
        text(raw)
    } else {
        let mut members = Members::at(&format!("{place}.image_url"), raw)?;
        let url = members.take_text("url")?;
        // How closely to look: Ollama has no choice about it.
        members.ignore(&["detail"]);
        members.end()?;
        url
    };
    let url = url.ok_or_else(|| refused("has no `url`"))?;
    let Some(data) = url.strip_prefix("data:") else {
        let why =
            "is an image that Ollama would have to fetch, which it does not: put it in as a `data:` URL";
        return Err(refused(why));
    };
    let Some((_, base64)) = data.split_once(";base64,") else {
        return Err(refused("is a `data:` URL that is not base64"));
    };
    Ok(serde_json::to_string(base64).expect("text is JSON"))
}

/// Arguments are a text with OpenAI and an object with Ollama.
fn tool_calls(raw: &str, place: &str, names: &mut ToolNames) -> Result<String, Refusal> {
    let param = format!("{place}.tool_calls");
    let calls =
        elements(raw).ok_or_else(|| Refusal::new(&*param, format!("`{param}` must be a list")))?;
    let mut out = Vec::with_capacity(calls.len());
    for (at, call) in calls.into_iter().enumerate() {
        let param = format!("{param}[{at}]");
        let refused = |why: &str| Refusal::new(&*param, format!("`{param}` {why}"));
        let mut call = Members::at(&param, call)?;
        let id = call.take_text("id")?;
        let function = call.take("function").ok_or_else(|| refused("has no `function`"))?;
        let mut function = Members::at(&call.path("function"), function)?;
        let name = function.take_text("name")?.ok_or_else(|| refused("has no `function.name`"))?;
        let arguments = function.take_text("arguments")?.unwrap_or_default();
        let arguments = if arguments.trim().is_empty() { "{}" } else { arguments.trim() };
        if Members::of(arguments).is_none() {
            return Err(refused("has `arguments` that are no JSON object"));
        }
        function.end()?;
        only(&mut call, "type", &["\"function\""])?;
        // Its place in the list, which says the same.
        call.ignore(&["index"]);
        call.end()?;
        let mut inner = Object::new();
        inner.put("index", &at).put("name", &name).raw("arguments", arguments);
        let mut outer = Object::new();
        if let Some(id) = id {
            outer.put("id", &id);
            names.0.push((id, name));
        }
        outer.raw("function", &inner.end_text());
        out.push(outer.end_text());
    }
    Ok(format!("[{}]", out.join(",")))
}
