//! Grammars of JSON schemas: which tokens may follow in an answer, and which must.
//!
//! A schema comes from anybody: what compiling it costs, and what following it costs at each token, is bounded. What of a
//! schema cannot be kept to is refused by its name.
//!
//! The compiler catches its own panics and makes errors of them. A build that aborts on panic, as our release does, would
//! end the process instead: no schema is known that gets so far, and a test looks for one.

use std::fmt;
use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use serde_json::Value;

use crate::llama::Model;
use crate::token::Token;

/// JSON values in a schema, all levels together: a few thousand properties that may come or not make the compiler slow.
const VALUES_MAX: usize = 4_096;
/// States that one answer's lexer may come to; each takes one or two kilobytes. Texts of a bounded length need the most,
/// about nine for each of their characters.
const LEXER_STATES_MAX: usize = 50_000;
/// An own member of the compiler, by which a schema could change how it is read.
const COMPILER_OPTIONS: &str = "x-guidance";

/// Makes grammars for one model.
pub(crate) struct Grammars(ParserFactory);

impl Grammars {
    /// Goes through the whole vocabulary.
    pub(crate) fn new(model: &Arc<Model>) -> Result<Self, String> {
        let vocabulary: TokEnv = Arc::new(Vocabulary::new(model));
        let abilities = InferenceCapabilities { ff_tokens: true, ..InferenceCapabilities::default() };
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory =
            ParserFactory::new(&vocabulary, abilities, &slices).map_err(|error| told(&error))?;
        let limits = ParserLimits {
            max_lexer_states: LEXER_STATES_MAX,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        *factory.quiet().limits_mut() = limits;
        Ok(Self(factory))
    }

    /// The schema's text becomes a grammar, or the reason why it cannot.
    pub(crate) fn compile(&self, schema: &str) -> Result<Grammar, String> {
        let mut schema: Value = serde_json::from_str(schema).map_err(|error| error.to_string())?;
        let values = count(&schema);
        if values > VALUES_MAX {
            return Err(format!("it has {values} values, where {VALUES_MAX} are allowed"));
        }
        if let Some(members) = schema.as_object_mut() {
            if members.contains_key(COMPILER_OPTIONS) {
                return Err(format!("`{COMPILER_OPTIONS}` is not honoured"));
            }
            // Compact, so that what must follow is known, and so that a weak model cannot go on with spaces for ever.
            JsonCompileOptions { whitespace_flexible: false, ..JsonCompileOptions::default() }
                .apply_to(&mut schema);
        }
        let parser = self.0.create_parser(TopLevelGrammar::from_json_schema(schema));
        let mut matcher = Matcher::new(Ok(parser.map_err(|error| told(&error))?));
        // Whether anything can be said at all shows with the first token.
        matcher.compute_mask_or_eos().map_err(|error| told(&error))?;
        let start = Walk(matcher.deep_clone()).forced()?;
        Ok(Grammar { matcher: Arc::new(matcher), start: start.into() })
    }
}

/// A schema that was compiled. Each answer walks through a copy of its own, so that none is the other's limit.
#[derive(Clone)]
pub(crate) struct Grammar {
    matcher: Arc<Matcher>,
    start: Arc<[Token]>,
}

impl Grammar {
    /// The tokens that every answer begins with.
    pub(crate) fn start(&self) -> &[Token] {
        &self.start
    }

    /// Takes as much memory as the schema asks for.
    pub(crate) fn walk(&self) -> Walk {
        Walk(self.matcher.deep_clone())
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Grammar")
    }
}

/// How far an answer has come in a grammar. An error says that following it has become too much work.
pub(crate) struct Walk(Matcher);

impl Walk {
    /// The tokens that must follow.
    pub(crate) fn forced(&mut self) -> Result<Vec<Token>, String> {
        if self.is_over() {
            return Ok(Vec::new());
        }
        let forced = self.0.compute_ff_tokens();
        // It has nothing to force after an error, and says so only here.
        match self.0.get_error() {
            Some(error) => Err(told(&anyhow::Error::msg(error))),
            None => Ok(forced.into_iter().map(|token| Token(token as i32)).collect()),
        }
    }

    /// The tokens that may follow.
    pub(crate) fn allowed(&mut self) -> Result<Allowed, String> {
        self.0.compute_mask_or_eos().map(Allowed).map_err(|error| told(&error))
    }

    pub(crate) fn take(&mut self, tokens: &[Token]) -> Result<(), String> {
        let tokens: Vec<u32> = tokens.iter().map(|token| token.0 as u32).collect();
        self.0.consume_tokens(&tokens).map_err(|error| told(&error))
    }

    /// The answer is whole, and nothing may follow.
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_stopped() && !self.0.is_error()
    }
}

/// The tokens that may follow.
pub(crate) struct Allowed(SimpleVob);

impl Allowed {
    pub(crate) fn iter(&self) -> impl Iterator<Item = Token> {
        self.0.iter().map(|token| Token(token as i32))
    }
}

/// The model's tokens as bytes.
struct Vocabulary {
    model: Arc<Model>,
    trie: TokTrie,
}

impl Vocabulary {
    fn new(model: &Arc<Model>) -> Self {
        let words: Vec<Vec<u8>> = model.tokens().map(|token| word(model, token)).collect();
        let end = model.end_token();
        let others = model.tokens().filter(|token| *token != end && model.ends(*token));
        let ends: Vec<u32> = std::iter::once(end).chain(others).map(|token| token.0 as u32).collect();
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, ends[0]), &words);
        Self { model: Arc::clone(model), trie: trie.with_eos_tokens(&ends) }
    }
}

/// Tokens of control cannot be part of a text: they are marked.
fn word(model: &Model, token: Token) -> Vec<u8> {
    let bytes = model.piece(token);
    if !bytes.is_empty() {
        return bytes;
    }
    let control = model.control_text(token);
    if control.is_empty() {
        bytes
    } else {
        [&[TokTrie::SPECIAL_TOKEN_MARKER], control.as_bytes()].concat()
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| match self.model.continuation(text) {
            Some(tokens) => tokens.into_iter().map(|token| token.0 as u32).collect(),
            None => self.trie.greedy_tokenize(text.as_bytes()),
        })
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(values) => values.iter().map(count).sum(),
        Value::Object(members) => members.values().map(count).sum(),
        _ => 0,
    }
}

/// On one line, in our words where the compiler speaks of its own options.
fn told(error: &anyhow::Error) -> String {
    let text = format!("{error:#}").replace("<non-verbose/>", "");
    if text.contains("coerce_one_of") {
        return "`oneOf` is honoured where no answer fits two alternatives: use `anyOf`".to_owned();
    }
    if let Some(names) = text.strip_prefix("Unimplemented keys: ") {
        let names: Vec<String> = serde_json::from_str(names).unwrap_or_else(|_| vec![names.to_owned()]);
        return format!("`{}` is not honoured", names.join("`, `"));
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn walk(schema: &str) -> Walk {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("model/demo.gguf");
        let model = Arc::new(Model::load(&path, 0).unwrap());
        Grammars::new(&model).unwrap().compile(schema).unwrap().walk()
    }

    /// It counted as the good end of an answer, which was cut there.
    #[test]
    fn a_walk_that_fails_is_not_over_and_says_so() {
        let mut walk = walk(r#"{"type": "integer"}"#);
        assert!(!walk.is_over());
        walk.0.test_trigger_lexer_error().unwrap_err();
        assert!(!walk.is_over());
        let forced = walk.forced().unwrap_err();
        assert!(!forced.is_empty());
        assert!(walk.allowed().is_err());
    }
}
