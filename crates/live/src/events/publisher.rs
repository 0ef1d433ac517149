//! The sockets of one worker: PUB for events, and ROUTER for who wants to hear of earlier ones.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::zmtp::{EMPTY_FRAME, Received, command, handshake, message, receive};

/// Peers of a socket at a time.
const MOST_PEERS: usize = 256;

/// Topics that a peer may be subscribed to.
const MOST_TOPICS: usize = 1024;

/// How long it takes to try again what the network refused.
const RETRY: Duration = Duration::from_millis(100);

/// Where a socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// Others come to it.
    Listens(SocketAddr),
    /// It goes to another one: a host and a port.
    Connects(String, u16),
}

/// What is published, and where.
#[derive(Debug, Clone)]
pub(crate) struct Channel {
    pub(crate) endpoint: Endpoint,
    pub(crate) replay: Option<SocketAddr>,
    pub(crate) topic: String,
    /// Messages that are kept for who comes late.
    pub(crate) buffer_steps: usize,
    /// Messages that wait for one subscriber; more are lost to it.
    pub(crate) high_water_mark: usize,
}

/// Sockets that are open already.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) events: Option<std::net::TcpListener>,
    pub(crate) replay: Option<std::net::TcpListener>,
}

impl Channel {
    /// Opens what others come to.
    pub(crate) fn open(&self) -> Result<Opened, (SocketAddr, io::Error)> {
        let open = |address: SocketAddr| {
            let listener = std::net::TcpListener::bind(address);
            let listener = listener.and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
            listener.map_err(|error| (address, error))
        };
        let events = match self.endpoint {
            Endpoint::Listens(address) => Some(open(address)?),
            Endpoint::Connects(..) => None,
        };
        Ok(Opened { events, replay: self.replay.map(open).transpose()? })
    }
}

/// Publishes the events of one worker. Sockets close when it is dropped. It lives in an asynchronous runtime.
#[derive(Debug)]
pub(super) struct Publisher {
    channel: Channel,
    shared: Arc<Shared>,
    /// The number of the next message.
    next: u64,
    /// Whoever takes connections, with all that comes of them.
    _tasks: JoinSet<()>,
}

/// What a publisher shares with its connections.
#[derive(Debug, Default)]
struct Shared {
    subscribers: Mutex<Vec<Arc<Subscriber>>>,
    buffer: Mutex<VecDeque<(u64, Bytes)>>,
}

#[derive(Debug)]
struct Subscriber {
    /// Beginnings of topics that it wants.
    topics: Mutex<Vec<Vec<u8>>>,
    queue: mpsc::Sender<Bytes>,
}

/// Nobody panics with a lock, and if somebody did, what is behind it is whole all the same.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Publisher {
    /// Begins with message 0. Sockets that are not open yet are opened, as soon as they can be had.
    pub(super) fn new(channel: Channel, opened: Opened) -> Self {
        let shared = Arc::<Shared>::default();
        let mut tasks = JoinSet::new();
        let of_peer = Arc::clone(&shared);
        let limit = channel.high_water_mark;
        let subscriber = move |stream| subscriber(stream, Arc::clone(&of_peer), limit);
        match channel.endpoint.clone() {
            Endpoint::Listens(address) => _ = tasks.spawn(accept(address, opened.events, subscriber)),
            Endpoint::Connects(host, port) => _ = tasks.spawn(connect(host, port, subscriber)),
        }
        if let Some(address) = channel.replay {
            let of_peer = Arc::clone(&shared);
            tasks.spawn(accept(address, opened.replay, move |stream| replay(stream, Arc::clone(&of_peer))));
        }
        Self { channel, shared, next: 0, _tasks: tasks }
    }

    /// Publishes a message.
    pub(super) fn publish(&mut self, payload: &[u8]) {
        let topic = self.channel.topic.as_bytes();
        let bytes = message(&[topic, &self.next.to_be_bytes(), payload]);
        let mut buffer = lock(&self.shared.buffer);
        if buffer.len() == self.channel.buffer_steps {
            buffer.pop_front();
        }
        if self.channel.buffer_steps > 0 && self.channel.replay.is_some() {
            buffer.push_back((self.next, bytes.clone()));
        }
        drop(buffer);
        self.next += 1;
        for subscriber in &*lock(&self.shared.subscribers) {
            if lock(&subscriber.topics).iter().any(|start| topic.starts_with(start)) {
                // One that is too slow misses it.
                let _ = subscriber.queue.try_send(bytes.clone());
            }
        }
    }
}

