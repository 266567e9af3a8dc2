//! Forms of answers, compiled once for each schema: what cannot be compiled is remembered too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::choices::Choices;
use crate::closed;
use crate::dialect::generation::FormAsked;
use crate::grammar::Grammars;
use crate::llama::Model;
use crate::question::Form;
use crate::refusal::{self, Refusal};

/// A batch has a handful of schemas; whoever has more compiles them again.
const FORMS_MAX: usize = 256;

/// The schema's text and whether it may be a choice among texts.
type Key = (Box<str>, bool);

/// Compiled when it is asked for first, while others who ask for the same wait.
type Compiled = Arc<OnceLock<Result<Form, Refusal>>>;

#[derive(Default)]
pub(crate) struct Forms {
    known: Mutex<HashMap<Key, Compiled>>,
    /// Made with the first schema that needs it.
    grammars: OnceLock<Result<Grammars, String>>,
    /// One schema is compiled at a time: whoever sends many does not take all processors from the computing.
    compiling: Mutex<()>,
}

impl Forms {
    /// `takes_choices`: the sampling asks for nothing that a choice among texts would not honour.
    pub(crate) fn of(
        &self,
        model: &Arc<Model>,
        asked: &FormAsked,
        takes_choices: bool,
    ) -> Result<Form, Refusal> {
        let FormAsked::Schema(schema) = asked else { return Ok(Form::Free) };
        let key = (schema.clone(), takes_choices);
        let compiled = self.known(key);
        let compile = || {
            let _turn = self.compiling.lock().unwrap_or_else(PoisonError::into_inner);
            self.compile(model, schema, takes_choices).map_err(|why| refusal::bad_schema(&why))
        };
        compiled.get_or_init(compile).clone()
    }

    fn known(&self, key: Key) -> Compiled {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= FORMS_MAX && !known.contains_key(&key) {
            known.clear();
        }
        Arc::clone(known.entry(key).or_default())
    }

    fn compile(&self, model: &Arc<Model>, schema: &str, takes_choices: bool) -> Result<Form, String> {
        if takes_choices && let Some(choices) = choices(model, schema) {
            return Ok(Form::OneOf(Arc::new(choices)));
        }
        let grammars = self.grammars.get_or_init(|| Grammars::new(model));
        grammars.as_ref().map_err(Clone::clone)?.compile(schema).map(Form::Grammar)
    }
}

/// None where the schema is no closed set of answers that the vocabulary has tokens for.
fn choices(model: &Model, schema: &str) -> Option<Choices> {
    let texts = closed::texts(schema)?;
    let texts: Option<Vec<_>> = texts.iter().map(|text| model.continuation(text)).collect();
    Some(Choices::new(&texts?, model.end_token()))
}
