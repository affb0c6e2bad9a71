//! TLS on the load loop: a rustls client connection that is fed the bytes of non-blocking reads and drained into
//! non-blocking writes. Which roots are trusted is decided in `target`; when to read and write, in `worker`.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

/// One connection's TLS state.
#[derive(Debug)]
pub(crate) struct TlsStream {
    inner: Box<ClientConnection>,
}

/// Writes straight to a socket.
struct Socket<'a>(&'a OwnedFd);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        send(self.0, bytes, SendFlags::NOSIGNAL).map_err(io::Error::from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TlsStream {
    /// A connection whose handshake has not begun.
    pub(crate) fn new(config: &Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, String> {
        let mut inner = ClientConnection::new(Arc::clone(config), name).map_err(|error| error.to_string())?;
        // A request is handed over whole; the default of 64 KiB would take a part of it.
        inner.set_buffer_limit(None);
        Ok(Self { inner: Box::new(inner) })
    }

    /// The handshake is not over.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    /// Something waits to be written.
    pub(crate) fn wants_write(&self) -> bool {
        self.inner.wants_write()
    }

    /// Takes what one read brought and appends the plain bytes to `plain`.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], plain: &mut Vec<u8>) -> Result<(), String> {
        let mut part = [0_u8; 4096];
        while !bytes.is_empty() {
            if self.inner.read_tls(&mut bytes).map_err(|error| error.to_string())? == 0 {
                break;
            }
            self.inner.process_new_packets().map_err(|error| error.to_string())?;
            loop {
                match self.inner.reader().read(&mut part) {
                    Ok(0) => break,
                    Ok(n) => plain.extend_from_slice(part.get(..n).unwrap_or_default()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.to_string()),
                }
            }
        }
        Ok(())
    }

    /// Encrypts a request; [`TlsStream::flush`] sends it.
    pub(crate) fn buffer(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        self.inner.writer().write_all(bytes).map_err(|_| Errno::IO)
    }

    /// Writes what waits. When all is written, returns the reading of `now` just before the last call.
    pub(crate) fn flush(&mut self, fd: &OwnedFd, now: impl Fn() -> i64) -> Result<Option<i64>, Errno> {
        let mut before_ns = now();
        while self.inner.wants_write() {
            before_ns = now();
            match self.inner.write_tls(&mut Socket(fd)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            }
        }
        Ok(Some(before_ns))
    }
}
