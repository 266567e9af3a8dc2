//! Over real sockets: what only a connection can show.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::api::harness::Harness;

/// A server on a port of its own.
struct Served {
    harness: Harness,
    address: SocketAddr,
    task: JoinHandle<anyhow::Result<()>>,
}

#[expect(clippy::disallowed_methods, reason = "a test's server ends with its runtime")]
async fn served(harness: Harness) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(super::serve(
        Arc::clone(&harness.ctx),
        listener,
        crate::pulse::Pulses::default().begin("api"),
    ));
    Served { harness, address, task }
}

/// Runs what blocks beside the server.
async fn blocking<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(act).await.unwrap()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Reads one answer: status and body.
fn answer(stream: &mut TcpStream) -> (u16, Value) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let len = head.split_once("content-length: ").map(|(_, rest)| rest.lines().next().unwrap());
    let mut body = vec![0; len.map_or(0, |len| len.parse().unwrap())];
    stream.read_exact(&mut body).unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

const FORM: &str = "--XX\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n\
    --XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\n\r\n";

#[tokio::test]
async fn who_is_refused_in_the_middle_of_an_upload_sees_why_and_may_go_on() {
    let served = served(Harness::with(|config| config.limits.file_len = 1_000_000)).await;
    let address = served.address;
    blocking(move || {
        let mut stream = connect(address);
        let head = "POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\
            Content-Type: multipart/form-data; boundary=XX\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let piece =
            |bytes: &[u8]| [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
        stream.write_all(&piece(format!("{FORM}{{}}\n").as_bytes())).unwrap();
        // Far more than sockets buffer: without a drain these writes would fail or block.
        for _ in 0..40 {
            stream.write_all(&piece(&vec![b' '; 1_000_000])).unwrap();
        }
        stream.write_all(&piece(b"\r\n--XX--\r\n")).unwrap();
        stream.write_all(b"0\r\n\r\n").unwrap();
        let (status, body) = answer(&mut stream);
        assert_eq!(status, 400);
        assert!(
            body["error"]["message"].as_str().is_some_and(|text| text.starts_with("File is too large."))
        );
        stream.write_all(b"GET /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
        let (status, body) = answer(&mut stream);
        assert_eq!((status, &body["data"]), (200, &serde_json::json!([])));
    })
    .await;
    assert_eq!(served.harness.blobs("files"), Vec::<String>::new());
}

#[tokio::test]
async fn the_answer_does_not_wait_for_the_rest_of_the_body() {
    let served = served(Harness::new()).await;
    let address = served.address;
    blocking(move || {
        let mut stream = connect(address);
        let head = "POST /v1/nope HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000000\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&[b'x'; 1_000]).unwrap();
        assert_eq!(answer(&mut stream).0, 404, "while 4,999,000 bytes are still to come");
        stream.write_all(&vec![b'x'; 4_999_000]).unwrap();
        stream.write_all(b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
        assert_eq!(answer(&mut stream).0, 200);
    })
    .await;
}

#[tokio::test]
async fn who_asks_before_sending_is_told_to_go_on_or_not_to() {
    let served = served(Harness::new()).await;
    let address = served.address;
    blocking(move || {
        let mut stream = connect(address);
        let body = format!("{FORM}{{}}\n\r\n--XX--\r\n");
        let head = format!(
            "POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\
             Content-Type: multipart/form-data; boundary=XX\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        assert_eq!(answer(&mut stream).0, 100);
        stream.write_all(body.as_bytes()).unwrap();
        assert_eq!(answer(&mut stream).0, 200);

        let mut refused = connect(address);
        let head = "POST /v1/nope HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5000000\r\n\
            Expect: 100-continue\r\n\r\n";
        refused.write_all(head.as_bytes()).unwrap();
        assert_eq!(answer(&mut refused).0, 404);
        assert_eq!(refused.read(&mut [0]).unwrap(), 0, "and the connection is closed");
    })
    .await;
}

#[tokio::test]
async fn an_upload_that_is_cut_off_leaves_nothing() {
    let served = served(Harness::new()).await;
    let address = served.address;
    blocking(move || {
        let mut stream = connect(address);
        let head = "POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50000000\r\n\
            Content-Type: multipart/form-data; boundary=XX\r\n\r\n";
        stream.write_all(format!("{head}{FORM}{{}}\n").as_bytes()).unwrap();
        stream.write_all(&vec![b' '; 20_000_000]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        // The server has ended the call when it closes the connection.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    })
    .await;
    served.harness.ctx.stop.cancel();
    served.task.await.unwrap().unwrap();
    assert_eq!(served.harness.get("/health/live").await.status, 200);
    let store = &served.harness.ctx.store;
    let query = overnight_store::FileQuery {
        purpose: None,
        direction: overnight_store::Direction::NewestFirst,
        after: None,
        limit: 10,
    };
    let tenant = overnight_domain::ids::TenantId::default();
    let files = store.list_files(&tenant, query, crate::clock::now()).await.unwrap();
    assert_eq!(files.rows, Vec::new());
}

#[tokio::test]
async fn after_the_stop_new_calls_are_told_to_come_back_and_running_ones_end() {
    let served = served(Harness::new()).await;
    let address = served.address;
    let body = format!("{FORM}{{}}\n\r\n--XX--\r\n");
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\
         Content-Type: multipart/form-data; boundary=XX\r\n\r\n",
        body.len()
    );
    // It is in its handler when it is told to go on.
    let mut running = blocking(move || {
        let mut running = connect(address);
        running.write_all(head.as_bytes()).unwrap();
        assert_eq!(answer(&mut running).0, 100);
        running
    })
    .await;
    served.harness.ctx.stop.cancel();
    blocking(move || {
        let mut new = connect(address);
        new.write_all(b"GET /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
        let (status, refusal) = answer(&mut new);
        assert_eq!((status, &refusal["error"]["code"]), (503, &"shutting_down".into()));
        running.write_all(body.as_bytes()).unwrap();
        assert_eq!(answer(&mut running).0, 200);
    })
    .await;
    served.task.await.unwrap().unwrap();
    blocking(move || assert!(TcpStream::connect(address).is_err(), "the socket is closed")).await;
}
