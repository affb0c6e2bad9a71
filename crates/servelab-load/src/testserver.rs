//! A scripted HTTP server for this crate's tests: one std thread per connection, the test decides what each request
//! gets, byte by byte. Deliberately shares no code with the client.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// What a script does with the connection afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    KeepOpen,
    Close,
    /// Close with a TCP reset.
    Reset,
}

/// One request as the script sees it.
pub(crate) struct Exchange<'a> {
    /// Count of requests over all connections, from 0.
    pub(crate) index: usize,
    pub(crate) head: String,
    pub(crate) body: String,
    stream: &'a mut TcpStream,
    counts: &'a Counts,
    address: SocketAddr,
}

impl Exchange<'_> {
    /// Writes and flushes; a client that is gone is fine.
    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// From when this returns, connects are refused.
    pub(crate) fn stop_listening(&self) {
        stop_listening(self.counts, self.address);
    }

    pub(crate) fn pause(&self, millis: u64) {
        thread::sleep(Duration::from_millis(millis));
    }

    pub(crate) fn stream_head(&mut self) {
        self.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
    }

    /// One event in a chunk of its own.
    pub(crate) fn event(&mut self, data: &str) {
        let text = format!("data: {data}\n\n");
        self.write(format!("{:x}\r\n{text}\r\n", text.len()));
    }

    pub(crate) fn token(&mut self, text: &str) {
        self.event(&format!(
            r#"{{"id":"r{}","choices":[{{"index":0,"text":"{text}","finish_reason":null}}]}}"#,
            self.index
        ));
    }

    pub(crate) fn finish(&mut self, tokens: usize) {
        self.event(r#"{"choices":[{"index":0,"text":"","finish_reason":"length"}]}"#);
        self.event(&format!(r#"{{"choices":[],"usage":{{"prompt_tokens":5,"completion_tokens":{tokens}}}}}"#));
        self.event("[DONE]");
        self.write("0\r\n\r\n");
    }

    /// A whole good answer with a pause before each token.
    pub(crate) fn answer(&mut self, tokens: usize, pause_millis: u64) -> After {
        self.stream_head();
        for _ in 0..tokens {
            self.pause(pause_millis);
            self.token("x");
        }
        self.finish(tokens);
        After::KeepOpen
    }

    pub(crate) fn plain(&mut self, status: &str, body: &str) -> After {
        self.write(format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ));
        After::KeepOpen
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Connections that carried at least one request.
    pub(crate) connections: AtomicUsize,
    pub(crate) requests: AtomicUsize,
    in_flight: AtomicUsize,
    /// Largest number of requests between their last byte and the end of their script.
    pub(crate) max_in_flight: AtomicUsize,
    is_closed: AtomicBool,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) counts: Arc<Counts>,
}

impl Server {
    pub(crate) fn start(script: impl Fn(&mut Exchange<'_>) -> After + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let counts = Arc::new(Counts::default());
        let script = Arc::new(script);
        let shared = Arc::clone(&counts);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if shared.is_closed.load(SeqCst) {
                    return;
                }
                let (script, shared) = (Arc::clone(&script), Arc::clone(&shared));
                thread::spawn(move || serve(stream, &*script, &shared, address));
            }
        });
        Self { address, counts }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        stop_listening(&self.counts, self.address);
    }
}

fn stop_listening(counts: &Counts, address: SocketAddr) {
    counts.is_closed.store(true, SeqCst);
    let _ = TcpStream::connect(address);
    // The accepting thread drops its listener; afterwards connects are refused.
    for _ in 0..1000 {
        if TcpStream::connect(address).is_err() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn serve(
    mut stream: TcpStream,
    script: &(impl Fn(&mut Exchange<'_>) -> After + ?Sized),
    counts: &Counts,
    address: SocketAddr,
) {
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut is_first = true;
    while let Some((head, body)) = read_request(&mut reader) {
        if std::mem::take(&mut is_first) {
            counts.connections.fetch_add(1, SeqCst);
        }
        let index = counts.requests.fetch_add(1, SeqCst);
        let running = counts.in_flight.fetch_add(1, SeqCst) + 1;
        counts.max_in_flight.fetch_max(running, SeqCst);
        let mut exchange = Exchange { index, head, body, stream: &mut stream, counts, address };
        let after = script(&mut exchange);
        counts.in_flight.fetch_sub(1, SeqCst);
        match after {
            After::KeepOpen => {}
            After::Close => return,
            After::Reset => {
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
                return;
            }
        }
    }
}

pub(crate) fn read_request(reader: &mut impl BufRead) -> Option<(String, String)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned));
    let length: usize = length.map_or(0, |value| value.trim().parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, String::from_utf8(body).unwrap()))
}
