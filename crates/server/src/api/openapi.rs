//! `GET /openapi.json`: what the API takes and gives, for generators and for people.
//!
//! Maintained by hand, because half of it is a contract of others that our types only imitate; tests hold it to the
//! routes there are and to the members that answers really have.

mod paths;
mod schemas;

use axum::Json;
use http::Method;
use serde_json::{Map, Value, json};

pub(super) async fn openapi() -> Json<Value> {
    Json(document())
}

fn document() -> Value {
    let mut paths = Map::new();
    for (method, path, operation) in paths::paths() {
        let methods = paths.entry(path).or_insert_with(|| json!({}));
        methods[method.as_str().to_ascii_lowercase()] = operation.render(path, &method);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Overnight",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Batch inference on hardware you own, behind the OpenAI Batch API. \
                What is ours stands under the member `overnight`.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas::schemas(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    })
}

/// One method of one path.
struct Operation {
    id: &'static str,
    summary: &'static str,
    query: Vec<(&'static str, Value, &'static str)>,
    body: Option<(&'static str, Value)>,
    answer: (&'static str, Value),
}

impl Operation {
    fn json(id: &'static str, summary: &'static str, schema: &str) -> Self {
        let answer = ("application/json", schemas::reference(schema));
        Self { id, summary, query: Vec::new(), body: None, answer }
    }

    fn bytes(id: &'static str, summary: &'static str, kind: &'static str) -> Self {
        Self { answer: (kind, json!({"type": "string"})), ..Self::json(id, summary, "Error") }
    }

    fn query(mut self, name: &'static str, schema: Value, description: &'static str) -> Self {
        self.query.push((name, schema, description));
        self
    }

    fn takes(mut self, kind: &'static str, schema: Value) -> Self {
        self.body = Some((kind, schema));
        self
    }

    fn render(self, path: &str, method: &Method) -> Value {
        let mut parameters: Vec<Value> = path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
            .collect();
        parameters.extend(self.query.into_iter().map(|(name, schema, description)| {
            json!({"name": name, "in": "query", "schema": schema, "description": description})
        }));
        let (kind, answer) = self.answer;
        let error = json!({
            "description": "A refusal, in OpenAI's envelope.",
            "content": {"application/json": {"schema": schemas::reference("Error")}},
        });
        let mut operation = json!({
            "operationId": self.id,
            "summary": self.summary,
            "parameters": parameters,
            "responses": {
                "200": {"description": "Done.", "content": {kind: {"schema": answer}}},
                "default": error,
            },
        });
        if let Some((kind, schema)) = self.body {
            let is_required = *method == Method::POST && kind != paths::OPTIONAL_JSON;
            let kind = if kind == paths::OPTIONAL_JSON { "application/json" } else { kind };
            operation["requestBody"] =
                json!({"required": is_required, "content": {kind: {"schema": schema}}});
        }
        operation
    }
}

#[cfg(test)]
mod tests;
