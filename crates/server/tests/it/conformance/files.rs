//! Cases 11 to 33 and 41: files. Their lists stand in `lists.rs`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::time::Instant;

use overnight_domain::ids::{BlobKey, FileId, TenantId};
use overnight_domain::time::UnixTime;
use overnight_store::{SqliteStore, Store as _};
use serde_json::{Value, json};

use super::{
    AT_ONCE, Form, connect, delete, get, list, ok, one_line, post_chunked, post_form, read, refused,
    seconds,
};
use super::{create, with_settings};
use crate::harness::{Answer, PATIENCE, Server, files_below, input};

fn upload(server: &Server, form: Form) -> Answer {
    post_form(server, "/v1/files", form)
}

/// The file object of an upload that was taken as it was sent.
fn check_file(file: &Value, content: &[u8]) {
    assert!(file["id"].as_str().unwrap().starts_with("file-"), "{file}");
    assert_eq!(file["object"], "file");
    assert_eq!(file["bytes"], content.len());
    assert_eq!(file["purpose"], "batch");
    assert_eq!(file["status"], "processed");
    assert!(file["created_at"].is_u64(), "{file}");
    assert!(file.get("expires_at").is_some(), "{file}");
}

fn blobs(server: &Server) -> usize {
    files_below(&server.data().join("blobs")).len()
}

/// Waits until nothing of what was refused is left on the disk.
fn wait_for_blobs(server: &Server, wanted: usize) {
    let started = Instant::now();
    while blobs(server) != wanted {
        let left = files_below(&server.data().join("blobs"));
        assert!(started.elapsed() < PATIENCE, "wanted {wanted} blobs: {left:?}");
        std::thread::yield_now();
    }
}

#[test]
fn case_011_an_upload_as_python_sends_it() {
    let server = Server::start();
    let content = input(10, |at| format!("question {at}"));
    let file = ok(&server.upload_as(&[("purpose", "batch")], "in.jsonl", &content));
    check_file(&file, &content);
    assert_eq!(file["filename"], "in.jsonl");
}

#[test]
fn case_012_the_file_before_the_purpose_chunked_without_a_length() {
    let server = Server::start();
    let content = input(1_000, |at| format!("question {at}"));
    let body = Form::new().file("file", "in.jsonl", &content).text("purpose", "batch").end();
    let file = ok(&post_chunked(&server, "/v1/files", Form::HEADER, &body));
    check_file(&file, &content);
}

#[test]
fn case_013_a_life_named_behind_the_file() {
    let server = Server::start();
    let form = Form::new()
        .text("purpose", "batch")
        .file("file", "in.jsonl", &one_line())
        .text("expires_after[anchor]", "created_at")
        .text("expires_after[seconds]", "3600");
    let file = ok(&upload(&server, form));
    check_file(&file, &one_line());
    assert_eq!(seconds(&file, "expires_at"), seconds(&file, "created_at") + 3_600);
}

#[test]
fn case_014_without_a_life_the_configured_one() {
    let month = with_settings("[retention]\nfiles = \"30d\"");
    let file = ok(&month.upload_as(&[("purpose", "batch")], "in.jsonl", &one_line()));
    assert_eq!(seconds(&file, "expires_at"), seconds(&file, "created_at") + 2_592_000);

    // A person's own machine keeps files until they are deleted.
    let desktop = Server::start();
    let file = ok(&desktop.upload_as(&[("purpose", "batch")], "in.jsonl", &one_line()));
    assert_eq!(file["expires_at"], Value::Null);
}

