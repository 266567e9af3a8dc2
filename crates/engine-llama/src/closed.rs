//! Schemas that leave only a few answers: those are written out, and the model chooses among them.

use minijinja::Value;

/// More would be a tree larger than what a grammar costs.
const TEXTS_MAX: usize = 1_024;
/// Of all of them together.
const TEXTS_LEN_MAX: usize = 256 * 1024;
const DEPTH_MAX: usize = 8;

/// All texts that the schema allows, in compact JSON; none when there are too many, or when it uses what is not
/// understood here. What is understood is a short list on purpose: a grammar does the rest.
pub(crate) fn texts(schema: &str) -> Option<Vec<String>> {
    let schema: Value = serde_json::from_str(schema).ok()?;
    let mut texts = of(&schema, DEPTH_MAX)?;
    texts.sort_unstable();
    texts.dedup();
    (!texts.is_empty()).then_some(texts)
}

fn of(schema: &Value, depth: usize) -> Option<Vec<String>> {
    let depth = depth.checked_sub(1)?;
    let kind = schema.get_attr("type").ok()?;
    let known: &[&str] = match kind.as_str() {
        Some("object") => &["type", "properties", "required", "additionalProperties"],
        Some("boolean") => &["type"],
        _ => &["type", "enum", "const"],
    };
    for name in schema.try_iter().ok()? {
        let name = name.as_str()?;
        if !known.contains(&name) && !["title", "description", "$schema"].contains(&name) {
            return None;
        }
    }
    match kind.as_str() {
        Some("object") => object(schema, depth),
        Some("boolean") => Some(vec!["false".to_owned(), "true".to_owned()]),
        _ => values(schema, &kind),
    }
}

/// Of `const` or `enum`; a type beside it must be that of all values, or it would forbid some of them.
fn values(schema: &Value, kind: &Value) -> Option<Vec<String>> {
    let single = schema.get_attr("const").ok()?;
    let list = schema.get_attr("enum").ok()?;
    let values: Vec<Value> = match (single.is_undefined(), list.is_undefined()) {
        (false, true) => vec![single],
        (true, false) => list.try_iter().ok()?.collect(),
        _ => return None,
    };
    let is_text = |value: &Value| value.as_str().is_some();
    let fits = kind.is_undefined() || (kind.as_str() == Some("string") && values.iter().all(is_text));
    if !fits || values.len() > TEXTS_MAX {
        return None;
    }
    values.iter().map(|value| serde_json::to_string(value).ok()).collect()
}

/// All members are required and in the order of the schema.
fn object(schema: &Value, depth: usize) -> Option<Vec<String>> {
    let properties = schema.get_attr("properties").ok()?;
    let is_closed = schema.get_attr("additionalProperties").ok()?;
    if properties.is_undefined() || !(is_closed.is_undefined() || is_closed == Value::from(false)) {
        return None;
    }
    let required: Vec<Value> = schema.get_attr("required").ok()?.try_iter().ok()?.collect();
    let mut texts = vec![String::from("{")];
    let mut count = 0;
    for name in properties.try_iter().ok()? {
        if !required.contains(&name) {
            return None;
        }
        let members = of(&properties.get_item(&name).ok()?, depth)?;
        let opening =
            format!("{}{}:", if count == 0 { "" } else { "," }, serde_json::to_string(&name).ok()?);
        let total: usize = texts.len().checked_mul(members.len())?;
        if total > TEXTS_MAX {
            return None;
        }
        let longest = |texts: &[String]| texts.iter().map(String::len).max().unwrap_or(0);
        if total * (longest(&texts) + opening.len() + longest(&members)) > TEXTS_LEN_MAX {
            return None;
        }
        let opening = opening.as_str();
        let members = &members;
        texts = texts
            .iter()
            .flat_map(|text| members.iter().map(move |member| format!("{text}{opening}{member}")))
            .collect();
        count += 1;
    }
    if required.len() != count {
        return None;
    }
    for text in &mut texts {
        text.push('}');
    }
    Some(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_of_a_closed_schema_are_written_out() {
        let schema = r#"{"type": "object", "required": ["kind", "is_new"], "additionalProperties": false,
            "properties": {"kind": {"enum": ["b", "a\"x"], "type": "string"}, "is_new": {"type": "boolean"}}}"#;
        let expected = [
            r#"{"kind":"a\"x","is_new":false}"#,
            r#"{"kind":"a\"x","is_new":true}"#,
            r#"{"kind":"b","is_new":false}"#,
            r#"{"kind":"b","is_new":true}"#,
        ];
        assert_eq!(texts(schema).unwrap(), expected);
        assert_eq!(texts(r#"{"const": 7}"#).unwrap(), ["7"]);
    }

    #[test]
    fn open_and_odd_schemas_are_left_to_a_grammar() {
        for schema in [
            r#"{"type": "string"}"#,
            r#"{"type": "object"}"#,
            r#"{"type": "object", "properties": {"a": {"type": "boolean"}}}"#,
            r#"{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a", "b"]}"#,
            r#"{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "minProperties": 1}"#,
            r#"{"type": "integer", "enum": ["a"]}"#,
            r#"{"enum": []}"#,
            "[]",
            "7",
        ] {
            assert_eq!(texts(schema), None, "{schema}");
        }
    }

    #[test]
    fn more_answers_than_fit_are_left_to_a_grammar() {
        let flags: Vec<String> = (0..11).map(|n| format!(r#""f{n}": {{"type": "boolean"}}"#)).collect();
        let names: Vec<String> = (0..11).map(|n| format!(r#""f{n}""#)).collect();
        let schema = format!(
            r#"{{"type": "object", "properties": {{{}}}, "required": [{}]}}"#,
            flags.join(","),
            names.join(",")
        );
        assert_eq!(texts(&schema), None);
    }
}
