//! The part of the wire protocol of ZMQ, ZMTP 3.0, that publishers need: a NULL handshake and framed messages.
//!
//! Written out here because publishers promise a high-water mark, which the crate `zeromq` does not let one set.

use std::io;
use std::time::Duration;

use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How long a peer may take to say who it is.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of the largest frame that a peer may send: subscriptions and numbers are small.
const MOST_FRAME: u64 = 64 << 10;

/// Frames of the longest message that a peer may send.
const MOST_FRAMES: usize = 16;

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// What a peer sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Received {
    /// The frames of a message.
    Message(Vec<Vec<u8>>),
    /// A command, with what follows its name.
    Command(Vec<u8>, Vec<u8>),
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Greets a peer and tells it the type of our socket. It has to speak ZMTP 3 without encryption.
pub(super) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    kind: &str,
) -> io::Result<()> {
    let handshake = async {
        let mut greeting = [0; 64];
        greeting[0] = 0xff;
        greeting[9] = 0x7f;
        greeting[10] = 3;
        greeting[12..16].copy_from_slice(b"NULL");
        stream.write_all(&greeting).await?;
        let mut theirs = [0; 64];
        stream.read_exact(&mut theirs).await?;
        if theirs[0] != 0xff || theirs[9] & 1 != 1 || theirs[10] < 3 || theirs[12..32] != greeting[12..32] {
            return Err(broken("no ZMTP 3 without encryption"));
        }
        let mut ready = Vec::new();
        property(&mut ready, "Socket-Type", kind);
        stream.write_all(&command(b"READY", &ready)).await?;
        match receive(stream).await? {
            Received::Command(name, _) if name == b"READY" => Ok(()),
            _ => Err(broken("no READY")),
        }
    };
    tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake)
        .await
        .unwrap_or_else(|_| Err(broken("no handshake in time")))
}

fn property(out: &mut Vec<u8>, name: &str, value: &str) {
    out.push(name.len() as u8);
    out.extend(name.as_bytes());
    out.extend((value.len() as u32).to_be_bytes());
    out.extend(value.as_bytes());
}

/// A command, ready to be sent.
pub(super) fn command(name: &[u8], body: &[u8]) -> Vec<u8> {
    let mut content = vec![name.len() as u8];
    content.extend(name);
    content.extend(body);
    let mut out = Vec::new();
    frame(&mut out, COMMAND, &content);
    out
}

/// A message, ready to be sent.
pub(super) fn message(frames: &[&[u8]]) -> Bytes {
    let mut out = Vec::with_capacity(frames.iter().map(|frame| frame.len() + 9).sum());
    for (place, content) in frames.iter().enumerate() {
        frame(&mut out, if place + 1 < frames.len() { MORE } else { 0 }, content);
    }
    out.into()
}

/// The beginning of a message that goes on: a frame without content.
pub(super) const EMPTY_FRAME: &[u8] = &[MORE, 0];

fn frame(out: &mut Vec<u8>, flags: u8, content: &[u8]) {
    if let Ok(length) = u8::try_from(content.len()) {
        out.extend([flags, length]);
    } else {
        out.push(flags | LONG);
        out.extend((content.len() as u64).to_be_bytes());
    }
    out.extend(content);
}

/// The next message or command of a peer.
pub(super) async fn receive<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Received> {
    let mut frames = Vec::new();
    loop {
        let flags = stream.read_u8().await?;
        let length =
            if flags & LONG == 0 { u64::from(stream.read_u8().await?) } else { stream.read_u64().await? };
        if length > MOST_FRAME || frames.len() == MOST_FRAMES || flags > MORE | LONG | COMMAND {
            return Err(broken("no frame that a subscriber would send"));
        }
        let mut content = vec![0; length as usize];
        stream.read_exact(&mut content).await?;
        if flags & COMMAND != 0 {
            let name = usize::from(content.first().copied().unwrap_or_default());
            if content.len() <= name {
                return Err(broken("no command"));
            }
            let body = content.split_off(name + 1);
            return Ok(Received::Command(content.split_off(1), body));
        }
        frames.push(content);
        if flags & MORE == 0 {
            return Ok(Received::Message(frames));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn what_is_sent_is_received() {
        let long = vec![7; 300];
        let sent = message(&[b"", b"topic", &long]);
        let received = run(receive(&mut &sent[..])).unwrap();
        assert_eq!(received, Received::Message(vec![vec![], b"topic".to_vec(), long]));
        let sent = command(b"PING", &[0, 1, 9]);
        let received = run(receive(&mut &sent[..])).unwrap();
        assert_eq!(received, Received::Command(b"PING".to_vec(), vec![0, 1, 9]));
    }

    #[test]
    fn what_no_subscriber_sends_is_refused() {
        let deep = [[MORE, 0]; 40].concat();
        for sent in [&[0xf0, 0][..], &[LONG, 0, 0, 1, 0, 0, 0, 0, 0], &[COMMAND, 1, 5], &[COMMAND, 0], &deep]
        {
            assert_eq!(
                run(receive(&mut &sent[..])).unwrap_err().kind(),
                io::ErrorKind::InvalidData,
                "{sent:?}"
            );
        }
        assert_eq!(run(receive(&mut &[0, 4, 1][..])).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn peers_agree_on_the_protocol() {
        run(async {
            let (mut ours, mut theirs) = tokio::io::duplex(1024);
            let other = tokio::spawn(async move { handshake(&mut theirs, "SUB").await });
            handshake(&mut ours, "PUB").await.unwrap();
            other.await.unwrap().unwrap();
            let (mut ours, mut theirs) = tokio::io::duplex(1024);
            let request = b"GET / HTTP/1.1\r\nHost: x\r\nAccept: text/html\r\nUser-Agent: Mozilla\r\n\r\n";
            theirs.write_all(request).await.unwrap();
            assert!(handshake(&mut ours, "PUB").await.is_err());
        });
    }
}