#[test]
fn case_015_a_life_that_cannot_be_is_refused_by_name() {
    let server = Server::start();
    let life = |anchor: &str, seconds: &str| {
        let form = Form::new()
            .text("purpose", "batch")
            .text("expires_after[anchor]", anchor)
            .text("expires_after[seconds]", seconds)
            .file("file", "in.jsonl", &one_line());
        refused(&upload(&server, form), 400)["param"].clone()
    };
    for wrong in ["3599", "2592001", "abc", "-1", "", "99999999999999999999"] {
        assert_eq!(life("created_at", wrong), "expires_after[seconds]", "{wrong}");
    }
    assert_eq!(life("now", "3600"), "expires_after[anchor]");
    // The same behind the file.
    let form = Form::new()
        .text("purpose", "batch")
        .file("file", "in.jsonl", &one_line())
        .text("expires_after[anchor]", "created_at")
        .text("expires_after[seconds]", "10");
    assert_eq!(refused(&upload(&server, form), 400)["param"], "expires_after[seconds]");
    assert_eq!(list(&server, "/v1/files")["data"], json!([]));
    wait_for_blobs(&server, 0);
}

#[test]
fn case_016_the_content_decides_and_not_the_name() {
    let server = Server::start();
    let file = ok(&server.upload_as(&[("purpose", "batch")], "upload", &one_line()));
    check_file(&file, &one_line());
    assert_eq!(file["filename"], "upload");
}

#[test]
fn case_017_names_are_for_people_and_never_paths() {
    let server = Server::start();
    let outside = || {
        let mut all = files_below(server.folder.path());
        all.retain(|path| !path.starts_with(server.data()));
        all
    };
    let before = outside();
    for (sent, shown) in [
        ("größe 🦀.jsonl", "größe 🦀.jsonl"),
        ("a%22b.jsonl", "a\"b.jsonl"),
        ("../../x", "x"),
        ("dir/x.jsonl", "x.jsonl"),
        ("dir\\\\x.jsonl", "x.jsonl"),
        ("/etc/passwd", "passwd"),
        ("..", "upload"),
    ] {
        let file = ok(&server.upload_as(&[("purpose", "batch")], sent, &one_line()));
        assert_eq!(file["filename"], shown, "{sent}");
        let answer = get(&server, &format!("/v1/files/{}/content", file["id"].as_str().unwrap()));
        assert_eq!(answer.body, one_line());
    }
    assert_eq!(outside(), before);
    for path in files_below(&server.data()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(!["x", "x.jsonl", "passwd"].contains(&name.as_str()), "{}", path.display());
    }
}

#[test]
fn case_018_a_line_break_behind_the_closing_boundary() {
    let server = Server::start();
    let mut body = Form::new().text("purpose", "batch").file("file", "in.jsonl", &one_line()).end();
    body.extend_from_slice(b"\r\n\r\n");
    let file = ok(&server.call("POST", "/v1/files", &[Form::HEADER], &body).unwrap());
    check_file(&file, &one_line());
}

#[test]
fn case_019_who_asks_first_is_told_to_go_on() {
    let server = Server::start();
    let content = input(20_000, |at| format!("question {at}"));
    assert!(content.len() > 3_000_000);
    let body = Form::new().text("purpose", "batch").file("file", "in.jsonl", &content).end();
    let mut stream = connect(&server);
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{}: {}\r\n\
         Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        server.address,
        Form::HEADER.0,
        Form::HEADER.1,
        body.len()
    );
    let asked = Instant::now();
    stream.write_all(head.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 100 "), "{line}");
    // Nothing of the body was sent, so it was not waited for. curl waits a second before it sends it unasked.
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    stream.write_all(&body).unwrap();
    reader.read_line(&mut line).unwrap();
    check_file(&ok(&Answer::read(&mut reader).unwrap()), &content);
}

#[test]
fn case_020_a_missing_part_is_named() {
    let server = Server::start();
    let no_file = upload(&server, Form::new().text("purpose", "batch"));
    assert_eq!(refused(&no_file, 400)["param"], "file");
    let no_purpose = upload(&server, Form::new().file("file", "in.jsonl", &one_line()));
    assert_eq!(refused(&no_purpose, 400)["param"], "purpose");
    assert_eq!(list(&server, "/v1/files")["data"], json!([]));
    wait_for_blobs(&server, 0);
}

