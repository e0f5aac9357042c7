//! A wire tap between the farm and one engine: passes every byte and remembers what the engine was sent. It can
//! also answer inferences itself, as no engine should; probes still come to the engine.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, LocalSet};

use crate::strict::{Heard, read_strictly};

type Lines = Rc<RefCell<Vec<Vec<u8>>>>;
type Script = Rc<RefCell<Option<(String, Then)>>>;

/// What follows a scripted answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    HangUp,
    /// The line stays open until the farm hangs up.
    Stay,
}

/// Listens until it is dropped. Must live on a [`LocalSet`].
#[derive(Debug)]
pub struct Tap {
    pub addr: SocketAddr,
    heard: Lines,
    script: Script,
    listening: JoinHandle<()>,
}

impl Tap {
    /// Taps the line to `engine`.
    pub async fn before(engine: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (heard, script) = (Lines::default(), Script::default());
        let line = Line { engine, heard: Rc::clone(&heard), script: Rc::clone(&script) };
        let listening = tokio::task::spawn_local(listen(listener, line));
        Self { addr, heard, script, listening }
    }

    /// From now on inferences get these bytes and the connection's end.
    pub fn answer_with(&self, bytes: &str) {
        *self.script.borrow_mut() = Some((bytes.to_owned(), Then::HangUp));
    }

    /// From now on inferences get these bytes, and silence.
    pub fn answer_and_stay(&self, bytes: &str) {
        *self.script.borrow_mut() = Some((bytes.to_owned(), Then::Stay));
    }

    /// What was sent over each connection that asked for an inference; probes are left out.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        self.heard.borrow().iter().map(text).filter(|sent| sent.starts_with("POST /v1/")).collect()
    }

    /// The same bytes, read by [`read_strictly`]: what the engine got, over all connections.
    ///
    /// # Panics
    /// If anything that it got is not exactly one well-formed request after the other.
    #[must_use]
    pub fn heard(&self) -> Vec<Heard> {
        let all = self.heard.borrow();
        let inferences = all.iter().filter(|sent| sent.starts_with(b"POST "));
        inferences
            .flat_map(|sent| read_strictly(sent).unwrap_or_else(|e| panic!("the engine got {e}")))
            .collect()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// Runs a test that uses a tap.
pub async fn tapped<T>(test: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(test).await
}

#[derive(Debug, Clone)]
struct Line {
    engine: SocketAddr,
    heard: Lines,
    script: Script,
}

async fn listen(listener: TcpListener, line: Line) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::task::spawn_local(pass(client, line.clone()));
    }
}

async fn pass(client: TcpStream, Line { engine, heard, script }: Line) {
    let Ok(server) = TcpStream::connect(engine).await else { return };
    let at = heard.borrow().len();
    heard.borrow_mut().push(Vec::new());
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = async { tokio::io::copy(&mut from_server, &mut to_client).await };
    let forth = async {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
            let bytes = buffer.get(..read).unwrap_or_default();
            if let Some(sent) = heard.borrow_mut().get_mut(at) {
                sent.extend_from_slice(bytes);
            }
            let scripted = script.borrow().clone().filter(|_| bytes.starts_with(b"POST /v1/"));
            if let Some(answer) = scripted {
                return Some(answer);
            }
            if to_server.write_all(bytes).await.is_err() {
                break;
            }
        }
        None
    };
    // Either side's end ends both: an abort must reach the engine.
    let answer = tokio::select! {
        _ = back => None,
        answer = forth => answer,
    };
    if let Some((answer, then)) = answer {
        // The farm may hang up in the middle of it, and should.
        let _ = to_client.write_all(answer.as_bytes()).await;
        if then == Then::Stay {
            let _ = from_client.read(&mut [0; 1]).await;
        }
        let _ = to_client.shutdown().await;
    }
}
