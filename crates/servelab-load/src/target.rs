//! Where load goes: base URL, endpoint, credentials, and the bytes of a request's head. Resolves names; opens no
//! connection. The blocking helper for health checks is `http`.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::error::LoadError;

/// Which endpoint is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// OpenAI's `/v1/completions`.
    Completions,
    /// OpenAI's `/v1/chat/completions`.
    Chat,
    /// SGLang's own `/generate`.
    SglangGenerate,
    /// llama.cpp's own `/completion`.
    LlamaCppCompletion,
}

impl Endpoint {
    /// Every endpoint.
    pub const ALL: [Self; 4] = [Self::Completions, Self::Chat, Self::SglangGenerate, Self::LlamaCppCompletion];

    /// Path below the server's root.
    pub fn path(self) -> &'static str {
        match self {
            Self::Completions => "/v1/completions",
            Self::Chat => "/v1/chat/completions",
            Self::SglangGenerate => "/generate",
            Self::LlamaCppCompletion => "/completion",
        }
    }

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Completions => "completions",
            Self::Chat => "chat",
            Self::SglangGenerate => "sglang-generate",
            Self::LlamaCppCompletion => "llamacpp-completion",
        }
    }

    /// Reads a name written by [`Endpoint::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|endpoint| endpoint.name() == name)
    }
}

/// A bearer token. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// Takes the token as it goes over the wire. Control characters and spaces are refused: they would break the head.
    pub fn new(token: impl Into<String>) -> Result<Self, LoadError> {
        let token = token.into();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(LoadError::Spec { problem: "the API key is empty or not printable ASCII".to_owned() });
        }
        Ok(Self(token))
    }

    /// The token itself, for building a header.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(redacted)")
    }
}

/// Whose certificates an https endpoint may show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsTrust {
    /// PEM file of authorities trusted besides the public ones (Mozilla's list). `None` looks into SSL_CERT_FILE.
    pub ca_file: Option<PathBuf>,
}

/// A server and what to ask it for.
#[derive(Debug, Clone)]
pub struct Target {
    /// `http://host:port` or `https://host`, with or without a trailing `/v1`.
    pub base_url: String,
    /// Which endpoint.
    pub endpoint: Endpoint,
    /// Sent as a bearer token.
    pub api_key: Option<ApiKey>,
    /// For https.
    pub trust: TlsTrust,
}

/// A parsed target: addresses and the constant part of every request head.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    /// `host:port` for messages.
    pub(crate) authority: String,
    pub(crate) addresses: Vec<SocketAddr>,
    /// Everything up to the value of `Content-Length`.
    pub(crate) head_prefix: Vec<u8>,
    /// For https: how to talk, and the name that the certificate must be for.
    pub(crate) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

struct Parts<'a> {
    is_tls: bool,
    host: &'a str,
    port: u16,
    path: &'a str,
}

impl Target {
    pub(crate) fn route(&self) -> Result<Route, LoadError> {
        let parts = self.parts()?;
        let Parts { is_tls, host, port, path } = parts;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let addresses: Vec<SocketAddr> = (bare, port)
            .to_socket_addrs()
            .map_err(|source| LoadError::Resolve { host: host.to_owned(), source })?
            .collect();
        let authority = format!("{host}:{port}");
        let root = path.trim_end_matches('/');
        let root = root.strip_suffix("/v1").unwrap_or(root);
        let mut head = format!(
            "POST {root}{} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: servelab\r\nAccept: text/event-stream, application/json\r\nAccept-Encoding: identity\r\nContent-Type: application/json\r\n",
            self.endpoint.path()
        );
        if let Some(key) = &self.api_key {
            head += &format!("Authorization: Bearer {}\r\n", key.expose());
        }
        head += "Content-Length: ";
        let tls = if is_tls { Some((self.trust.config()?, self.server_name(bare)?)) } else { None };
        Ok(Route { authority, addresses, head_prefix: head.into_bytes(), tls })
    }

