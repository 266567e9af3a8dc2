//! Cases 102 to 104: models.

use overnight_sim::Script;
use serde_json::json;

use super::{get, ok, refused, with_script};

fn two_models() -> Script {
    Script { models: vec!["org/m:7b".to_owned(), "sim-model".to_owned()], ..Script::default() }
}

#[test]
fn case_102_models_are_listed() {
    let server = with_script(two_models());
    let models = ok(&get(&server, "/v1/models"));
    assert_eq!(models["object"], "list");
    let data = models["data"].as_array().unwrap();
    let mut names: Vec<&str> = data.iter().map(|model| model["id"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["org/m:7b", "sim-model"]);
    for model in data {
        assert_eq!(model["object"], "model");
        assert!(model["created"].is_u64(), "{model}");
        assert!(model["owned_by"].is_string(), "{model}");
    }
}

#[test]
fn case_103_a_name_with_a_slash_is_found_in_both_forms() {
    let server = with_script(two_models());
    let encoded = ok(&get(&server, "/v1/models/org%2Fm:7b"));
    assert_eq!(encoded["id"], "org/m:7b");
    assert_eq!(ok(&get(&server, "/v1/models/org/m:7b")), encoded);
    assert_eq!(ok(&get(&server, "/v1/models/org%2Fm%3A7b")), encoded);
    assert_eq!(ok(&get(&server, "/v1/models/sim-model"))["id"], "sim-model");
}

#[test]
fn case_104_an_unknown_model_is_404() {
    let server = with_script(two_models());
    for name in ["none", "org", "org%2Fm", "m:7b"] {
        let error = refused(&get(&server, &format!("/v1/models/{name}")), 404);
        assert_eq!(error["code"], json!("model_not_found"), "{name}");
        assert_eq!(error["param"], "model");
    }
}
