//! Word to the requests on an endpoint that a GPU beneath it has failed for good.
//!
//! What runs on a GPU that is off the bus hangs, and its engine keeps the connection open. A request that the client has
//! seen nothing of is tried elsewhere at once. A stream is given a moment: tokens that still come are better evidence than
//! a driver's event. Nobody is told while nothing fails, and asking costs one load.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use aya_domain::{Action, Endpoint};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// The silence that a stream on a failed GPU is allowed.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(2);

/// Whether a GPU beneath an endpoint has failed, and those who want to know.
#[derive(Debug, Default)]
pub(crate) struct Fallen {
    fallen: AtomicBool,
    news: Arc<Notify>,
}

/// Whether a GPU that this endpoint certainly stands on has failed. Where nobody knows which one it is, only new requests
/// are kept away.
pub(crate) fn has_fallen(endpoint: &Endpoint) -> bool {
    let failed = endpoint.conditions.iter().filter(|condition| condition.action == Action::Fail);
    failed.filter_map(|condition| condition.gpu.as_ref()).any(|gpu| endpoint.info.gpus.contains(gpu))
}

impl Fallen {
    /// The last view says so.
    pub(crate) fn set(&self, fallen: bool) {
        // SeqCst, as in `is`: whoever listens before it looks is told, or sees it.
        if self.fallen.load(Ordering::Relaxed) != fallen
            && !self.fallen.swap(fallen, Ordering::SeqCst)
            && fallen
        {
            self.news.notify_waiters();
        }
    }

    fn is(&self) -> bool {
        self.fallen.load(Ordering::SeqCst)
    }

    /// Comes back when it has fallen.
    pub(crate) async fn wait(&self) {
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            if self.is() {
                return;
            }
            news.await;
        }
    }

    /// An ear for a stream.
    pub(crate) fn listen(self: &Arc<Self>) -> Ear {
        let news = Box::pin(Arc::clone(&self.news).notified_owned());
        Ear { fallen: Arc::clone(self), news, waker: None, heard: false }
    }
}

/// Listens for one stream: its task is woken when the endpoint falls.
#[derive(Debug)]
pub(crate) struct Ear {
    fallen: Arc<Fallen>,
    news: Pin<Box<OwnedNotified>>,
    /// Whom the news wake.
    waker: Option<Waker>,
    heard: bool,
}

impl Ear {
    /// True once, when the endpoint has fallen.
    pub(crate) fn hears(&mut self, cx: &mut Context<'_>) -> bool {
        if self.heard {
            return false;
        }
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            if let Poll::Ready(()) = self.news.as_mut().poll(cx) {
                // It fell and may have risen since; the next time it is told anew.
                self.news = Box::pin(Arc::clone(&self.fallen.news).notified_owned());
                let _ = self.news.as_mut().poll(cx);
            }
            self.waker = Some(cx.waker().clone());
        }
        self.heard = self.fallen.is();
        self.heard
    }

    /// Whether it has fallen while this stream listened.
    pub(crate) const fn has_heard(&self) -> bool {
        self.heard
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Wake for Counting {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_stream_is_woken_when_its_endpoint_falls_and_hears_it_once() {
        let (fallen, wakes) = (Arc::new(Fallen::default()), Arc::new(Counting::default()));
        let waker = Waker::from(Arc::clone(&wakes));
        let mut cx = Context::from_waker(&waker);
        let mut ear = fallen.listen();
        for _ in 0..3 {
            assert!(!ear.hears(&mut cx));
            fallen.set(false);
        }
        assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
        fallen.set(true);
        fallen.set(true);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert!(ear.hears(&mut cx));
        assert!(!ear.hears(&mut cx) && ear.has_heard());
        let mut late = fallen.listen();
        assert!(late.hears(&mut cx), "one that comes afterwards need not be woken");
        fallen.set(false);
        assert!(!fallen.listen().hears(&mut cx), "it is well again");
    }

    #[tokio::test]
    async fn a_request_that_waits_for_its_first_byte_is_told() {
        let fallen = Arc::new(Fallen::default());
        let waiting = fallen.wait();
        tokio::pin!(waiting);
        tokio::select! {
            biased;
            () = &mut waiting => panic!("it has not fallen"),
            () = tokio::task::yield_now() => {}
        }
        fallen.set(true);
        waiting.await;
        fallen.wait().await;
    }
}
