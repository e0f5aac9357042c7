//! An engine that answers what a test tells it to: pages, silence, or bytes that are no HTTP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What one path answers.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    Page(u16, Vec<u8>),
    /// Takes the request and never answers.
    Silence,
    /// A body without end.
    Endless,
    /// Announces so many bytes and sends them all.
    Huge(usize),
    /// Not HTTP at all.
    Garbage,
}

type Pages = Arc<Mutex<BTreeMap<&'static str, Reply>>>;

/// A running fake engine; dropped, it is killed.
pub(super) struct FakeEngine {
    pub(super) addr: SocketAddr,
    pub(super) pages: Pages,
    pub(super) seen: Arc<Mutex<Vec<String>>>,
    tasks: JoinSet<()>,
}

impl FakeEngine {
    pub(super) async fn start(pages: &[(&'static str, Reply)]) -> Self {
        let pages = Arc::new(Mutex::new(pages.iter().cloned().collect()));
        Self::at("127.0.0.1:0".parse().unwrap(), pages).await
    }

    async fn at(addr: SocketAddr, pages: Pages) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&pages), Arc::clone(&seen)));
        Self { addr, pages, seen, tasks }
    }

    /// Ends it as kill -9 would: the port closes, open connections break.
    pub(super) async fn kill(&mut self) {
        self.tasks.shutdown().await;
    }

    /// The same engine on the same port again.
    pub(super) async fn revive(&mut self) {
        *self = Self::at(self.addr, Arc::clone(&self.pages)).await;
    }

    pub(super) fn set(&self, path: &'static str, reply: Reply) {
        self.pages.lock().insert(path, reply);
    }
}

async fn accept(listener: TcpListener, pages: Pages, seen: Arc<Mutex<Vec<String>>>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else { return };
        connections.spawn(converse(socket, Arc::clone(&pages), Arc::clone(&seen)));
    }
}

async fn converse(mut socket: TcpStream, pages: Pages, seen: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    loop {
        head.clear();
        while !head.ends_with(b"\r\n\r\n") {
            match socket.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
        seen.lock().push(text);
        let reply = pages.lock().get(path.as_str()).cloned();
        let reply = reply.unwrap_or_else(|| Reply::Page(404, b"{\"detail\":\"Not Found\"}".to_vec()));
        let written = match reply {
            Reply::Page(status, body) => {
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
                socket.write_all(&[head.as_bytes(), &body].concat()).await
            }
            Reply::Silence => std::future::pending().await,
            Reply::Endless => {
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                while socket.write_all(&[b'#'; 4096]).await.is_ok() {}
                return;
            }
            Reply::Huge(bytes) => {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n");
                let _ = socket.write_all(head.as_bytes()).await;
                for _ in 0..bytes / 4096 {
                    if socket.write_all(&[b'#'; 4096]).await.is_err() {
                        return;
                    }
                }
                Ok(())
            }
            Reply::Garbage => {
                let _ = socket.write_all(b"\x00\x01\x02 go away \r\n\r\n").await;
                return;
            }
        };
        if written.is_err() {
            return;
        }
    }
}