/// Takes connections for ever.
async fn accept<F>(address: SocketAddr, opened: Option<std::net::TcpListener>, talk: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut opened = opened.and_then(|listener| TcpListener::from_std(listener).ok());
    let listener = loop {
        if let Some(listener) = opened {
            break listener;
        }
        // Somebody may have it for the moment.
        tokio::time::sleep(RETRY).await;
        opened = TcpListener::bind(address).await.ok();
    };
    let mut peers = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(RETRY).await;
            continue;
        };
        while peers.try_join_next().is_some() {}
        if peers.len() < MOST_PEERS {
            peers.spawn(talk(stream));
        }
    }
}

/// Goes to a subscriber, and again when it has gone away.
async fn connect<F>(host: String, port: u16, talk: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        if let Ok(stream) = TcpStream::connect((host.as_str(), port)).await {
            talk(stream).await;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// A connection of the PUB socket.
async fn subscriber(mut stream: TcpStream, shared: Arc<Shared>, limit: usize) {
    let _ = stream.set_nodelay(true);
    if handshake(&mut stream, "PUB").await.is_err() {
        return;
    }
    let (mut from, mut to) = stream.into_split();
    let (queue, mut waiting) = mpsc::channel::<Bytes>(limit);
    let subscriber = Arc::new(Subscriber { topics: Mutex::default(), queue });
    lock(&shared.subscribers).push(Arc::clone(&subscriber));
    let mut both = JoinSet::new();
    let reader = Arc::clone(&subscriber);
    both.spawn(async move {
        while let Ok(received) = receive(&mut from).await {
            if !reader.take(received) {
                break;
            }
        }
    });
    both.spawn(async move {
        while let Some(bytes) = waiting.recv().await {
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
    });
    // When one ends, the other goes with it.
    both.join_next().await;
    lock(&shared.subscribers).retain(|other| !Arc::ptr_eq(other, &subscriber));
}

impl Subscriber {
    /// Takes what it says; whether that is to go on.
    fn take(&self, received: Received) -> bool {
        let (subscribes, topic) = match received {
            Received::Message(mut frames) if frames.len() == 1 && !frames[0].is_empty() => {
                let topic = frames[0].split_off(1);
                (frames[0][0] == 1, topic)
            }
            Received::Command(name, topic) if name == b"SUBSCRIBE" => (true, topic),
            Received::Command(name, topic) if name == b"CANCEL" => (false, topic),
            // It is heard of with what is under way.
            Received::Command(name, body) if name == b"PING" => {
                return self.queue.try_send(pong(&body)).is_ok();
            }
            _ => return true,
        };
        let mut topics = lock(&self.topics);
        if subscribes {
            topics.push(topic);
        } else if let Some(place) = topics.iter().position(|known| *known == topic) {
            topics.swap_remove(place);
        }
        topics.len() <= MOST_TOPICS
    }
}

/// The answer to a heartbeat: what follows its 2 bytes of patience.
fn pong(ping: &[u8]) -> Bytes {
    command(b"PONG", ping.get(2..).unwrap_or_default()).into()
}

/// A connection of the ROUTER socket: each request names the first message that it wants.
async fn replay(mut stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    if handshake(&mut stream, "ROUTER").await.is_err() {
        return;
    }
    let end = message(&[b"", b"", &[0xff; 8], b""]);
    while let Ok(received) = receive(&mut stream).await {
        let answers: Vec<Bytes> = match received {
            Received::Command(name, body) if name == b"PING" => vec![pong(&body)],
            Received::Message(frames) if frames.len() == 2 => {
                let first = number(&frames[1]);
                let buffer = lock(&shared.buffer);
                let wanted = buffer.iter().filter(|(number, _)| *number >= first);
                let continued = |(_, bytes): &(u64, Bytes)| [Bytes::from_static(EMPTY_FRAME), bytes.clone()];
                wanted.flat_map(continued).chain([end.clone()]).collect()
            }
            // The real one does not answer either.
            _ => Vec::new(),
        };
        for bytes in answers {
            if stream.write_all(&bytes).await.is_err() {
                return;
            }
        }
    }
}

/// A big-endian number of any length.
fn number(bytes: &[u8]) -> u64 {
    let value = |number: u64, &byte: &u8| number.checked_mul(256).map(|number| number | u64::from(byte));
    bytes.iter().try_fold(0, value).unwrap_or(u64::MAX)
}
