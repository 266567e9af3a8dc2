//! Cases 34 to 40 and 94: lists and their pages.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{delete, get, ids_of, list, ok, one_line, refused, roomy, run, walk};
use crate::harness::Server;

/// Files in the order in which they were made.
fn make(server: &Server, count: usize) -> Vec<String> {
    (0..count).map(|_| server.upload(&one_line())).collect()
}

fn newest_first(ids: &[String]) -> Vec<String> {
    ids.iter().rev().cloned().collect()
}

#[test]
fn case_034_pages_of_files_follow_each_other_newest_first() {
    let server = Server::start();
    let ids = newest_first(&make(&server, 3));
    let first = list(&server, "/v1/files?limit=2");
    assert_eq!((ids_of(&first), &first["has_more"]), (ids[..2].to_vec(), &json!(true)));
    let second = list(&server, &format!("/v1/files?limit=2&after={}", ids[1]));
    assert_eq!((ids_of(&second), &second["has_more"]), (ids[2..].to_vec(), &json!(false)));
    assert_eq!(ids_of(&list(&server, "/v1/files")), ids);
    assert_eq!(list(&server, "/v1/files?limit=3")["has_more"], false);
}

#[test]
fn case_035_behind_the_last_file_there_is_nothing() {
    let server = Server::start();
    let ids = make(&server, 3);
    let page = list(&server, &format!("/v1/files?after={}", ids[0]));
    assert_eq!((&page["data"], &page["has_more"]), (&json!([]), &json!(false)));
    assert_eq!((&page["first_id"], &page["last_id"]), (&Value::Null, &Value::Null));
}

#[test]
fn case_036_oldest_first_has_its_own_cursor() {
    let server = Server::start();
    let ids = make(&server, 5);
    assert_eq!(ids_of(&list(&server, "/v1/files?order=asc")), ids);
    assert_eq!(walk(&server, "/v1/files?order=asc&limit=2", 3), ids);
    let page = list(&server, &format!("/v1/files?order=asc&after={}", ids[4]));
    assert_eq!((&page["data"], &page["has_more"]), (&json!([]), &json!(false)));
    assert_eq!(walk(&server, "/v1/files?order=desc&limit=2", 3), newest_first(&ids));
}

#[test]
fn case_037_files_are_listed_by_purpose() {
    let server = Server::start();
    let batch = run(&server, &one_line());
    let output = batch["output_file_id"].as_str().unwrap();
    let input = batch["input_file_id"].as_str().unwrap();
    assert_eq!(ids_of(&list(&server, "/v1/files?purpose=batch_output")), [output]);
    assert_eq!(ids_of(&list(&server, "/v1/files?purpose=batch")), [input]);
    assert_eq!(ids_of(&list(&server, "/v1/files?purpose=vision")), Vec::<String>::new());
    assert_eq!(ids_of(&list(&server, "/v1/files")).len(), 2);
}

#[test]
fn case_038_a_limit_or_an_order_that_is_none_is_refused() {
    let server = Server::start();
    for (query, param) in [
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("limit=-1", "limit"),
        ("limit=ten", "limit"),
        ("order=up", "order"),
    ] {
        let error = refused(&get(&server, &format!("/v1/files?{query}")), 400);
        assert_eq!(error["param"], param, "{query}");
    }
    list(&server, "/v1/files?limit=10000");
    list(&server, "/v1/files?limit=1");
}

/// Old clients ask on and on until a page is empty: a first page in answer to a strange cursor would never end.
#[test]
fn case_039_an_unknown_cursor_is_never_the_first_page() {
    let server = Server::start();
    let ids = newest_first(&make(&server, 3));
    for cursor in ["file-unknown", "7", "batch_00000000000000000000000000000000"] {
        let error = refused(&get(&server, &format!("/v1/files?after={cursor}")), 400);
        assert_eq!(error["param"], "after", "{cursor}");
    }
    // The place of a file that was deleted meanwhile is still known.
    ok(&delete(&server, &format!("/v1/files/{}", ids[1])));
    assert_eq!(ids_of(&list(&server, &format!("/v1/files?after={}", ids[1]))), ids[2..]);
    assert_eq!(ids_of(&list(&server, &format!("/v1/files?after={}&order=asc", ids[1]))), ids[..1]);
}

#[test]
fn case_040_files_of_one_second_come_exactly_once() {
    let server = Server::start();
    let ids = make(&server, 30);
    let page = list(&server, "/v1/files");
    let seconds: BTreeSet<u64> =
        page["data"].as_array().unwrap().iter().map(|file| super::seconds(file, "created_at")).collect();
    assert!(seconds.len() < 30, "no two files share a second");
    assert_eq!(walk(&server, "/v1/files?limit=7", 5), newest_first(&ids));
    assert_eq!(walk(&server, "/v1/files?limit=7&order=asc", 5), ids);
}

#[test]
fn case_094_batches_are_listed_as_files_are() {
    let server = roomy();
    let file = server.upload(&one_line());
    let made: Vec<String> = (0..25).map(|_| server.create(&file)).collect();
    let ids = newest_first(&made);
    let first = list(&server, "/v1/batches");
    assert_eq!((ids_of(&first), &first["has_more"]), (ids[..20].to_vec(), &json!(true)));
    let second = list(&server, &format!("/v1/batches?after={}", ids[19]));
    assert_eq!((ids_of(&second), &second["has_more"]), (ids[20..].to_vec(), &json!(false)));
    assert_eq!(walk(&server, "/v1/batches?limit=7", 4), ids);
    assert_eq!(ids_of(&list(&server, "/v1/batches?limit=100")), ids);
    let last = list(&server, &format!("/v1/batches?after={}", ids[24]));
    assert_eq!((&last["data"], &last["has_more"]), (&json!([]), &json!(false)));
    for query in ["limit=0", "limit=101", "limit=x"] {
        assert_eq!(refused(&get(&server, &format!("/v1/batches?{query}")), 400)["param"], "limit");
    }
    for cursor in ["batch_unknown", "file-00000000000000000000000000000000", "1"] {
        let answer = get(&server, &format!("/v1/batches?after={cursor}"));
        assert_eq!(refused(&answer, 400)["param"], "after");
    }
    for id in &ids {
        server.wait_for_end_of(id);
    }
    let ended: BTreeSet<String> = ids_of(&list(&server, "/v1/batches?limit=100")).into_iter().collect();
    assert_eq!(ended, ids.into_iter().collect(), "ending changes no place");
}
