//! The error enum of this crate's boundary: everything that stops a run before its first request. What goes wrong with
//! a single request is a failure code in its record (`codes`), never one of these.

use std::io;

/// Why load could not be generated at all.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The base URL cannot be used.
    #[error("endpoint `{url}`: {problem}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The certificates to trust cannot be read.
    #[error("read certificates from `{path}`: {problem}")]
    Certificates {
        /// File.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The source of requests gave up.
    #[error("make the next request: {problem}")]
    Source {
        /// Its words.
        problem: String,
    },
    /// The records cannot be kept.
    #[error("keep the records: {problem}")]
    Sink {
        /// Its words.
        problem: String,
    },
    /// The host name has no address.
    #[error("resolve host `{host}`: {source}")]
    Resolve {
        /// The host.
        host: String,
        /// The resolver's words.
        source: io::Error,
    },
    /// Nothing answers at the endpoint.
    #[error("connect to `{address}`: {source}; is the server running and ready?")]
    Connect {
        /// Host and port.
        address: String,
        /// The last attempt's error.
        source: io::Error,
    },
    /// The load description contradicts itself.
    #[error("invalid load: {problem}")]
    Spec {
        /// What contradicts what, with the numbers.
        problem: String,
    },
    /// Too few file descriptors.
    #[error(
        "open {needed} connections: the file descriptor limit is {limit} and {in_use} are in use; \
         raise it (`ulimit -n {suggested}`, or LimitNOFILE) or lower the concurrency"
    )]
    DescriptorLimit {
        /// Connections that the load needs.
        needed: u64,
        /// The hard limit.
        limit: u64,
        /// Descriptors open now.
        in_use: u64,
        /// A limit that would do.
        suggested: u64,
    },
    /// More connections than one source address has ports.
    #[error(
        "open {needed} connections: the source addresses have only {available} ports \
         (net.ipv4.ip_local_port_range); lower the concurrency, widen the range, or name more source addresses"
    )]
    PortLimit {
        /// Connections that the load needs.
        needed: u64,
        /// Ports in the range.
        available: u64,
    },
    /// The runs that were to start together did not.
    #[error("{problem}")]
    Start {
        /// Why.
        problem: String,
    },
    /// The kernel refused something that the load loop needs.
    #[error("{action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A load thread died.
    #[error("load thread {index} stopped unexpectedly; its records are lost")]
    Thread {
        /// Which one.
        index: u32,
    },
}

impl LoadError {
    pub(crate) fn system(action: &'static str) -> impl Fn(rustix::io::Errno) -> Self {
        move |errno| Self::System { action, source: errno.into() }
    }
}
