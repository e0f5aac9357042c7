//! One byte at a time, with or without a socket beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Sends a byte and a descriptor that belong together.
pub(super) async fn send(stream: &UnixStream, byte: u8, socket: BorrowedFd<'_>) -> io::Result<()> {
    stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let sockets = [socket];
            if !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
                return Err(io::Error::other("no room for a descriptor"));
            }
            sendmsg(stream.as_fd(), &[IoSlice::new(&[byte])], &mut control, SendFlags::NOSIGNAL)?;
            Ok(())
        })
        .await
}

/// Sends bytes that carry nothing.
pub(super) async fn say(stream: &UnixStream, bytes: &[u8]) -> io::Result<()> {
    let mut sent = 0;
    while sent < bytes.len() {
        stream.writable().await?;
        match stream.try_write(bytes.get(sent..).unwrap_or_default()) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The next byte, and the descriptor that came with it. `None`: the other has hung up.
pub(super) async fn hear(stream: &UnixStream) -> io::Result<Option<(u8, Option<OwnedFd>)>> {
    stream
        .async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut byte = [0];
            let mut into = [IoSliceMut::new(&mut byte)];
            let heard = recvmsg(stream.as_fd(), &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            if heard.bytes == 0 {
                return Ok(None);
            }
            let socket = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
                RecvAncillaryMessage::ScmCredentials(_) | _ => None,
            });
            let [byte] = byte;
            Ok(Some((byte, socket)))
        })
        .await
}

/// The next bytes, which carry nothing.
pub(super) async fn hear_exactly<const N: usize>(stream: &UnixStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    for place in &mut bytes {
        let (byte, _) = hear(stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        *place = byte;
    }
    Ok(bytes)
}
