//! A streamed answer: one event per token, each in a chunk of its own, and the ways in which a stream can break.
//!
//! The stream asks for the token count and makes the text itself, so a client that reads slowly costs nothing
//! but its own delay. Dropping it (the client has gone) aborts the request.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::mpsc;

use super::error::ApiError;
use super::frames::{DONE, Frames};
use crate::inbox::{Generation, Job, Progress};

const KEEP_ALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// The connection is to close without a proper end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Died;

impl fmt::Display for Died {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the simulated engine died")
    }
}

impl std::error::Error for Died {}

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) generation: Generation,
    pub(super) frames: Frames,
    pub(super) include_usage: bool,
    /// Break after this many tokens.
    pub(super) die_after: Option<u32>,
    /// A comment goes out after so long without a token.
    pub(super) keep_alive: Option<Duration>,
    /// Tokens written.
    pub(super) written: u32,
    pub(super) progress: Progress,
    /// Events to be written before the next token.
    pub(super) ready: VecDeque<Bytes>,
    pub(super) over: bool,
}

impl Answer {
    pub(super) fn new(
        generation: Generation,
        frames: Frames,
        include_usage: bool,
        die_after: Option<u32>,
    ) -> Self {
        Self {
            generation,
            frames,
            include_usage,
            die_after,
            keep_alive: None,
            written: 0,
            progress: Progress::default(),
            ready: VecDeque::new(),
            over: false,
        }
    }

    /// As a response: the headers go out at once, before the request is scheduled.
    pub(super) fn into_response(self) -> Response {
        let events = stream::unfold(Some(self), |answer| async {
            let mut answer = answer?;
            match answer.next().await {
                Ok(Some(event)) => Some((Ok(event), Some(answer))),
                Ok(None) => None,
                Err(died) => Some((Err(died), None)),
            }
        });
        event_stream(Body::from_stream(events))
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Died> {
        if let Some(event) = self.ready.pop_front() {
            return Ok(Some(event));
        }
        if self.over {
            return Ok(None);
        }
        if self.die_after.is_some_and(|tokens| self.written >= tokens) {
            // What was written shall reach the client before the connection breaks.
            tokio::task::yield_now().await;
            return Err(Died);
        }
        if self.progress.tokens <= self.written {
            let next = self.generation.beyond(self.written);
            let progress = match self.keep_alive {
                None => next.await,
                Some(patience) => match tokio::time::timeout(patience, next).await {
                    Ok(progress) => progress,
                    Err(_) => return Ok(Some(KEEP_ALIVE)),
                },
            };
            self.progress = progress.ok_or(Died)?;
        }
        self.advance();
        Ok(self.ready.pop_front())
    }

    /// Readies the next token and what belongs to it.
    fn advance(&mut self) {
        if self.written == 0 {
            self.ready.extend(self.frames.role());
        }
        if self.written < self.progress.tokens {
            self.written += 1;
        }
        let last = self.progress.finished && self.written >= self.progress.tokens;
        self.ready.push_back(self.frames.token(self.written, last));
        if last {
            if self.include_usage {
                self.ready.push_back(self.frames.usage(self.written, self.progress.cached_tokens));
            }
            self.ready.push_back(DONE);
            self.over = true;
        }
    }
}

/// A 200 with an error event instead of a first token, as vLLM answers when a request loses a race for its queue.
pub(super) fn error_in_stream(error: &ApiError) -> Response {
    let event = Bytes::from(format!("data: {}\n\n", error.to_json()));
    let events = [Ok::<_, Infallible>(event), Ok(DONE)];
    event_stream(Body::from_stream(stream::iter(events)))
}

/// A 200 without anything behind it, until the client gives up or the engine stops.
pub(super) fn silence(inbox: mpsc::Sender<Job>) -> Response {
    let stopped = async move {
        inbox.closed().await;
        Err::<Bytes, _>(Died)
    };
    event_stream(Body::from_stream(stream::once(stopped)))
}

fn event_stream(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")], body).into_response()
}
