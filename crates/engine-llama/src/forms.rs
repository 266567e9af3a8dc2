//! Forms of answers, compiled once for each schema: what cannot be compiled is remembered too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::choices::Choices;
use crate::closed;
use crate::dialect::generation::FormAsked;
use crate::llama::{self, Model};
use crate::question::{Form, Sampling};
use crate::refusal::{self, Refusal};

/// A batch has a handful of schemas; whoever has more compiles them again.
const FORMS_MAX: usize = 256;

/// The schema's text and whether it may be a choice among texts.
type Key = (Box<str>, bool);

#[derive(Default)]
pub(crate) struct Forms(Mutex<HashMap<Key, Result<Form, Refusal>>>);

impl Forms {
    /// `takes_choices`: the sampling asks for nothing that a choice among texts would not honour.
    pub(crate) fn of(
        &self,
        model: &Model,
        asked: &FormAsked,
        takes_choices: bool,
    ) -> Result<Form, Refusal> {
        let FormAsked::Schema(schema) = asked else { return Ok(Form::Free) };
        let key = (schema.clone(), takes_choices);
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(form) = lock().get(&key) {
            return form.clone();
        }
        let form = compile(model, schema, takes_choices);
        let mut forms = lock();
        if forms.len() >= FORMS_MAX {
            forms.clear();
        }
        forms.insert(key, form.clone());
        form
    }
}

fn compile(model: &Model, schema: &str, takes_choices: bool) -> Result<Form, Refusal> {
    let is_object = schema.trim_start().starts_with(['{', 't', 'f']);
    if !is_object {
        return Err(refusal::bad_schema("it is no object"));
    }
    if takes_choices && let Some(texts) = closed::texts(schema) {
        let texts: Vec<_> = texts.iter().map(|text| model.tokenize(text, false, false)).collect();
        return Ok(Form::OneOf(Arc::new(Choices::new(&texts, model.end_token()))));
    }
    let grammar = llama::grammar(schema).map_err(|why| refusal::bad_schema(&why))?;
    let form = Form::Grammar(grammar.into());
    // Whether it can be used shows when a sampler is made of it.
    model.chooser(&Sampling::GREEDY, &form).map_err(|why| refusal::bad_schema(&why))?;
    Ok(form)
}
