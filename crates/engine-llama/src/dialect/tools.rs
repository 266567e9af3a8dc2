//! Tools of a chat: what they are is for the template; that one must be called is for the grammar.
//!
//! Whether a model *may* call one cannot be left to it: its answer would have to be read in the words of its family.

use minijinja::Value;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::fields::Fields;
use super::generation::FormAsked;
use crate::refusal::{self, Refusal};

const TOOLS_MAX: usize = 128;
/// What a function takes that says nothing about it.
const NO_PARAMETERS: &str = r#"{"type":"object","properties":{},"additionalProperties":false}"#;

#[derive(Debug, Default)]
pub(crate) struct Tools {
    /// As the template sees them.
    pub(crate) shown: Vec<Value>,
    pub(crate) call: Option<Call>,
}

/// The function that the answer calls, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: Box<str>,
    /// The form of its arguments.
    pub(crate) arguments: FormAsked,
}

#[derive(Deserialize)]
struct Tool {
    r#type: String,
    function: Function,
}

#[derive(Deserialize)]
struct Function {
    name: String,
    parameters: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Choice {
    Word(String),
    Named { r#type: String, function: Named },
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

impl Tools {
    pub(super) fn take(fields: &mut Fields) -> Result<Self, Refusal> {
        let raw: Vec<Box<RawValue>> = fields.take("tools", "a list of functions")?.unwrap_or_default();
        let expected = "`none`, `required`, or a function by its name";
        let choice: Option<Choice> = fields.take("tool_choice", expected)?;
        // One call at most is made in an answer.
        fields.only("parallel_tool_calls", &["true", "false"])?;
        if raw.len() > TOOLS_MAX {
            return Err(refusal::out_of_range("tools", &format!("at most {TOOLS_MAX} tools")));
        }
        let tools =
            raw.iter().enumerate().map(|(at, raw)| tool(at, raw)).collect::<Result<Vec<_>, _>>()?;
        let call = match choice {
            None if tools.is_empty() => return Ok(Self::default()),
            Some(Choice::Word(word)) if word == "none" || (word == "auto" && tools.is_empty()) => {
                return Ok(Self::default());
            }
            None => return Err(refusal::no_free_call()),
            Some(Choice::Word(word)) if word == "auto" => return Err(refusal::no_free_call()),
            Some(Choice::Word(word)) if word == "required" => match tools.as_slice() {
                [only] => call_of(only)?,
                [] => return Err(refusal::out_of_range("tool_choice", "`tools` with it")),
                _ => return Err(refusal::one_of_many_calls()),
            },
            Some(Choice::Named { r#type, function }) if r#type == "function" => {
                let named = tools.iter().find(|tool| tool.name == function.name);
                call_of(
                    named
                        .ok_or_else(|| refusal::out_of_range("tool_choice", "a function of `tools`"))?,
                )?
            }
            Some(_) => return Err(refusal::out_of_range("tool_choice", expected)),
        };
        let shown = raw.iter().map(|raw| serde_json::from_str(raw.get())).collect::<Result<_, _>>();
        let shown = shown.map_err(|_| refusal::wrong_type("tools", "a list of functions"))?;
        Ok(Self { shown, call: Some(call) })
    }

    /// The first of them whose name a rendered text does not have.
    pub(crate) fn left_out(&self, text: &str) -> Option<String> {
        let names = self.shown.iter().filter_map(|tool| {
            tool.get_attr("function").and_then(|function| function.get_attr("name")).ok()
        });
        names.map(|name| name.to_string()).find(|name| !text.contains(name.as_str()))
    }
}

fn tool(at: usize, raw: &RawValue) -> Result<Function, Refusal> {
    let tool: Result<Tool, _> = serde_json::from_str(raw.get());
    match tool {
        Ok(tool) if tool.r#type == "function" && !tool.function.name.is_empty() => Ok(tool.function),
        _ => Err(refusal::wrong_type(&format!("tools[{at}]"), "a function with a name")),
    }
}

fn call_of(function: &Function) -> Result<Call, Refusal> {
    let schema = function.parameters.as_ref().map_or(NO_PARAMETERS, |parameters| parameters.get());
    let arguments = FormAsked::schema(schema, "tools")?;
    Ok(Call { name: function.name.as_str().into(), arguments })
}

/// A message as templates expect it: they write the arguments of earlier calls as JSON themselves.
pub(super) fn with_arguments_read(calls: &Value) -> Value {
    let read = |call: Value| -> Option<Value> {
        let function = call.get_attr("function").ok()?;
        let arguments = function.get_attr("arguments").ok()?;
        let arguments: Value = serde_json::from_str(arguments.as_str()?).ok()?;
        let function = with_member(&function, "arguments", &arguments)?;
        with_member(&call, "function", &function)
    };
    let Ok(list) = calls.try_iter() else { return calls.clone() };
    list.map(|call| read(call.clone()).unwrap_or(call)).collect()
}

/// The object with one member's value exchanged, in the same order.
pub(super) fn with_member(object: &Value, name: &str, value: &Value) -> Option<Value> {
    let names = object.try_iter().ok()?;
    let pairs = names.map(|key| {
        let is_it = key.as_str() == Some(name);
        let value = if is_it { value.clone() } else { object.get_item(&key).unwrap_or_default() };
        (key, value)
    });
    Some(Value::from_pairs(pairs))
}
