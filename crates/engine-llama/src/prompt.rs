//! From what is asked to what is computed: templates, tokens, and whether it fits.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use overnight_domain::time::UnixTime;

use crate::dialect::chat::ChatAsked;
use crate::dialect::completion::{CompletionAsked, Prompt};
use crate::dialect::embedding::{EmbeddingAsked, Input};
use crate::dialect::generation::{Asked, FormAsked};
use crate::engine::Ready;
use crate::llama::{LINE_LEN_MAX, TextError};
use crate::question::{Form, Generation};
use crate::refusal::{self, Refusal};
use crate::template::{Given, left_out};
use crate::token::Token;

impl Ready {
    pub(crate) fn chat(&self, chat: ChatAsked, now: UnixTime) -> Result<Generation, Refusal> {
        self.must_generate()?;
        let template = match &self.template {
            Some(Ok(template)) => template,
            Some(Err(why)) => return Err(refusal::template_failed(why)),
            None => return Err(refusal::no_template()),
        };
        let given = Given {
            messages: &chat.messages,
            tools: &chat.tools.shown,
            values: &chat.template_values,
            now,
        };
        let text = template.render(&given).map_err(|why| refusal::template_failed(&why))?;
        if let Some((at, role)) = left_out(&chat.messages, &text) {
            return Err(refusal::left_out(at, &role));
        }
        if let Some(name) = chat.tools.left_out(&text) {
            return Err(refusal::tool_left_out(&name));
        }
        // Most templates write the start token themselves.
        let adds_start = !template.has_start(&text);
        let prompt = self.tokens(&text, adds_start, true, "messages")?;
        self.generation(prompt, chat.asked, "messages")
    }

    pub(crate) fn completion(&self, completion: CompletionAsked) -> Result<Generation, Refusal> {
        self.must_generate()?;
        let prompt = match completion.prompt {
            Prompt::Text(text) | Prompt::Texts([text]) => self.tokens(&text, true, true, "prompt")?,
            Prompt::Tokens(tokens) => self.own_tokens(tokens, "prompt")?,
        };
        self.generation(prompt, completion.asked, "prompt")
    }

    fn must_generate(&self) -> Result<(), Refusal> {
        if self.generates { Ok(()) } else { Err(refusal::no_generation()) }
    }

    fn tokens(
        &self,
        text: &str,
        adds_start: bool,
        has_specials: bool,
        param: &str,
    ) -> Result<Vec<Token>, Refusal> {
        let tokens = self.model.tokenize(text, adds_start, has_specials);
        tokens.map_err(|error| match error {
            TextError::Line(len) => refusal::long_line(param, len, LINE_LEN_MAX),
            TextError::Stack(_) => refusal::no_stack(&error),
        })
    }

    fn own_tokens(&self, tokens: Vec<i32>, param: &str) -> Result<Vec<Token>, Refusal> {
        let tokens: Vec<Token> = tokens.into_iter().map(Token).collect();
        match tokens.iter().find(|token| !self.model.has(**token)) {
            Some(token) => Err(refusal::unknown_token(param, token.0)),
            None => Ok(tokens),
        }
    }

    fn generation(&self, prompt: Vec<Token>, asked: Asked, param: &str) -> Result<Generation, Refusal> {
        if prompt.is_empty() {
            return Err(refusal::out_of_range(param, "a text of at least one token"));
        }
        let context_len = self.plan.streams.sequence_len as usize;
        if prompt.len() >= context_len {
            return Err(refusal::too_long(param, prompt.len(), context_len));
        }
        let rest = (context_len - prompt.len()) as u32;
        let answer_len_max = asked.answer_len_max.unwrap_or(rest).min(rest);
        let form = self.form_of(&asked, answer_len_max)?;
        let mut sampling = asked.sampling;
        if !asked.has_seed {
            sampling.seed = RandomState::new().hash_one(prompt.len()) as u32;
        }
        let (stop, top_logprobs) = (asked.stop, asked.top_logprobs);
        Ok(Generation { prompt: prompt.into(), answer_len_max, sampling, form, stop, top_logprobs })
    }

    /// A choice among texts shows no log probabilities of what it was forced to say, knows no other sampling than by
    /// temperature, and cannot be cut: there a grammar does it.
    fn form_of(&self, asked: &Asked, answer_len_max: u32) -> Result<Form, Refusal> {
        let takes_choices = asked.sampling.is_plain() && asked.top_logprobs.is_none();
        let form = self.form(&asked.form, takes_choices)?;
        match &form {
            Form::OneOf(choices) if choices.len_max() > answer_len_max as usize => {
                self.form(&asked.form, false)
            }
            Form::OneOf(_) | Form::Grammar(_) | Form::Free => {
                debug_assert!(asked.form != FormAsked::Free || matches!(form, Form::Free));
                Ok(form)
            }
        }
    }

    /// The inputs as tokens, and which of them were cut.
    pub(crate) fn inputs(&self, asked: &EmbeddingAsked) -> Result<Inputs, Refusal> {
        let len_max = self.plan.embed_len as usize;
        if self.model.ranks() {
            return Err(refusal::no_embeddings());
        }
        if asked.dimensions.is_some_and(|dimensions| dimensions > self.model.embedding_len()) {
            let expected = format!("at most {}, which the model has", self.model.embedding_len());
            return Err(refusal::out_of_range("dimensions", &expected));
        }
        let mut inputs = Inputs::default();
        for (index, input) in asked.inputs.iter().enumerate() {
            let mut tokens = match input {
                Input::Text(text) => self.tokens(text, true, false, "input")?,
                Input::Tokens(tokens) => self.own_tokens(tokens.clone(), "input")?,
            };
            if tokens.is_empty() {
                return Err(refusal::out_of_range("input", "no empty input"));
            }
            if tokens.len() > len_max {
                if !asked.truncates {
                    return Err(refusal::too_long("input", tokens.len(), len_max));
                }
                inputs.cut.push((index, tokens.len()));
                let end = tokens.last().copied().filter(|_| self.model.adds_end());
                tokens.truncate(len_max);
                if let (Some(end), Some(last)) = (end, tokens.last_mut()) {
                    *last = end;
                }
            }
            inputs.tokens_count += tokens.len();
            inputs.tokens.push(tokens.into());
        }
        Ok(inputs)
    }
}

/// Inputs of one call of embeddings.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    pub(crate) tokens: Vec<Arc<[Token]>>,
    pub(crate) tokens_count: usize,
    pub(crate) cut: Vec<(usize, usize)>,
}