#[test]
fn case_021_an_unknown_purpose_is_refused() {
    let server = Server::start();
    let error = refused(&server.upload_as(&[("purpose", "banana")], "in.jsonl", &one_line()), 400);
    assert_eq!((&error["param"], &error["code"]), (&json!("purpose"), &json!("invalid_value")));
    assert!(error["message"].as_str().unwrap().contains("'batch'"), "{error}");
    // The purposes of outputs are not for callers.
    refused(&server.upload_as(&[("purpose", "batch_output")], "in.jsonl", &one_line()), 400);
    let behind = Form::new().file("file", "in.jsonl", &one_line()).text("purpose", "banana");
    assert_eq!(refused(&upload(&server, behind), 400)["param"], "purpose");
}

#[test]
fn case_022_an_empty_file_is_no_input() {
    let server = Server::start();
    for content in ["", "\n\n", "\u{feff}"] {
        refused(&server.upload_as(&[("purpose", "batch")], "in.jsonl", content.as_bytes()), 400);
    }
    ok(&server.upload_as(&[("purpose", "user_data")], "empty.txt", b""));
}

#[test]
fn case_023_a_first_line_that_is_no_json_is_refused() {
    let server = Server::start();
    let content = [b"id,text\n".as_slice(), &one_line()].concat();
    let error = refused(&server.upload_as(&[("purpose", "batch")], "in.jsonl", &content), 400);
    assert!(error["message"].as_str().unwrap().contains("jsonl"), "{error}");
    let behind = Form::new().file("file", "in.jsonl", &content).text("purpose", "batch");
    refused(&upload(&server, behind), 400);
    assert_eq!(list(&server, "/v1/files")["data"], json!([]));
    wait_for_blobs(&server, 0);
}

#[test]
fn case_024_a_second_line_that_is_no_json_is_taken() {
    let server = Server::start();
    let content = [one_line().as_slice(), b"{\n"].concat();
    check_file(&ok(&server.upload_as(&[("purpose", "batch")], "in.jsonl", &content)), &content);
}

#[test]
fn case_025_too_large_is_refused_in_a_way_that_clients_can_read() {
    let server = with_settings("[limits]\nfile_len = \"1MB\"");
    let content = input(20_000, |at| format!("question {at}"));
    assert!(content.len() > 3_000_000);
    let body = Form::new().text("purpose", "batch").file("file", "in.jsonl", &content).end();

    // A client that reads only after it has written everything.
    let mut stream = connect(&server);
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nHost: {}\r\n{}: {}\r\nContent-Length: {}\r\n\r\n",
        server.address,
        Form::HEADER.0,
        Form::HEADER.1,
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    for piece in body.chunks(16_384) {
        stream.write_all(piece).expect("the server reads on");
    }
    let error = refused(&read(stream), 400);
    assert!(error["message"].as_str().unwrap().contains("File is too large"), "{error}");

    let chunked = post_chunked(&server, "/v1/files", Form::HEADER, &body);
    let error = refused(&chunked, 400);
    assert!(error["message"].as_str().unwrap().contains("limits.file_len"), "{error}");

    assert_eq!(list(&server, "/v1/files")["data"], json!([]));
    wait_for_blobs(&server, 0);
}

#[test]
fn case_026_an_upload_that_is_cut_leaves_nothing() {
    let server = Server::start();
    let body = Form::new()
        .text("purpose", "batch")
        .file("file", "in.jsonl", &input(100_000, |at| format!("question {at}")))
        .end();
    let mut stream = connect(&server);
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nHost: {}\r\n{}: {}\r\nContent-Length: {}\r\n\r\n",
        server.address,
        Form::HEADER.0,
        Form::HEADER.1,
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body[..body.len() * 3 / 4]).unwrap();
    let started = Instant::now();
    while blobs(&server) == 0 {
        assert!(started.elapsed() < PATIENCE, "nothing was written");
        std::thread::yield_now();
    }
    assert_eq!(list(&server, "/v1/files")["data"], json!([]));
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    wait_for_blobs(&server, 0);
    assert_eq!(list(&server, "/v1/files")["data"], json!([]));
}

#[test]
fn case_027_retrieve_is_what_creation_answered() {
    let server = Server::start();
    let file = ok(&server.upload_as(&[("purpose", "batch")], "in.jsonl", &one_line()));
    assert_eq!(ok(&get(&server, &format!("/v1/files/{}", file["id"].as_str().unwrap()))), file);
}

