use std::path::Path;

use serde::Deserialize;

use super::*;

/// The start of 2026.
const NOW: UnixTime = UnixTime::from_millis(1_767_225_600_000);

fn render(source: &str, messages: &[Value]) -> Result<String, String> {
    let template = Template::new(source.to_owned(), "<s>".to_owned(), "</s>".to_owned())?;
    template.render(&Given { messages, tools: &[], values: &BTreeMap::new(), now: NOW })
}

fn message(role: &str, content: &str) -> Value {
    Value::from_pairs([("role", role), ("content", content)])
}

#[test]
fn templates_have_what_transformers_gives_them() {
    let source = "{{ bos_token }}{% for message in messages %}\n    {%- if message['role'] == 'skip' %}{% continue %}{% endif %}\n\
                  [{{ message.content.strip().split('-')[0] | trim }}]{% endfor %}\n\
                  {% set ns = namespace(found=false) %}{% set ns.found = true %}{{ ns.found and tools is none }}\
                  {{ strftime_now('%Y-%m-%d') }}";
    let messages = [message("user", " a -b"), message("skip", "c")];
    assert_eq!(render(source, &messages).unwrap(), "<s>[a]True2026-01-01");
}

#[test]
fn json_is_written_as_python_does() {
    let message: Value = serde_json::from_str(r#"{"b": [1, 2.5, null, {}], "a": "é<\n"}"#).unwrap();
    let rendered = render("{{ messages[0] | tojson }}", std::slice::from_ref(&message)).unwrap();
    assert_eq!(rendered, r#"{"b": [1, 2.5, null, {}], "a": "é<\n"}"#);
    let rendered =
        render("{{ messages[0] | tojson(indent=2) }}", std::slice::from_ref(&message)).unwrap();
    assert_eq!(
        rendered,
        "{\n  \"b\": [\n    1,\n    2.5,\n    null,\n    {}\n  ],\n  \"a\": \"é<\\n\"\n}"
    );
    let compact = "{{ messages[0] | tojson(separators=(',', ':')) }}";
    assert_eq!(render(compact, &[message]).unwrap(), r#"{"b":[1,2.5,null,{}],"a":"é<\n"}"#);
}

#[test]
fn what_a_template_refuses_is_told_in_its_words() {
    let error = render("\n{{ raise_exception('no system here') }}", &[]).unwrap_err();
    assert_eq!(error, "no system here in line 2");
    assert!(render("{{ messages | nonsense }}", &[]).unwrap_err().contains("nonsense"));
    assert!(render("{% if %}", &[]).is_err());
}

#[test]
fn a_template_that_never_ends_is_ended() {
    let loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    assert!(render(loops, &[]).is_err());
    let grows = "{% set ns = namespace(t='xxxxxxxxxxxxxxxx') %}{% for a in range(24) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}{{ ns.t }}";
    assert!(render(grows, &[]).is_err());
    let repeats = "{{ 'x' * 999999999999 }}";
    assert!(render(repeats, &[]).is_err());
    let recurses = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    assert!(render(recurses, &[]).is_err());
}

#[test]
fn a_message_that_is_left_out_is_found() {
    let messages = [message("system", "Be \"brief\"."), message("user", "x")];
    assert_eq!(left_out(&messages, "only x"), Some((0, "system".to_owned())));
    assert_eq!(left_out(&messages, "Be \"brief\". x"), None);
    assert_eq!(left_out(&messages, r#"{"content": "Be \"brief\"."} x"#), None);
}

#[derive(Deserialize)]
struct Recorded {
    source: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    messages: Vec<Value>,
    text: Option<String>,
    error: Option<String>,
}

const OVER_NONE: &str = "TypeError: 'NoneType' object is not iterable";

/// Runs where `tests/templates/record.py` has recorded what Jinja2 makes of them; the templates' licences forbid to keep
/// them here.
#[test]
fn real_templates_are_rendered_as_jinja2_does() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.check/templates");
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut wrong = Vec::new();
    let (mut same, mut lenient, mut refused) = (0, 0, Vec::new());
    for path in entries.map(|entry| entry.unwrap().path()) {
        let recorded: Recorded = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for case in recorded.cases {
            let name = format!("{} ({})", path.file_stem().unwrap().display(), case.name);
            match (render(&recorded.source, &case.messages), case.text) {
                (Ok(ours), Some(theirs)) if ours == theirs => same += 1,
                (Ok(ours), Some(theirs)) => {
                    wrong.push(format!("{name}:\n{ours}\n--- and not\n{theirs}"));
                }
                // Going through none is an error in Python, and nothing here.
                (Ok(_), None) if case.error.as_deref() == Some(OVER_NONE) => lenient += 1,
                (Ok(_), None) => {
                    wrong.push(format!("{name}: not refused: {}", case.error.unwrap_or_default()));
                }
                (Err(why), Some(_)) => refused.push(format!("{name}: {why}")),
                (Err(_), None) => same += 1,
            }
        }
    }
    println!(
        "{same} as Jinja2 does, {lenient} that it refuses, {} refused:\n{}",
        refused.len(),
        refused.join("\n")
    );
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(same > 4 * refused.len(), "{} are refused", refused.len());
}
