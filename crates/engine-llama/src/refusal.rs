//! Every refusal of the engine, in OpenAI's envelope: what is wrong with a call, by the name of the parameter.

use serde_json::{Value, json};

/// The most of a caller's own text that a message repeats.
const SHOWN_LEN_MAX: usize = 200;

/// Why a call is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<String>,
    message: String,
}

impl Refusal {
    fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, code: None, param: None, message: message.into() }
    }

    fn bad(code: &'static str, message: impl Into<String>) -> Self {
        Self { code: Some(code), ..Self::new(400, "invalid_request_error", message) }
    }

    fn of(self, param: &str) -> Self {
        Self { param: Some(shown(param)), ..self }
    }

    /// The envelope, with all four members.
    pub(crate) fn body(&self) -> Value {
        json!({"error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code
        }})
    }

    /// Whether the same call may succeed in a moment.
    pub(crate) const fn is_passing(&self) -> bool {
        self.status == 429 || self.status == 503
    }

    #[cfg(test)]
    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

pub(crate) fn not_json(detail: &dyn std::fmt::Display) -> Refusal {
    Refusal::bad("invalid_json", format!("the body is no JSON object: {detail}"))
}

pub(crate) fn unreadable_body(detail: &str) -> Refusal {
    Refusal::bad("invalid_body", format!("the body cannot be read: {detail}"))
}

pub(crate) fn missing(param: &str) -> Refusal {
    Refusal::bad("missing_required_parameter", format!("Missing required parameter: '{param}'."))
        .of(param)
}

pub(crate) fn wrong_type(param: &str, expected: &str) -> Refusal {
    Refusal::bad("invalid_type", format!("Invalid type for '{param}': expected {expected}.")).of(param)
}

pub(crate) fn out_of_range(param: &str, expected: &str) -> Refusal {
    Refusal::bad("invalid_value", format!("Invalid '{param}': expected {expected}.")).of(param)
}

/// A parameter that exists elsewhere, or nowhere, and that would be ignored here.
pub(crate) fn not_honoured(param: &str, why: &str) -> Refusal {
    let param = shown(param);
    let message = format!("`{param}` is not honoured by this engine{why}: leave it out");
    Refusal::bad("unsupported_parameter", message).of(&param)
}

/// For tools that the model may call or not.
pub(crate) fn no_free_call() -> Refusal {
    let message = "`tool_choice` as `auto` is not honoured by this engine, which cannot tell a call from a text: name \
                   a function, or say `none`";
    Refusal::bad("unsupported_parameter", message).of("tool_choice")
}

pub(crate) fn one_of_many_calls() -> Refusal {
    let message = "`tool_choice` as `required` is not honoured by this engine for more than one tool: name a function";
    Refusal::bad("unsupported_parameter", message).of("tool_choice")
}

pub(crate) fn tool_left_out(name: &str) -> Refusal {
    let message = format!("the model's chat template leaves out the tool `{}`", shown(name));
    Refusal::bad("unsupported_parameter", message).of("tools")
}

pub(crate) fn no_template() -> Refusal {
    let message =
        "the model has no chat template: use /v1/completions, or a model that was made for chats";
    Refusal::bad("no_chat_template", message).of("messages")
}

pub(crate) fn template_failed(what: &str) -> Refusal {
    let message = format!("the model's chat template refuses the messages: {}", shown(what));
    Refusal::bad("chat_template_failed", message).of("messages")
}

pub(crate) fn left_out(at: usize, role: &str) -> Refusal {
    let role = shown(role);
    let message = format!("the model's chat template leaves out messages[{at}], whose role is `{role}`");
    Refusal::bad("unsupported_role", message).of("messages")
}

pub(crate) fn unknown_token(param: &str, token: i32) -> Refusal {
    Refusal::bad("invalid_value", format!("Invalid '{param}': the model has no token {token}."))
        .of(param)
}

pub(crate) fn no_generation() -> Refusal {
    Refusal::bad("unsupported_operation", "the model makes embeddings only: use /v1/embeddings")
        .of("model")
}

pub(crate) fn no_embeddings() -> Refusal {
    let message =
        "the model ranks texts and makes no embeddings of them: use one that was made for embeddings";
    Refusal::bad("unsupported_operation", message).of("model")
}

pub(crate) fn bad_schema(why: &str) -> Refusal {
    let message = format!("the schema cannot be compiled: {}", shown(why));
    Refusal::bad("invalid_schema", message).of("response_format")
}

pub(crate) fn cannot_follow(why: &str) -> Refusal {
    let message = format!("the answer cannot be kept to the schema any further: {}", shown(why));
    Refusal::bad("invalid_schema", message).of("response_format")
}

pub(crate) fn too_long(param: &str, len: usize, len_max: usize) -> Refusal {
    let message = format!(
        "This model's maximum context length is {len_max} tokens. However, your input has {len} tokens: \
         shorten it, or start the engine with a larger `--context`."
    );
    Refusal::bad("context_length_exceeded", message).of(param)
}

pub(crate) fn long_line(param: &str, len: usize, len_max: usize) -> Refusal {
    let message = format!(
        "a line of the text has {len} characters, and with this model's vocabulary at most {len_max} can be cut into \
         tokens: break it into shorter lines"
    );
    Refusal::bad("line_too_long", message).of(param)
}

pub(crate) fn no_stack(what: &dyn std::fmt::Display) -> Refusal {
    Refusal { code: Some("memory_short"), ..Refusal::new(503, "unavailable_error", what.to_string()) }
}

pub(crate) fn unknown_model(asked: &str, ours: &str) -> Refusal {
    let message = format!("The model '{}' does not exist here; this engine has '{ours}'.", shown(asked));
    Refusal { code: Some("model_not_found"), ..Refusal::new(404, "invalid_request_error", message) }
        .of("model")
}

pub(crate) fn unknown_path(path: &str) -> Refusal {
    Refusal::new(404, "invalid_request_error", format!("Invalid URL ({})", shown(path)))
}

pub(crate) fn wrong_method(method: &str, path: &str) -> Refusal {
    let message = format!("Invalid method for URL ({} {})", shown(method), shown(path));
    Refusal::new(405, "invalid_request_error", message)
}

pub(crate) fn loading() -> Refusal {
    Refusal { code: Some("loading"), ..Refusal::new(503, "unavailable_error", "Loading model") }
}

pub(crate) fn stopping() -> Refusal {
    let message = "the engine is being stopped: send this again once it is back";
    Refusal { code: Some("stopping"), ..Refusal::new(503, "unavailable_error", message) }
}

pub(crate) fn queue_full(max: usize) -> Refusal {
    let message = format!("{max} requests are waiting or being answered, which is all the engine takes");
    Refusal { code: Some("queue_full"), ..Refusal::new(429, "rate_limit_exceeded", message) }
}

pub(crate) fn failed(what: &str) -> Refusal {
    Refusal { code: Some("engine_failed"), ..Refusal::new(500, "server_error", what) }
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_LEN_MAX).collect()
}