    fn server_name(&self, host: &str) -> Result<ServerName<'static>, LoadError> {
        ServerName::try_from(host.to_owned()).map_err(|_| LoadError::Url {
            url: self.base_url.clone(),
            problem: format!("`{host}` is no name that a certificate could be for"),
        })
    }

    fn parts(&self) -> Result<Parts<'_>, LoadError> {
        let url = self.base_url.trim();
        let invalid = |problem: &str| LoadError::Url { url: self.base_url.clone(), problem: problem.to_owned() };
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(invalid("the scheme is missing; write http://HOST:PORT"));
        };
        let is_tls = scheme.eq_ignore_ascii_case("https");
        if !is_tls && !scheme.eq_ignore_ascii_case("http") {
            return Err(invalid("the scheme must be http or https"));
        }
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(invalid("it contains a space or a control character"));
        }
        let slash = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(slash);
        if path.contains(['?', '#']) || authority.contains(['?', '#']) {
            return Err(invalid("a base URL has no query and no fragment"));
        }
        if authority.contains('@') {
            return Err(invalid("credentials do not belong into a URL; use an API key"));
        }
        let (host, port) = match authority.rfind(':') {
            Some(colon) if !authority.ends_with(']') => {
                let (host, port) = authority.split_at(colon);
                let number = port.trim_start_matches(':').parse().map_err(|_| invalid("the port is not a number"))?;
                (host, number)
            }
            _ => (authority, if is_tls { 443 } else { 80 }),
        };
        if host.is_empty() {
            return Err(invalid("the host is missing"));
        }
        Ok(Parts { is_tls, host, port, path })
    }
}

impl TlsTrust {
    fn config(&self) -> Result<Arc<ClientConfig>, LoadError> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let from_environment = || std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
        if let Some(path) = self.ca_file.clone().or_else(from_environment) {
            let failed = |problem: String| LoadError::Certificates { path: path.display().to_string(), problem };
            let certificates = rustls::pki_types::CertificateDer::pem_file_iter(&path);
            let before = roots.len();
            for certificate in certificates.map_err(|error| failed(error.to_string()))? {
                let certificate = certificate.map_err(|error| failed(error.to_string()))?;
                roots.add(certificate).map_err(|error| failed(error.to_string()))?;
            }
            if roots.len() == before {
                return Err(failed("it holds no certificate in PEM form".to_owned()));
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| LoadError::Spec { problem: error.to_string() })?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(base_url: &str) -> Target {
        Target {
            base_url: base_url.to_owned(),
            endpoint: Endpoint::Completions,
            api_key: None,
            trust: TlsTrust::default(),
        }
    }

    #[test]
    fn request_lines() {
        for (url, line, authority) in [
            ("http://127.0.0.1:8000", "POST /v1/completions HTTP/1.1", "127.0.0.1:8000"),
            ("http://127.0.0.1:8000/", "POST /v1/completions HTTP/1.1", "127.0.0.1:8000"),
            ("HTTP://127.0.0.1:8000/v1", "POST /v1/completions HTTP/1.1", "127.0.0.1:8000"),
            ("http://127.0.0.1/gate/v1/", "POST /gate/v1/completions HTTP/1.1", "127.0.0.1:80"),
            ("https://127.0.0.1/v1", "POST /v1/completions HTTP/1.1", "127.0.0.1:443"),
            ("http://[::1]:9", "POST /v1/completions HTTP/1.1", "[::1]:9"),
        ] {
            let route = target(url).route().unwrap();
            let head = String::from_utf8(route.head_prefix).unwrap();
            assert_eq!(head.lines().next(), Some(line), "{url}");
            assert!(head.contains(&format!("Host: {authority}\r\n")), "{url}");
            assert!(!route.addresses.is_empty());
        }
    }

    #[test]
    fn bad_urls() {
        for (url, part) in [
            ("localhost:8000", "the scheme is missing"),
            ("ftp://x", "must be http"),
            ("http://", "the host is missing"),
            ("http://x:port", "not a number"),
            ("http://x:99999", "not a number"),
            ("http://user:secret@x", "use an API key"),
            ("http://x/?q=1", "no query"),
            ("http://x\r\nEvil: 1", "control character"),
        ] {
            let message = target(url).route().unwrap_err().to_string();
            assert!(message.contains(part), "{url}: {message}");
        }
    }

    #[test]
    fn api_keys_are_sent_and_never_shown() {
        let key = ApiKey::new("sk-123").unwrap();
        let target = Target { api_key: Some(key), ..target("http://127.0.0.1:1") };
        assert!(!format!("{target:?}").contains("sk-123"));
        let head = String::from_utf8(target.route().unwrap().head_prefix).unwrap();
        assert!(head.contains("Authorization: Bearer sk-123\r\n"));
        assert!(ApiKey::new("a\r\nb").is_err() && ApiKey::new("").is_err());
    }
}
