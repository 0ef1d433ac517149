//! A client that sees every byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status_line: String,
    /// Names in small letters, in order.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// The payloads of HTTP chunks, if it came in those.
    pub(crate) chunks: Option<Vec<String>>,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.status_line.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A connection with a request on it.
pub(crate) struct Connection(pub(crate) BufReader<TcpStream>);

/// Sends bytes.
pub(crate) fn send(address: SocketAddr, bytes: &[u8]) -> Connection {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    Connection(BufReader::new(stream))
}

/// Sends JSON to a path.
pub(crate) fn post(address: SocketAddr, path: &str, body: &serde_json::Value) -> Connection {
    let body = body.to_string();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    send(address, (head + &body).as_bytes())
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    send(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).answer(false)
}

impl Connection {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end_matches(['\r', '\n']).to_owned()
    }

    /// The status line and the headers.
    pub(crate) fn head(&mut self) -> (String, Vec<(String, String)>) {
        let status_line = self.line();
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        (status_line, headers)
    }

    /// A payload of chunked encoding; empty at the end.
    pub(crate) fn chunk(&mut self) -> String {
        let length = usize::from_str_radix(&self.line(), 16).unwrap();
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).unwrap();
        self.line();
        String::from_utf8(payload).unwrap()
    }

    /// The answer; that to HEAD has no body.
    pub(crate) fn answer(mut self, is_head: bool) -> Answer {
        let (status_line, headers) = self.head();
        let header =
            |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        if header("transfer-encoding") == Some("chunked") {
            let mut chunks = Vec::new();
            loop {
                chunks.push(self.chunk());
                if chunks.last().is_some_and(String::is_empty) {
                    break;
                }
            }
            return Answer { status_line, headers, body: chunks.concat(), chunks: Some(chunks) };
        }
        let length =
            if is_head { 0 } else { header("content-length").map_or(0, |text| text.parse().unwrap()) };
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        Answer { status_line, headers, body: String::from_utf8(body).unwrap(), chunks: None }
    }
}
