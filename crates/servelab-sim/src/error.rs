//! What can go wrong before or while the simulated server runs. Refusals of a configuration carry vLLM's own wording, so
//! that whoever diagnoses a real server's log diagnoses the simulated one with the same rules.

use std::net::SocketAddr;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// Flags that the declared vLLM version does not know.
    #[error("vllm: error: unrecognized arguments: {0}")]
    UnrecognisedArguments(String),
    /// A known flag with a value that vLLM's own parser refuses.
    #[error("vllm serve: error: argument --{flag}: {reason}")]
    BadFlagValue {
        /// The flag, without dashes.
        flag: String,
        /// The parser's words.
        reason: String,
    },
    /// A GPU that is neither in the built-in table nor a pseudo-device.
    #[error("find the GPU `{name}` in the built-in table; it knows {known}")]
    UnknownGpu {
        /// What was asked for.
        name: String,
        /// Comma-separated known names.
        known: String,
    },
    /// A `--fail` specification that cannot be read.
    #[error("read the failure injection `{spec}`: {reason}; write one of {known}", known = crate::fail::KNOWN_SPECS)]
    BadFailSpec {
        /// The text given.
        spec: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A configuration that vLLM refuses at start, in vLLM's words.
    #[error("{0}")]
    Refused(String),
    /// A plain setting (not a vLLM flag) outside its range.
    #[error("use {name} = {value}: it must be {rule}")]
    BadSetting {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        rule: &'static str,
    },
    /// A data file compiled into this crate does not parse: a bug here, not in any input.
    #[error("parse the built-in table {table}: {reason}")]
    BuiltinTable {
        /// Which table.
        table: &'static str,
        /// The parser's words.
        reason: String,
    },
    /// A model folder whose config does not describe a language model.
    #[error("use the model config `{path}`: {reason}")]
    BadModelConfig {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A data file of the user's (hardware, step-time parameters) that cannot be used.
    #[error("read the {what}: {reason}")]
    BadDataFile {
        /// What the file is for.
        what: &'static str,
        /// The parser's words.
        reason: String,
    },
    /// The injected out-of-memory failure at start.
    #[error("{0}")]
    InjectedOutOfMemory(String),
    /// The injected crash; the process is expected to exit 1 at once.
    #[error("survive the injected crash at request {request}")]
    InjectedCrash {
        /// The request number (from 1) that triggered it.
        request: u64,
    },
    /// The injected death of the engine; the server told its clients and is expected to exit 1.
    #[error("survive the injected death of the engine")]
    InjectedEngineDeath,
    /// The address cannot be listened on.
    #[error("listen on {addr}: {source}; choose another port with --listen")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The operating system refused a thread, a runtime or a socket.
    #[error("start the simulated server: {0}")]
    Start(std::io::Error),
}
