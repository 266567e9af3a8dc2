use http::header::HOST;
use http::{HeaderValue, Method};

use axum::body::Body;

use super::*;
use crate::api::harness::{Answer, Harness, request};

async fn ask(harness: &Harness, method: Method, path: &str, headers: &[(&'static str, &str)]) -> Answer {
    let mut request = request(method, path, Body::empty());
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
    }
    harness.call(request).await
}

#[tokio::test]
async fn the_page_and_its_parts_are_there_without_a_key() {
    let harness = Harness::guarded();
    let index = harness.get("/").await;
    assert_eq!(index.status, 200);
    assert_eq!(index.headers[CONTENT_TYPE], "text/html; charset=utf-8");
    let html = String::from_utf8(index.body).unwrap();
    for part in &PARTS {
        let path = format!("/page/{}", part.name);
        let answer = harness.get(&path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.headers[CONTENT_TYPE], part.kind);
        assert_eq!(answer.headers[X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(answer.headers[CONTENT_SECURITY_POLICY], POLICY);
        let is_named = html.contains(&path)
            || PARTS.iter().any(|other| other.content.contains(&format!("from \"./{}\"", part.name)));
        assert!(is_named, "nothing loads `{path}`");
    }
    harness.get("/page/nope.js").await.refused(404);
    harness.get("/page/..%2f..%2fpage.rs").await.refused(404);
    harness.get("/v1/overview").await.refused(401);
}

#[tokio::test]
async fn a_browser_that_has_it_asks_only_whether_it_is_right() {
    let harness = Harness::new();
    let first = harness.get("/").await;
    assert_eq!(first.headers[CACHE_CONTROL], "no-cache");
    let tag = first.headers[ETAG].to_str().unwrap();
    for known in [tag.to_owned(), format!("W/{tag}"), format!("\"other\", {tag}")] {
        let again = ask(&harness, Method::GET, "/", &[("if-none-match", &known)]).await;
        assert_eq!((again.status.as_u16(), again.body.len()), (304, 0), "{known}");
    }
    let other = ask(&harness, Method::GET, "/", &[("if-none-match", "\"other\"")]).await;
    assert_eq!(other.status, 200);
    assert_eq!(harness.get("/v1/overview").await.headers[CACHE_CONTROL], "no-store");
    let head = ask(&harness, Method::HEAD, "/", &[]).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    assert_eq!(head.headers[ETAG], *tag);
    ask(&harness, Method::POST, "/", &[]).await.refused(405);
}

#[tokio::test]
async fn only_our_own_page_may_act() {
    let harness = Harness::new();
    let input = harness.input("{}\n").await;
    let body = serde_json::json!({
        "input_file_id": input, "endpoint": "/v1/embeddings", "completion_window": "24h",
    });
    let batch = harness.post("/v1/batches", &body).await.ok();
    let path = format!("/v1/batches/{}/pause", batch["id"].as_str().unwrap());
    let ours = ask(&harness, Method::POST, &path, &[("origin", "http://127.0.0.1:8642")]).await.ok();
    assert_eq!(ours["overnight"]["paused"], true);
    for path in [path.as_str(), "/v1/overview", "/", "/page/main.js"] {
        let method = if path.ends_with("pause") { Method::POST } else { Method::GET };
        let foreign = [("origin", "http://evil.example")];
        ask(&harness, method.clone(), path, &foreign).await.refused(403);
        // A name of a stranger that leads to our address.
        ask(&harness, method, path, &[(HOST.as_str(), "evil.example")]).await.refused(403);
    }
}

/// What the policy forbids is not even tried, and what strangers wrote never becomes markup.
#[test]
fn the_page_loads_nothing_from_elsewhere_and_makes_no_markup() {
    for part in PARTS.iter().chain([&INDEX]) {
        let foreign = part.content.replace("http://www.w3.org/2000/svg", "");
        for forbidden in ["http://", "https://", "\"//", "@import", "url("] {
            assert!(!foreign.contains(forbidden), "`{forbidden}` in {}", part.name);
        }
        for forbidden in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "javascript:",
            "createContextualFragment",
            "DOMParser",
        ] {
            assert!(!part.content.contains(forbidden), "`{forbidden}` in {}", part.name);
        }
    }
    for inline in [" style=", " onclick=", " onload=", " onsubmit=", "<style", "<script>"] {
        assert!(!INDEX.content.contains(inline), "`{inline}`");
    }
}
