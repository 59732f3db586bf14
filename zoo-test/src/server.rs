//! Servers on this machine, well-behaved and otherwise.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{channel, Receiver};
use std::sync::{Arc, Mutex};

/// Serves one file; `behaviour` gets the number of the request and the range asked for, and
/// returns status, body, and whether to break off halfway.
#[derive(Debug)]
pub struct Server {
    /// Its address, with the scheme.
    pub address: String,
    /// For every request, where the range that it asks for begins.
    pub requests: Arc<Mutex<Vec<Option<usize>>>>,
    /// Request lines and headers.
    pub heads: Arc<Mutex<String>>,
}

/// What a [`Server`] answers.
pub type Behaviour = Box<dyn Fn(usize, Option<usize>) -> (u16, Vec<u8>, bool) + Send>;

impl Server {
    /// Starts it on a port of its own; it serves until the test ends.
    pub fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let heads = Arc::new(Mutex::new(String::new()));
        let (seen, heard) = (requests.clone(), heads.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { break };
                let mut range = None;
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                while let Some(Ok(line)) = lines.next() {
                    *heard.lock().unwrap() += &format!("{line}\n");
                    let lower = line.to_lowercase();
                    if let Some(from) = lower.strip_prefix("range: bytes=") {
                        range = from.trim_end_matches('-').parse().ok();
                    }
                    if line.is_empty() {
                        break;
                    }
                }
                let number = seen.lock().unwrap().len();
                seen.lock().unwrap().push(range);
                let (status, body, breaks) = behaviour(number, range);
                let head =
                    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                let _ = stream.write_all(head.as_bytes());
                let _ = stream.write_all(if breaks { &body[..body.len() / 2] } else { &body });
            }
        });
        Self { address, requests, heads }
    }
}

/// Listens, answers every connection with `answer`, then says nothing more and never hangs up. The
/// channel reports each connection.
pub fn silent_server(answer: Vec<u8>) -> (SocketAddr, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, connections) = channel();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.write_all(&answer).unwrap();
            open.push(stream);
            let _ = sender.send(());
        }
    });
    (address, connections)
}
