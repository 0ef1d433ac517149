//! A client of many streams that takes little of the machine from the server: one thread that reads where something came,
//! and counts events without looking into them.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

/// Longer than any token takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A stream of completions.
struct Stream {
    socket: TcpStream,
    /// Events that it is to have.
    events: usize,
    /// When they came, in microseconds.
    came: Vec<u32>,
    last_byte: u8,
}

impl Stream {
    /// Connects, and sends a request.
    fn open(address: SocketAddr, body: &str, events: usize) -> Self {
        let mut socket = std::net::TcpStream::connect(address).unwrap();
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all((head + body).as_bytes()).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket: TcpStream::from_std(socket), events, came: Vec::with_capacity(events), last_byte: 0 }
    }

    fn is_over(&self) -> bool {
        self.came.len() == self.events
    }

    /// Reads what is there. An empty line ends an event.
    fn read(&mut self, buffer: &mut [u8], start: Instant) {
        loop {
            let length = match self.socket.read(buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            };
            assert!(length > 0, "a stream ended after {} events", self.came.len());
            let now = start.elapsed().as_micros() as u32;
            for &byte in &buffer[..length] {
                if byte == b'\n' && self.last_byte == b'\n' {
                    self.came.push(now);
                }
                self.last_byte = byte;
            }
            // What comes later is told of again.
            if length < buffer.len() {
                return;
            }
        }
    }
}

/// By stream, when its tokens came, in microseconds from the start. Stream `n` begins at `starts[n]`, which go up, with
/// `bodies[n]`, and has so many tokens.
pub(crate) fn run(
    address: SocketAddr,
    starts: &[Duration],
    bodies: &[String],
    tokens: usize,
) -> Vec<Vec<u32>> {
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 64 << 10];
    let mut streams: Vec<Stream> = Vec::new();
    let mut open = 0;
    let start = Instant::now();
    while open > 0 || streams.len() < starts.len() {
        let next = streams.len();
        if starts.get(next).is_some_and(|&at| at <= start.elapsed()) {
            // The last event says that there are no more.
            let mut stream = Stream::open(address, &bodies[next], tokens + 1);
            poll.registry().register(&mut stream.socket, Token(next), Interest::READABLE).unwrap();
            streams.push(stream);
            open += 1;
        }
        let wait = starts.get(streams.len()).map(|at| at.saturating_sub(start.elapsed()));
        poll.poll(&mut events, wait.or(Some(PATIENCE))).unwrap();
        assert!(wait.is_some() || !events.is_empty(), "{open} streams get nothing");
        for event in &events {
            let stream = &mut streams[event.token().0];
            if !stream.is_over() {
                stream.read(&mut buffer, start);
                open -= usize::from(stream.is_over());
            }
        }
    }
    let came = streams.into_iter().map(|mut stream| {
        stream.came.truncate(tokens);
        stream.came
    });
    came.collect()
}
