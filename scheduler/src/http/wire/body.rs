//! A request's body, collected under its limit and its deadline.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aya_config::Timeouts;
use aya_domain::MonoTime;
use aya_proxy::{ApiError, Decoder, Framing, poll_read};
use bytes::{BufMut, Bytes, BytesMut};
use tokio_util::io::poll_read_buf;

use super::{Wait, Wire};

/// What is reserved for a body before its bytes are there, whatever it announces.
const RESERVE_MAX: usize = 1024 * 1024;

/// What a body may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimits {
    pub(crate) bytes_max: usize,
    /// Bytes per second, once the grace is over.
    pub(crate) rate_min: usize,
}

/// How fast a body has to come: every byte that came moves its end, up to the time that any body has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    began: MonoTime,
    /// Without a single byte.
    grace: Duration,
    longest: Duration,
    rate_min: usize,
}

impl Pace {
    /// Of a body that begins now.
    pub(crate) fn begin(now: MonoTime, timeouts: &Timeouts, rate_min: usize) -> Self {
        Self { began: now, grace: timeouts.body_grace, longest: timeouts.body, rate_min }
    }

    /// How long the first byte may take.
    pub(crate) fn first(&self) -> Duration {
        self.grace.min(self.longest)
    }

    /// The time left; `None` if it is over.
    pub(crate) fn left(&self, now: MonoTime, received: usize) -> Option<Duration> {
        let whole = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let earned_ns = whole(received).saturating_mul(1_000_000_000) / whole(self.rate_min).max(1);
        let allowed = self.longest.min(self.grace.saturating_add(Duration::from_nanos(earned_ns)));
        allowed.checked_sub(now.since(self.began)).filter(|left| !left.is_zero())
    }
}

impl Wire {
    /// A request's body within its limits.
    ///
    /// # Errors
    /// 413 at the limit, 408 at the deadline or below the rate, 400 for broken framing. The connection must close after
    /// each.
    pub(crate) async fn body(
        &mut self,
        framing: Framing,
        limits: BodyLimits,
        expects_continue: bool,
    ) -> Result<Bytes, ApiError> {
        let limit = limits.bytes_max;
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
        let pace = Pace::begin(self.clock.now(), &self.timeouts, limits.rate_min);
        self.timer.start(Wait::Body, pace.first());
        if expects_continue && self.ahead.is_empty() {
            let mut written = 0;
            poll_fn(|cx| self.poll_write_all(cx, b"HTTP/1.1 100 Continue\r\n\r\n", &mut written))
                .await
                .map_err(|_| broken_off())?;
        }
        match announced {
            Some(length) => self.known_body(length, pace).await,
            None => self.chunked_body(limit, pace).await,
        }
    }

    /// Ready when the body has come too slowly. A body that comes fast costs no more than the first look at the timer.
    fn poll_late(&mut self, cx: &mut Context<'_>, pace: Pace, received: usize) -> Poll<ApiError> {
        loop {
            ready!(self.timer.poll(cx));
            match pace.left(self.clock.now(), received) {
                Some(left) => self.timer.start(Wait::Body, left),
                None => return Poll::Ready(late()),
            }
        }
    }

    async fn known_body(&mut self, length: usize, pace: Pace) -> Result<Bytes, ApiError> {
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
                    Poll::Pending => return self.poll_late(cx, pace, body.len()).map(Err),
                }
            }
            Poll::Ready(Ok(()))
        })
        .await?;
        Ok(body.freeze())
    }

    async fn chunked_body(&mut self, limit: usize, pace: Pace) -> Result<Bytes, ApiError> {
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
                Poll::Pending => self.poll_late(cx, pace, body.len()).map(Err),
            })
            .await?;
        }
        self.ahead = rest.unwrap_or_default();
        Ok(Bytes::from(body))
    }
}

pub(crate) fn too_large(limit: usize) -> ApiError {
    let message = format!("the request body is larger than {limit} bytes");
    ApiError::new(413, "invalid_request_error", message).code("body_too_large").should_retry(false)
}

pub(crate) fn late() -> ApiError {
    ApiError::new(408, "timeout_error", "the request body did not arrive in time, or came too slowly")
        .code("body_timeout")
}

pub(crate) fn broken_off() -> ApiError {
    ApiError::invalid_request("the request body broke off")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_moves_the_end_of_a_body_up_to_the_longest() {
        let pace = Pace {
            began: MonoTime::from_millis(1_000),
            grace: Duration::from_secs(2),
            longest: Duration::from_secs(10),
            rate_min: 100,
        };
        for (at_ms, received, left_ms) in [
            (1_000, 0, Some(2_000)),
            (2_999, 0, Some(1)),
            (3_000, 0, None),
            (3_000, 1, Some(10)),
            (5_000, 200, None),
            (5_000, 300, Some(1_000)),
            (5_000, usize::MAX, Some(6_000)),
            (11_000, usize::MAX, None),
        ] {
            let left = pace.left(MonoTime::from_millis(at_ms), received);
            assert_eq!(left, left_ms.map(Duration::from_millis), "{received} bytes at {at_ms} ms");
        }
    }
}
