//! How an answer is taken in, without a socket: every split must give the same.

use proptest::prelude::*;

use super::*;

/// Status, body so far, and whether there was more than the answer; fed in two pieces, then the rest whole.
fn take(answer: &[u8], cuts: &[usize]) -> Result<(u16, Vec<u8>, bool), UpstreamError> {
    let mut incoming = Incoming::default();
    let mut start = 0;
    let mut head = None;
    let mut body = Vec::new();
    let mut excess = false;
    for end in cuts.iter().copied().chain([answer.len()]) {
        let piece = &answer[start..end];
        start = end;
        if piece.is_empty() {
            continue;
        }
        if head.is_none() {
            if let Some((parsed, ready)) = incoming.take(piece)? {
                head = Some(parsed.head.status.as_u16());
                body.extend_from_slice(&ready);
                excess |= incoming.has_excess;
            }
        } else {
            let used = incoming.decoder.as_mut().unwrap().decode(piece, &mut body)?;
            excess |= used < piece.len();
        }
    }
    Ok((head.unwrap(), body, excess))
}

#[test]
fn an_answer_cut_at_any_two_bytes_is_the_same_answer() {
    for (answer, excess) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
            false,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n", true),
        ("HTTP/1.0 200 OK\r\n\r\nhello", false),
    ] {
        let bytes = answer.as_bytes();
        for first in 1..bytes.len() {
            for second in first..bytes.len() {
                let got = take(bytes, &[first, second]).unwrap();
                assert_eq!(got, (200, b"hello".to_vec(), excess), "{answer:?} cut at {first} and {second}");
            }
        }
        let every: Vec<usize> = (1..bytes.len()).collect();
        assert_eq!(take(bytes, &every).unwrap(), (200, b"hello".to_vec(), excess), "{answer:?} byte by byte");
    }
}

#[test]
fn a_head_that_never_ends_is_cut_at_its_limit() {
    let endless_line = vec![b'x'; 4096];
    let mut incoming = Incoming::default();
    incoming.take(b"HTTP/1.1 200 OK\r\nA: ").unwrap();
    let error = (0..100).find_map(|_| incoming.take(&endless_line).err());
    assert_eq!(error, Some(UpstreamError::HeadTooLarge { limit: "64 KiB" }));
    assert!(incoming.partial.len() <= HEAD_MAX + endless_line.len());

    let mut whole_but_large = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nA: ".to_vec();
    whole_but_large.resize(HEAD_MAX, b'x');
    whole_but_large.extend_from_slice(b"\r\n\r\n");
    let error = Incoming::default().take(&whole_but_large).err();
    assert_eq!(error, Some(UpstreamError::HeadTooLarge { limit: "64 KiB" }));
}

#[test]
fn an_exchange_can_move_between_threads_before_it_runs() {
    fn is_send<T: Send>(_: &T) {}
    let head = RequestHead {
        method: crate::upstream::Method::Get,
        path: "/",
        host: "h",
        accept_stream: false,
        request_id: None,
        authorization: None,
        traceparent: None,
    };
    let (body, config) = (SplicedBody::empty(), UpstreamConfig::default());
    is_send(&exchange(([127, 0, 0, 1], 1).into(), &head, &body, &config, Socket::Fresh));
}

proptest! {
    #[test]
    fn hostile_answers_never_give_more_than_was_sent(
        pieces in prop::collection::vec(
            prop_oneof![
                prop::sample::select(vec![
                    "HTTP/1.1 200 OK\r\n", "HTTP/1.1 100 C\r\n", "\r\n", "Content-Length: 3\r\n", "Content-Length: ",
                    "Transfer-Encoding: chunked\r\n", "Connection: close\r\n", "3\r\nabc\r\n", "0\r\n\r\n", ":", "\n",
                ]).prop_map(|s| s.as_bytes().to_vec()),
                prop::collection::vec(any::<u8>(), 0..4),
            ],
            0..12,
        ),
        size in 1usize..40,
    ) {
        let answer = pieces.concat();
        let cuts: Vec<usize> = (size..answer.len()).step_by(size).collect();
        let mut incoming = Incoming::default();
        let mut start = 0;
        for end in cuts.into_iter().chain([answer.len()]) {
            match incoming.take(&answer[start..end]) {
                Ok(None) => start = end,
                Ok(Some((parsed, body))) => {
                    prop_assert!(parsed.length + body.len() <= end);
                    break;
                }
                Err(error) => {
                    prop_assert!(error.retryable_before_first_byte());
                    break;
                }
            }
        }
    }
}
