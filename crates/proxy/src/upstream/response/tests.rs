//! Heads as engines send them, and as no engine should.

use super::*;

fn whole(head: &str) -> ParsedHead {
    parse(head.as_bytes()).unwrap_or_else(|e| panic!("{head:?}: {e}")).unwrap_or_else(|| panic!("{head:?}"))
}

#[test]
fn a_head_says_how_its_body_ends_and_whether_the_socket_lives_on() {
    for (head, framing, keep_alive) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Framing::Length(5), true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", Framing::Chunked, true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n", Framing::Length(5), false),
        ("HTTP/1.1 200 OK\r\nConnection: x, Close\r\n\r\n", Framing::UntilClose, false),
        ("HTTP/1.0 200 OK\r\n\r\n", Framing::UntilClose, false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n", Framing::Length(1), false),
        ("HTTP/1.1 204 No Content\r\n\r\n", Framing::Length(0), true),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", Framing::Length(0), true),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
            Framing::Length(0),
            true,
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n",
            Framing::Length(1),
            true,
        ),
    ] {
        let parsed = whole(head);
        assert_eq!((parsed.framing, parsed.keep_alive), (framing, keep_alive), "{head:?}");
        assert_eq!(parsed.length, head.len(), "{head:?}");
    }
}

#[test]
fn a_head_that_readers_could_take_differently_is_refused() {
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length:\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Encoding: gzip\r\nContent-Length: 1\r\n",
        "Content-Type: a/b\r\nContent-Type: c/d\r\nContent-Length: 1\r\n",
        "Content-Length: 1\r\nA: b\0c\r\n",
        "Content-Length: 1\r\nA: b\r\n folded\r\n",
        "",
    ] {
        let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        assert!(matches!(parse(head.as_bytes()), Err(UpstreamError::BadHead { .. })), "{head:?}");
    }
    for head in [
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
        "HTTP/1.1 999999 X\r\n\r\n",
        "HTTP/1.1 000 X\r\nContent-Length: 0\r\n\r\n",
        "HTTP/2 200\r\n\r\n",
        "<html>\r\n\r\n",
        "\0\0\0\0",
    ] {
        assert!(matches!(parse(head.as_bytes()), Err(UpstreamError::BadHead { .. })), "{head:?}");
    }
}

#[test]
fn endless_informational_answers_and_fields_are_cut() {
    let hints = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100);
    assert!(matches!(
        parse(hints.as_bytes()),
        Err(UpstreamError::BadHead { what: "too many informational answers" })
    ));
    let fields = format!("HTTP/1.1 200 OK\r\n{}", "A: b\r\n".repeat(200));
    assert!(matches!(parse(fields.as_bytes()), Err(UpstreamError::HeadTooLarge { .. })));
}

#[test]
fn a_head_is_incomplete_at_every_byte_but_the_last() {
    let head = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    for end in 0..head.len() {
        assert!(parse(&head.as_bytes()[..end]).unwrap().is_none(), "cut at {end}");
    }
    assert!(whole(head).head.is_event_stream());
}

#[test]
fn only_listed_fields_go_on_to_the_client() {
    let head = whole(
        "HTTP/1.1 503 Busy\r\nServer: x\r\nSet-Cookie: a=b\r\nX-Evil: c\r\nConnection: x-evil\r\nKeep-Alive: timeout=5\r\n\
         Content-Type: application/json\r\nCache-Control: no-store\r\nRetry-After: 7\r\nContent-Length: 2\r\n\r\n",
    )
    .head;
    let names: Vec<_> = head.forward.iter().map(|(name, _)| name).collect();
    assert_eq!(names, [&b"content-type"[..], b"cache-control"]);
    assert_eq!((head.status.as_u16(), head.retry_after_s, head.content_length), (503, Some(7), Some(2)));
}

#[test]
fn a_retry_hint_is_a_bounded_number_of_seconds_or_unknown() {
    for (value, expect) in [
        ("7", Some(7)),
        ("100000", Some(120)),
        ("-1", None),
        ("soon", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
    ] {
        let head =
            whole(&format!("HTTP/1.1 429 Slow\r\nRetry-After: {value}\r\nContent-Length: 0\r\n\r\n")).head;
        assert_eq!(head.retry_after_s, expect, "{value}");
    }
}