#[test]
fn case_028_an_unknown_file_is_404() {
    let server = Server::start();
    for id in ["file-unknown", "file-00000000000000000000000000000000", "x", "batch_1", "%2e%2e"] {
        let error = refused(&get(&server, &format!("/v1/files/{id}")), 404);
        assert_eq!(error["param"], "id");
        assert_eq!(error["type"], "invalid_request_error");
    }
}

#[test]
fn case_029_the_content_is_the_bytes_that_were_sent() {
    let server = Server::start();
    let content = "{\"a\":1}\r\n\r\n\u{feff}{\"b\":\"\u{2028}\u{0}\"}\n--sep-\r\nno newline".as_bytes();
    let id = server.upload(content);
    let answer = get(&server, &format!("/v1/files/{id}/content"));
    assert_eq!((answer.status, answer.body.as_slice()), (200, content));
    let long = input(30_000, |at| format!("question {at}"));
    let id = server.upload(&long);
    assert!(get(&server, &format!("/v1/files/{id}/content")).body == long, "other bytes");
}

#[test]
fn case_030_any_accept_gets_the_content() {
    let server = Server::start();
    let path = format!("/v1/files/{}/content", server.upload(&one_line()));
    for accept in ["application/binary", "application/json", "image/png"] {
        let answer = server.call("GET", &path, &[("Accept", accept)], b"").unwrap();
        assert_eq!((answer.status, answer.body), (200, one_line()));
    }
}

#[test]
fn case_031_the_content_of_an_unknown_file_is_404_as_json() {
    let server = Server::start();
    let headers = [("Accept", "application/binary")];
    let answer = server.call("GET", "/v1/files/file-unknown/content", &headers, b"").unwrap();
    assert_eq!(refused(&answer, 404)["param"], "id");
}

#[test]
fn case_032_a_deletion_says_so() {
    let server = Server::start();
    let id = server.upload(&one_line());
    let answer = ok(&delete(&server, &format!("/v1/files/{id}")));
    assert_eq!(answer, json!({"id": id, "object": "file", "deleted": true}));
}

#[test]
fn case_033_what_was_deleted_is_404_everywhere() {
    let server = Server::start();
    let id = server.upload(&one_line());
    let path = format!("/v1/files/{id}");
    ok(&delete(&server, &path));
    refused(&delete(&server, &path), 404);
    refused(&get(&server, &path), 404);
    refused(&get(&server, &format!("{path}/content")), 404);
    assert_eq!(list(&server, "/v1/files")["data"], json!([]));
    refused(&create(&server, &id, &json!({})), 400);
}

/// No life is shorter than an hour, so the server finds a file in its store whose hour is over.
#[test]
fn case_041_a_file_whose_time_is_over_is_gone() {
    let mut server = Server::start();
    let kept = server.upload(&one_line());
    let path = format!("/v1/files/{kept}");
    let created_at = seconds(&ok(&get(&server, &path)), "created_at");
    server.kill();
    let old = FileId::parse("file-0192f1d0000070008000000000000000").unwrap();
    let blob = BlobKey::new(format!("files/{old}"));
    let blob_path = server.data().join("blobs").join(blob.as_str());
    std::fs::write(&blob_path, one_line()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = SqliteStore::open(server.data().join("overnight.db")).unwrap();
        let (kept, now) = (FileId::parse(&kept).unwrap(), UnixTime::from_millis(created_at * 1_000));
        let mut file = store.file(&TenantId::default(), &kept, now).await.unwrap().unwrap();
        (file.id, file.blob, file.expires_at) = (old.clone(), blob, Some(now));
        store.create_file(file).await.unwrap();
    });
    server.up();
    refused(&get(&server, &format!("/v1/files/{old}")), 404);
    refused(&get(&server, &format!("/v1/files/{old}/content")), 404);
    refused(&create(&server, old.as_str(), &json!({})), 400);
    assert_eq!(super::ids_of(&list(&server, "/v1/files")), [kept]);
    // Its bytes go too.
    wait_for_blobs(&server, 1);
}
