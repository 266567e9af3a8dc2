//! The API routes that a request line may name, and what each means for planning.

use serde::{Deserialize, Serialize};

/// What a batch asks the engine for: the `endpoint` of the Batch API, the `url` of each line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Route {
    #[serde(rename = "/v1/chat/completions")]
    ChatCompletions,
    #[serde(rename = "/v1/completions")]
    Completions,
    #[serde(rename = "/v1/embeddings")]
    Embeddings,
    #[serde(rename = "/v1/responses")]
    Responses,
    #[serde(rename = "/v1/moderations")]
    Moderations,
    #[serde(rename = "/v1/rerank")]
    Rerank,
    #[serde(rename = "/v1/score")]
    Score,
}

impl Route {
    pub const ALL: [Self; 7] = [
        Self::ChatCompletions,
        Self::Completions,
        Self::Embeddings,
        Self::Responses,
        Self::Moderations,
        Self::Rerank,
        Self::Score,
    ];

    pub const fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Responses => "/v1/responses",
            Self::Moderations => "/v1/moderations",
            Self::Rerank => "/v1/rerank",
            Self::Score => "/v1/score",
        }
    }

    /// Reads a route as a batch or a line names it. The Azure form without `/v1` is understood.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|route| route.path() == text || route.path().strip_prefix("/v1") == Some(text))
    }

    /// The member of the body without which no engine can answer.
    pub const fn required_member(self) -> Option<&'static str> {
        match self {
            Self::ChatCompletions => Some("messages"),
            Self::Completions => Some("prompt"),
            Self::Embeddings | Self::Responses | Self::Moderations => Some("input"),
            Self::Rerank => Some("query"),
            Self::Score => None,
        }
    }

    /// Whether an engine can reuse what it computed for a shared beginning of two prompts.
    pub const fn has_prompt_prefix(self) -> bool {
        matches!(self, Self::ChatCompletions | Self::Completions | Self::Responses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_read_back_in_both_forms() {
        for route in Route::ALL {
            assert_eq!(Route::parse(route.path()), Some(route));
            assert_eq!(Route::parse(&route.path()[3..]), Some(route));
            assert_eq!(
                serde_json::to_string(&route).expect("an enum of strings"),
                format!("\"{}\"", route.path())
            );
        }
        assert_eq!(Route::parse("/v1/invalid"), None);
        assert_eq!(Route::parse(""), None);
    }
}
