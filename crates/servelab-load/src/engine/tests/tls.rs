//! https: the same requests, stamps and records through a real TLS server, and the failures of a handshake.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;
use crate::testserver::read_request;

/// A certificate for `localhost` and 127.0.0.1 that nobody's machine trusts, made for these tests only.
fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures")).join(name)
}

fn start() -> SocketAddr {
    let certificate = CertificateDer::from_pem_file(fixture("localhost.crt.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(fixture("localhost.key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            thread::spawn(move || serve(StreamOwned::new(connection, stream)));
        }
    });
    address
}

/// Three tokens, each in TLS records of a few bytes, until the client leaves.
fn serve(stream: StreamOwned<ServerConnection, TcpStream>) {
    let mut reader = BufReader::new(stream);
    while let Some((_, body)) = read_request(&mut reader) {
        let event = |data: &str| format!("data: {data}\n\n");
        let token = event(r#"{"id":"t","choices":[{"index":0,"text":"a","finish_reason":null}]}"#);
        let usage = format!(r#"{{"choices":[],"usage":{{"prompt_tokens":{},"completion_tokens":3}}}}"#, body.len());
        let text = token.repeat(3) + &event(&usage) + &event("[DONE]");
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: ";
        let answer = format!("{head}{}\r\n\r\n{text}", text.len());
        for part in answer.as_bytes().chunks(37) {
            if reader.get_mut().write_all(part).and_then(|()| reader.get_mut().flush()).is_err() {
                return;
            }
        }
    }
}

fn trial(address: SocketAddr, n: i64, body_bytes: usize, ca_file: Option<PathBuf>) -> Trial {
    let url = format!("https://localhost:{}", address.port());
    let target = Target { trust: TlsTrust { ca_file }, ..target(url) };
    let mut load = LoadSpec::new(target, clock::new_epoch(), Prepared::default(), closed(2), Stop::AllRequests);
    load.canary = false;
    Trial { load, warmup: Vec::new(), window: requests(0, n, body_bytes), arrivals_ns: Vec::new() }
}

#[test]
fn tls_carries_the_same_answers_on_kept_connections() {
    let outcome = run(trial(start(), 8, 300_000, Some(fixture("localhost.crt.pem"))));
    assert_eq!(codes_of(&outcome), counts(&[("ok", 8)]), "{:?}", outcome.failure_samples);
    for record in &outcome.requests {
        assert_eq!((record.output_tokens, record.t_conn0), (Some(3), None), "the handshake was over before");
        assert!(record.input_tokens.unwrap() > 300_000, "the whole body arrived");
        assert!(record.t_sched <= record.t_send.unwrap() && record.t_send < record.t_first);
        assert_eq!(outcome.events.iter().filter(|event| event.request_idx == record.request_idx).count(), 3);
    }
}

#[test]
fn an_untrusted_server_gets_no_request() {
    let outcome = run(trial(start(), 2, 0, None));
    assert_eq!(codes_of(&outcome), counts(&[(codes::TLS_FAILED, 2)]));
    assert!(outcome.requests.iter().all(|record| record.t_send.is_none()));
    assert!(outcome.failure_samples[0].detail.contains("certificate"), "{:?}", outcome.failure_samples);
}

#[test]
fn certificates_that_cannot_be_read_are_named() {
    let key = fixture("localhost.key.pem");
    let trial = trial(start(), 1, 0, Some(key));
    let error = run_load(trial.load, &mut MemoryRecords::default(), &LoadControl::new()).unwrap_err();
    assert!(error.to_string().contains("localhost.key.pem") && error.to_string().contains("no certificate"), "{error}");
}
