//! A request's body, collected under its limit and its deadline.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use aya_proxy::{ApiError, Decoder, Framing, poll_read};
use bytes::{BufMut, Bytes, BytesMut};
use tokio_util::io::poll_read_buf;

use super::{Wait, Wire};

/// What is reserved for a body before its bytes are there, whatever it announces.
const RESERVE_MAX: usize = 1024 * 1024;

impl Wire {
    /// A request's body of at most `limit` bytes.
    ///
    /// # Errors
    /// 413 at the limit, 408 at the deadline, 400 for broken framing. The connection must close after each.
    pub(crate) async fn body(
        &mut self,
        framing: Framing,
        limit: usize,
        expects_continue: bool,
    ) -> Result<Bytes, ApiError> {
        let announced = match framing {
            Framing::Length(length) => Some(
                usize::try_from(length)
                    .ok()
                    .filter(|length| *length <= limit)
                    .ok_or_else(|| too_large(limit))?,
            ),
            Framing::Chunked | Framing::UntilClose => None,
        };
        if announced.is_some_and(|length| self.ahead.len() == length) {
            return Ok(Bytes::from(std::mem::take(&mut self.ahead)));
        }
        self.timer.start(Wait::Body, self.timeouts.body);
        if expects_continue && self.ahead.is_empty() {
            let mut written = 0;
            poll_fn(|cx| self.poll_write_all(cx, b"HTTP/1.1 100 Continue\r\n\r\n", &mut written))
                .await
                .map_err(|_| broken_off())?;
        }
        match announced {
            Some(length) => self.known_body(length).await,
            None => self.chunked_body(limit).await,
        }
    }

    async fn known_body(&mut self, length: usize) -> Result<Bytes, ApiError> {
        if self.ahead.len() > length {
            let rest = self.ahead.split_off(length);
            return Ok(Bytes::from(std::mem::replace(&mut self.ahead, rest)));
        }
        let mut body = BytesMut::with_capacity(length.min(RESERVE_MAX));
        body.extend_from_slice(&std::mem::take(&mut self.ahead));
        poll_fn(|cx| {
            while body.len() < length {
                let left = length - body.len();
                match poll_read_buf(Pin::new(&mut self.socket), cx, &mut (&mut body).limit(left)) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(Ok(_) | Err(_)) => return Poll::Ready(Err(broken_off())),
                    Poll::Pending => return self.timer.poll(cx).map(|_| Err(late())),
                }
            }
            Poll::Ready(Ok(()))
        })
        .await?;
        Ok(body.freeze())
    }

    async fn chunked_body(&mut self, limit: usize) -> Result<Bytes, ApiError> {
        let mut decoder = Decoder::new(Framing::Chunked);
        let mut body = Vec::new();
        let mut take = |input: &[u8], body: &mut Vec<u8>| match decoder.decode(input, body) {
            Err(error) => {
                Err(ApiError::invalid_request(format!("the framing of the request body is broken: {error}")))
            }
            Ok(_) if body.len() > limit => Err(too_large(limit)),
            Ok(used) => Ok(decoder.is_done().then(|| input.get(used..).unwrap_or_default().to_vec())),
        };
        let ahead = std::mem::take(&mut self.ahead);
        let mut rest = take(&ahead, &mut body)?;
        while rest.is_none() {
            rest = poll_fn(|cx| match poll_read(&mut self.socket, cx, |input| take(input, &mut body)) {
                Poll::Ready(Ok(Some(taken))) => Poll::Ready(taken),
                Poll::Ready(Ok(None) | Err(_)) => Poll::Ready(Err(broken_off())),
                Poll::Pending => self.timer.poll(cx).map(|_| Err(late())),
            })
            .await?;
        }
        self.ahead = rest.unwrap_or_default();
        Ok(Bytes::from(body))
    }
}

fn too_large(limit: usize) -> ApiError {
    let message = format!("the request body is larger than {limit} bytes");
    ApiError::new(413, "invalid_request_error", message).code("body_too_large").should_retry(false)
}

fn late() -> ApiError {
    ApiError::new(408, "timeout_error", "the request body did not arrive in time").code("body_timeout")
}

fn broken_off() -> ApiError {
    ApiError::invalid_request("the request body broke off")
}
