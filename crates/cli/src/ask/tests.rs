//! What is asked, and the exit code of every kind of answer.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// Answers one request with these bytes; gives the request line and the outcome of asking.
async fn asked(path: &str, answer: &str) -> (String, Result<Bytes, Failure>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let serve = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 4096];
        let n = socket.read(&mut head).await.unwrap();
        socket.write_all(answer.as_bytes()).await.unwrap();
        socket.shutdown().await.unwrap();
        String::from_utf8_lossy(&head[..n]).lines().next().unwrap_or_default().to_owned()
    };
    tokio::join!(serve, get(&url, path))
}

fn response(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn an_answer_is_taken_as_it_is() {
    let (line, answer) = asked("/api/v1/fleet", &response("200 OK", "{}")).await;
    assert_eq!(line, "GET /api/v1/fleet HTTP/1.1");
    assert_eq!(answer.unwrap(), "{}");
}

#[tokio::test]
async fn every_kind_of_failure_has_its_exit_code() {
    let said = r#"{"error":{"message":"no kept record\u001b[2J","code":"x"}}"#;
    for (answer, code, text) in [
        (response("404 Not Found", said), 4, "NotFound(\"no kept record?[2J\")"),
        (response("404 Not Found", "rubbish"), 3, "is no admin listener of a scheduler"),
        (response("404 Not Found", &said.replace("\"x\"", "\"unknown_path\"")), 3, "port 8081 by default"),
        (
            response("404 Not Found", r#"{"error":{"message":"File Not Found","code":404}}"#),
            3,
            "is no admin listener",
        ),
        (response("400 Bad Request", said), 2, "no kept record"),
        (response("500 Internal Server Error", said), 1, "no kept record"),
        ("nonsense".to_owned(), 3, "no scheduler answers"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort".to_owned(), 1, "broke off"),
    ] {
        let failure = asked("/p", &answer).await.1.unwrap_err();
        assert_eq!(failure.code(), code, "{answer}");
        assert!(format!("{failure:?}").contains(text), "{failure:?}");
    }
}

#[tokio::test]
async fn nobody_there_is_exit_code_3_and_a_hint() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: EndpointUrl = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let failure = get(&url, "/").await.unwrap_err();
    assert_eq!(failure.code(), 3);
    assert!(format!("{failure:?}").contains("try --admin URL"), "{failure:?}");
}

#[test]
fn what_a_person_types_cannot_leave_its_place_in_the_query() {
    assert_eq!(escaped("meta/llama&x=1 ä"), "meta%2Fllama%26x%3D1%20%C3%A4");
}
