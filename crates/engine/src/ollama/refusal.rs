//! A request that Ollama cannot be asked as it is: said by name, before anything is sent.

use overnight_domain::fault::Fault;

/// What of a request cannot be mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    param: String,
    message: String,
}

impl Refusal {
    pub(super) fn new(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: param.into(), message: message.into() }
    }

    /// A member that Ollama has nothing for.
    pub(super) fn unknown(param: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("`{param}` is nothing that Ollama takes; leave it out");
        Self { param, message }
    }

    /// The request's own 400, in the envelope that SDKs read.
    pub(super) fn into_fault(self) -> Fault {
        let body = serde_json::json!({"error": {
            "message": self.message, "type": "invalid_request_error",
            "param": self.param, "code": "unsupported_by_engine",
        }});
        Fault::Refused { status: 400, body: body.to_string().into_bytes() }
    }
}
