//! `[[model]]`: one name for a model at all engines, or at some.

use std::collections::HashSet;

use super::engines::Reader;
use super::environment::Environment;
use super::file::Members;
use super::load::Shown;
use super::value::Raw;
use super::{ConfigError, EngineConfig, ModelConfig};

/// Reads the tables. They may name the engines of the same file, whether these are used or not.
pub(super) fn models(
    tables: &[Members],
    engines: &[Members],
    environment: &Environment,
    shown: &mut Vec<Shown>,
) -> Result<Vec<ModelConfig>, ConfigError> {
    let name_of = |engine: &Members| engine.find("name")?.text().ok();
    let known: Vec<String> = engines.iter().filter_map(name_of).collect();
    let mut seen = HashSet::new();
    let mut models = Vec::with_capacity(tables.len());
    for (number, table) in tables.iter().enumerate() {
        let mut reader = Reader { kind: "model", number, table, environment, shown: &mut *shown };
        let model = ModelConfig {
            name: reader.required("name", not_empty)?,
            serves: reader.required("serves", not_empty)?,
            engines: reader.optional("engines", Raw::list)?,
        };
        let refused = |what: String| ConfigError::new(&table.origin, what);
        if model.name == model.serves {
            return Err(refused(format!("the model `{}` is said to serve itself", model.name)));
        }
        if !seen.insert(model.name.clone()) {
            return Err(refused(format!(
                "two models have the name `{}`; engines that call one model differently have `aliases` of their own",
                model.name
            )));
        }
        let engines = model.engines.as_deref().unwrap_or_default();
        if let Some(unknown) = engines.iter().find(|name| !known.contains(name)) {
            return Err(refused(format!(
                "the model `{}` names the engine `{unknown}`, and no `[[engine]]` has that name",
                model.name
            )));
        }
        if model.engines.as_ref().is_some_and(Vec::is_empty) {
            return Err(refused(format!(
                "the model `{}` names no engine; leave `engines` out to mean all",
                model.name
            )));
        }
        models.push(model);
    }
    Ok(models)
}

/// Tells the engines what they are concerned by. An engine's own alias goes before a general one.
pub(super) fn apply(models: &[ModelConfig], engines: &mut [EngineConfig]) -> Result<(), String> {
    for model in models {
        for engine in &mut *engines {
            let own = engine.aliases.iter().find(|(alias, _)| *alias == model.name);
            match (&model.engines, own) {
                (Some(named), _) if !named.contains(&engine.name) => {}
                (Some(_), Some((_, serves))) if *serves != model.serves => {
                    return Err(format!(
                        "the engine `{}` has the alias `{}` for `{serves}`, and a `[[model]]` has it for `{}`",
                        engine.name, model.name, model.serves
                    ));
                }
                (_, Some(_)) => {}
                (Some(_), None) => engine.aliases.push((model.name.clone(), model.serves.clone())),
                (None, None) => engine.shared_aliases.push((model.name.clone(), model.serves.clone())),
            }
        }
    }
    Ok(())
}

fn not_empty(raw: &Raw) -> Result<String, String> {
    let text = raw.text()?;
    if text.trim().is_empty() { Err("must not be empty".to_owned()) } else { Ok(text) }
}
