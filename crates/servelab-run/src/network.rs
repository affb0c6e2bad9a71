//! What the network between two nodes does, before anybody blames an engine for it: bandwidth, latency and whether bytes
//! arrive as they were sent, over plain TCP as the floor that every fabric must beat, and over UCX where `ucx_perftest` is
//! installed. And the gate that a study puts in front of points which depend on it.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::nodes::Allocation;

/// Begins every connection; another program at the port is told from a partner by it.
const HELLO: &[u8; 8] = b"SLNET\x00\x00\x01";
const BLOCK_BYTES: usize = 1 << 20;
/// Round trips that are thrown away, and those that count.
const PINGS: (usize, usize) = (50, 1000);
const LIMIT: Duration = Duration::from_secs(60);

/// How to test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NetworkOptions {
    /// Connections that carry bytes at the same time.
    pub streams: u32,
    /// How long bytes flow, seconds.
    pub seconds: f64,
}

impl Default for NetworkOptions {
    fn default() -> Self {
        Self { streams: 4, seconds: 2.0 }
    }
}

/// What was found over one transport.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkFinding {
    /// `tcp`, or the UCX transports that were allowed.
    pub transport: String,
    /// Who measured: `servelab`, `ucx_perftest`.
    pub tool: String,
    /// 10⁹ bytes per second, one direction.
    pub gb_per_s: Option<f64>,
    /// Half of the median round trip of 8 bytes, microseconds.
    pub latency_us: Option<f64>,
    /// 99th percentile of the same.
    pub latency_p99_us: Option<f64>,
    /// Every block arrived as it was sent; `None` where the tool does not look.
    pub values_ok: Option<bool>,
    /// More about it.
    pub detail: String,
}

/// The whole test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkReport {
    /// Version of this document.
    pub schema: u32,
    /// The near end.
    pub from: String,
    /// The far end.
    pub to: String,
    /// By transport.
    pub findings: Vec<NetworkFinding>,
    /// What was looked for and is not there, or was not used.
    pub notes: Vec<String>,
}

impl NetworkReport {
    /// The fastest transport.
    pub fn best(&self) -> Option<&NetworkFinding> {
        let measured = self.findings.iter().filter(|finding| finding.gb_per_s.is_some());
        measured.max_by(|a, b| a.gb_per_s.unwrap_or(0.0).total_cmp(&b.gb_per_s.unwrap_or(0.0)))
    }
}

/// Why a test could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The other side cannot be reached, or ended.
    #[error("{action}: {source}")]
    Talk {
        /// What was tried.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The other side is another program.
    #[error("the other side is no `servelab network-test --serve` of this version")]
    Stranger,
}

fn talk(action: impl Into<String>) -> impl FnOnce(io::Error) -> NetworkError {
    let action = action.into();
    move |source| NetworkError::Talk { action, source }
}

/// A block whose bytes depend on its place in its stream, so that a block that is lost, doubled or swapped shows. xorshift64*.
fn fill(block: &mut [u8], stream: u64, number: u64) {
    let mut state = (stream << 32) ^ number ^ 0x9e37_79b9_7f4a_7c15;
    for word in block.chunks_exact_mut(8) {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        word.copy_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
}

/// One number for a block, sensitive to the order of its words.
fn digest(block: &[u8]) -> u64 {
    block.chunks_exact(8).fold(0_u64, |sum, word| {
        let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
        sum.rotate_left(5) ^ word
    })
}

/// The far end: answers tests until it is told to stop, each connection in a thread of its own.
pub fn serve(listener: &TcpListener, is_stopping: &Arc<AtomicBool>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    while !is_stopping.load(SeqCst) {
        match listener.accept() {
            Ok((stream, _)) => {
                let _ = thread::Builder::new().name("network-test".to_owned()).spawn(move || answer(stream));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// One connection at the far end: `p` sends every 8 bytes back, `b` takes blocks (each with its digest) and says in the end
/// how many were right.
fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut hello = [0; 9];
    stream.read_exact(&mut hello)?;
    let Some((kind, magic)) = hello.split_last() else { return Ok(()) };
    if magic != HELLO {
        return Ok(());
    }
    stream.write_all(HELLO)?;
    if *kind == b'p' {
        let mut word = [0; 8];
        while stream.read_exact(&mut word).is_ok() {
            stream.write_all(&word)?;
        }
        return Ok(());
    }
    let mut block = vec![0; BLOCK_BYTES];
    let (mut right, mut wrong) = (0_u64, 0_u64);
    loop {
        let mut expected = [0; 8];
        stream.read_exact(&mut expected)?;
        // No digest is zero but by the rarest accident; it ends the stream.
        if expected == [0; 8] {
            break;
        }
        stream.read_exact(&mut block)?;
        if digest(&block).to_le_bytes() == expected { right += 1 } else { wrong += 1 }
    }
    stream.write_all(&right.to_le_bytes())?;
    stream.write_all(&wrong.to_le_bytes())
}

fn connect(address: SocketAddr, kind: u8) -> Result<TcpStream, NetworkError> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10));
    let mut stream = stream.map_err(talk(format!("reach {address}")))?;
    let talked = (|| {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        stream.write_all(HELLO)?;
        stream.write_all(&[kind])?;
        let mut hello = [0; 8];
        stream.read_exact(&mut hello)?;
        Ok(hello)
    })();
    if talked.map_err(talk(format!("talk to {address}")))? == *HELLO { Ok(stream) } else { Err(NetworkError::Stranger) }
}

/// Half round trips of 8 bytes, ascending, microseconds.
fn ping(address: SocketAddr) -> Result<Vec<f64>, NetworkError> {
    let mut stream = connect(address, b'p')?;
    let mut times = Vec::with_capacity(PINGS.1);
    let mut back = [0; 8];
    for number in 0..PINGS.0 + PINGS.1 {
        let word = (number as u64).to_le_bytes();
        let started = Instant::now();
        let sent = stream.write_all(&word).and_then(|()| stream.read_exact(&mut back));
        sent.map_err(talk(format!("exchange words with {address}")))?;
        if number >= PINGS.0 {
            times.push(started.elapsed().as_secs_f64() * 1e6 / 2.0);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Sends blocks until the time is over: bytes that were acknowledged as right, bytes that were not, seconds.
fn pour(address: SocketAddr, stream_number: u64, seconds: f64) -> Result<(u64, u64, f64), NetworkError> {
    let mut stream = connect(address, b'b')?;
    // A few blocks are made beforehand: what is measured is the network, not this loop.
    let mut blocks: Vec<(u64, Vec<u8>)> = Vec::new();
    for number in 0..4 {
        let mut block = vec![0; BLOCK_BYTES];
        fill(&mut block, stream_number, number);
        blocks.push((digest(&block), block));
    }
    let failed = || talk(format!("send blocks to {address}"));
    let started = Instant::now();
    for (digest, block) in blocks.iter().cycle() {
        stream.write_all(&digest.to_le_bytes()).and_then(|()| stream.write_all(block)).map_err(failed())?;
        if started.elapsed().as_secs_f64() >= seconds {
            break;
        }
    }
    stream.write_all(&[0; 8]).map_err(failed())?;
    let (mut right, mut wrong) = ([0; 8], [0; 8]);
    stream.read_exact(&mut right).and_then(|()| stream.read_exact(&mut wrong)).map_err(failed())?;
    // Until the answer: what still lay in buffers has arrived too.
    let elapsed_s = started.elapsed().as_secs_f64();
    let bytes = |count: [u8; 8]| u64::from_le_bytes(count).saturating_mul(BLOCK_BYTES as u64);
    Ok((bytes(right), bytes(wrong), elapsed_s))
}

/// Plain TCP to a far end.
pub fn tcp(address: SocketAddr, options: &NetworkOptions) -> Result<NetworkFinding, NetworkError> {
    let times = ping(address)?;
    let streams = options.streams.clamp(1, 64);
    let poured: Vec<Result<(u64, u64, f64), NetworkError>> = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..streams).map(|number| scope.spawn(move || pour(address, u64::from(number), options.seconds))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(Err(NetworkError::Stranger))).collect()
    });
    let (mut right, mut wrong, mut longest_s) = (0, 0, 0.0_f64);
    for stream in poured {
        let (r, w, s) = stream?;
        (right, wrong, longest_s) = (right + r, wrong + w, longest_s.max(s));
    }
    let at = |share: f64| times.get(((times.len() as f64 - 1.0) * share) as usize).copied();
    let seconds = format!("{longest_s:.1} s, {streams} connections");
    Ok(NetworkFinding {
        transport: "tcp".to_owned(),
        tool: "servelab".to_owned(),
        gb_per_s: (longest_s > 0.0).then(|| right as f64 / longest_s / 1e9),
        latency_us: at(0.5),
        latency_p99_us: at(0.99),
        values_ok: Some(wrong == 0),
        detail: if wrong == 0 { seconds } else { format!("{seconds}; {wrong} bytes arrived changed") },
    })
}

/// Resolves `host:port`.
pub fn address_of(text: &str) -> Result<SocketAddr, NetworkError> {
    let mut addresses = text.to_socket_addrs().map_err(talk(format!("find `{text}`")))?;
    let none = || io::Error::new(io::ErrorKind::NotFound, "it has no address");
    addresses.next().ok_or_else(|| talk(format!("find `{text}`"))(none()))
}

/// From this node, the first of the allocation, to the second.
pub fn between(
    allocation: &Allocation,
    program: &Path,
    interface: Option<&str>,
    options: &NetworkOptions,
) -> Result<NetworkReport, NetworkError> {
    let none = || io::Error::new(io::ErrorKind::NotFound, "there is no second node");
    let mut words = allocation.prefix(1).ok_or_else(|| talk("start the far end")(none()))?;
    let far = words.clone();
    let near = allocation.nodes.first().map_or("localhost", String::as_str);
    let other = allocation.nodes.get(1).cloned().unwrap_or_default();
    words.push(program.to_string_lossy().into_owned());
    words.extend(["network-test", "--serve", "0.0.0.0:0", "--toward", near].map(str::to_owned));
    words.extend(interface.into_iter().flat_map(|interface| ["--interface".to_owned(), interface.to_owned()]));
    let (first, rest) = words.split_first().ok_or_else(|| talk("start the far end")(none()))?;
    let mut child = Command::new(first)
        .args(rest)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(talk(format!("start the far end on {other}")))?;
    let said = child.stdout.take().map(|stdout| {
        let mut line = String::new();
        let _ = BufReader::new(stdout).read_line(&mut line);
        line
    });
    let tested = match said.as_deref().and_then(|line| line.trim().rsplit(' ').next()?.parse::<SocketAddr>().ok()) {
        Some(address) => tcp(address, options).map(|finding| (address, finding)),
        None => Err(talk(format!("start the far end on {other}"))(io::Error::other("it did not say where it listens"))),
    };
    // The end of its standard input ends it.
    drop(child.stdin.take());
    let deadline = Instant::now() + Duration::from_secs(10);
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
    let (address, finding) = tested?;
    let mut report =
        NetworkReport { schema: 1, from: near.to_owned(), to: other, findings: vec![finding], notes: Vec::new() };
    match ucx(&far, &address.ip().to_string(), "ucx_perftest") {
        Some(Ok(finding)) => report.findings.push(finding),
        Some(Err(why)) => report.notes.push(why),
        None => report.notes.push("ucx_perftest is not installed: the fabric itself was not tested".to_owned()),
    }
    for tool in ["nixlbench", "all_reduce_perf"] {
        let path = std::env::var_os("PATH");
        if crate::launch::find_program(Path::new(tool), path.as_deref()).is_some() {
            report.notes.push(format!("{tool} is installed; it is not run from here"));
        }
    }
    Ok(report)
}

/// The transports that UCX may use here.
fn ucx_transports() -> String {
    match std::env::var("UCX_TLS") {
        Ok(list) if !list.trim().is_empty() => format!("ucx ({list})"),
        _ => "ucx (its own choice)".to_owned(),
    }
}

/// UCX between this node and another one on which `far` starts a program: bandwidth and latency of put operations.
/// `None` where `ucx_perftest` is not installed.
pub fn ucx(far: &[String], address: &str, program: &str) -> Option<Result<NetworkFinding, String>> {
    let is_there = Command::new(program).arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    is_there.then(|| {
        let one = |test: &str, bytes: &str, n: &str| -> Result<Vec<f64>, String> {
            let (first, rest) = far.split_first().ok_or("no way to the other node")?;
            let mut server = Command::new(first)
                .args(rest)
                .arg(program)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .map_err(|error| format!("cannot start {program} on the other node: {error}"))?;
            let deadline = Instant::now() + LIMIT;
            let numbers = loop {
                let output = Command::new(program)
                    .args([address, "-t", test, "-s", bytes, "-n", n, "-f"])
                    .output()
                    .map_err(|error| format!("cannot start {program}: {error}"))?;
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                match parse_ucx(&text) {
                    Some(numbers) if output.status.success() => break Ok(numbers),
                    _ if Instant::now() >= deadline => {
                        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                        break Err(format!("{program} -t {test} gave no numbers: {said}"));
                    }
                    // The far side may not listen yet.
                    _ => thread::sleep(Duration::from_millis(500)),
                }
            };
            let _ = server.kill();
            let _ = server.wait();
            numbers
        };
        let bandwidth = one("ucp_put_bw", "4194304", "500")?;
        let latency = one("ucp_put_lat", "8", "2000")?;
        Ok(NetworkFinding {
            transport: ucx_transports(),
            tool: "ucx_perftest".to_owned(),
            // MB of 2^20 bytes.
            gb_per_s: bandwidth.get(4).map(|mib_per_s| mib_per_s * 1.048_576e-3),
            latency_us: latency.get(1).copied(),
            latency_p99_us: None,
            values_ok: None,
            detail: "ucp_put_bw of 4 MiB, ucp_put_lat of 8 bytes, host memory".to_owned(),
        })
    })
}

/// The last line of numbers that ucx_perftest prints with `-f`: iterations, 50th percentile, average and overall latency (µs),
/// average and overall bandwidth (MB/s), message rates.
fn parse_ucx(text: &str) -> Option<Vec<f64>> {
    let mut rows = text.lines().filter_map(|line| {
        let words = line.split_whitespace().filter(|word| !matches!(*word, "Final:" | "[thread" | "0]"));
        let numbers: Option<Vec<f64>> = words.map(|word| word.parse::<f64>().ok()).collect();
        numbers.filter(|numbers| numbers.len() >= 7)
    });
    rows.next_back()
}

/// What a study demands of the network.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gate {
    /// Least bandwidth between two nodes, 10⁹ bytes per second.
    pub min_gb_per_s: Option<f64>,
    /// Largest latency, microseconds.
    pub max_latency_us: Option<f64>,
    /// Variables and the values that they must not have.
    pub forbid_env: Vec<(String, Vec<String>)>,
}

impl Gate {
    /// Something has to be measured.
    pub fn measures(&self) -> bool {
        self.min_gb_per_s.is_some() || self.max_latency_us.is_some()
    }

    /// Forbidden values among these variables; lists with commas are looked into.
    pub fn forbidden(&self, value_of: &dyn Fn(&str) -> Option<String>) -> Option<String> {
        self.forbid_env.iter().find_map(|(name, values)| {
            let set = value_of(name)?;
            let is = |value: &String| {
                set.eq_ignore_ascii_case(value) || set.split(',').any(|part| part.trim().eq_ignore_ascii_case(value))
            };
            let value = values.iter().find(|value| is(value))?;
            Some(format!("{name}={set} is set, and the study forbids `{value}` (network.forbid_env)"))
        })
    }

    /// What of a report does not do.
    pub fn failing(&self, report: &NetworkReport) -> Option<String> {
        let between = format!("between {} and {}", report.from, report.to);
        if let Some(finding) = report.findings.iter().find(|finding| finding.values_ok == Some(false)) {
            return Some(format!("bytes arrive changed over {} {between}: {}", finding.transport, finding.detail));
        }
        let Some(best) = report.best() else {
            return Some(format!("nothing could be measured {between}: {}", report.notes.join("; ")));
        };
        let hint = match best.tool.as_str() {
            "servelab" => "; only TCP could be measured: install ucx_perftest where the fabric is faster",
            _ => "",
        };
        let rate = best.gb_per_s.unwrap_or(0.0);
        if let Some(least) = self.min_gb_per_s.filter(|least| rate < *least) {
            return Some(format!(
                "{rate:.2} GB/s over {} {between}, below {least} (network.min_gb_per_s){hint}",
                best.transport
            ));
        }
        let fastest = report.findings.iter().filter_map(|finding| finding.latency_us).min_by(f64::total_cmp);
        match (self.max_latency_us, fastest) {
            (Some(most), Some(latency)) if latency > most => {
                Some(format!("{latency:.1} µs {between}, above {most} (network.max_latency_us){hint}"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn far_end() -> (SocketAddr, Arc<AtomicBool>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        thread::spawn(move || serve(&listener, &stopping));
        (address, stop)
    }

    #[test]
    fn bytes_arrive_as_they_were_sent() {
        let (address, stop) = far_end();
        let finding = tcp(address, &NetworkOptions { streams: 2, seconds: 0.05 }).unwrap();
        assert!(finding.gb_per_s.unwrap() > 0.0 && finding.values_ok == Some(true), "{finding:?}");
        assert!(finding.latency_us.unwrap() > 0.0 && finding.latency_us <= finding.latency_p99_us);
        stop.store(true, SeqCst);
    }

    #[test]
    fn bytes_that_changed_are_noticed() {
        let (address, stop) = far_end();
        let mut stream = connect(address, b'b').unwrap();
        let mut block = vec![0; BLOCK_BYTES];
        fill(&mut block, 1, 2);
        let right = digest(&block);
        for flip in [false, true] {
            block[77] ^= u8::from(flip);
            stream.write_all(&right.to_le_bytes()).unwrap();
            stream.write_all(&block).unwrap();
        }
        stream.write_all(&[0; 8]).unwrap();
        let mut counts = [0; 16];
        stream.read_exact(&mut counts).unwrap();
        assert_eq!((counts[0], counts[8]), (1, 1));
        stop.store(true, SeqCst);
    }

    #[test]
    fn strangers_are_told_apart() {
        let other = crate::fixtures::FakeServer::start(|_| crate::fixtures::Reply::text("hello"));
        let address = address_of(other.url().strip_prefix("http://").unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let echoing = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"HTTP/1.1 400 no\r\n\r\n").unwrap();
            let _ = stream.read(&mut [0; 64]);
        });
        assert!(matches!(connect(echoing, b'p'), Err(NetworkError::Stranger)));
        drop(other);
        assert!(tcp(address, &NetworkOptions::default()).is_err());
    }

    fn report(findings: &[(&str, f64, f64)]) -> NetworkReport {
        let finding = |(tool, rate, latency): &(&str, f64, f64)| NetworkFinding {
            transport: if *tool == "servelab" { "tcp".to_owned() } else { "ucx (rc)".to_owned() },
            tool: (*tool).to_owned(),
            gb_per_s: Some(*rate),
            latency_us: Some(*latency),
            latency_p99_us: None,
            values_ok: Some(true),
            detail: String::new(),
        };
        NetworkReport {
            schema: 1,
            from: "n1".to_owned(),
            to: "n2".to_owned(),
            findings: findings.iter().map(finding).collect(),
            notes: vec!["no way".to_owned()],
        }
    }

    #[test]
    fn gates() {
        let gate = Gate { min_gb_per_s: Some(8.0), max_latency_us: Some(20.0), ..Gate::default() };
        assert!(gate.measures() && !Gate::default().measures());
        assert_eq!(gate.failing(&report(&[("servelab", 2.0, 30.0), ("ucx_perftest", 11.0, 3.0)])), None);
        let slow = gate.failing(&report(&[("servelab", 2.0, 10.0)])).unwrap();
        assert!(
            slow.contains("2.00 GB/s over tcp between n1 and n2, below 8") && slow.contains("ucx_perftest"),
            "{slow}"
        );
        assert!(gate.failing(&report(&[("servelab", 9.0, 30.0)])).unwrap().contains("30.0 µs"));
        assert!(gate.failing(&report(&[])).unwrap().contains("no way"));
        let mut changed = report(&[("servelab", 9.0, 3.0)]);
        changed.findings[0].values_ok = Some(false);
        assert!(gate.failing(&changed).unwrap().contains("arrive changed"));
    }

    #[test]
    fn forbidden_values() {
        let forbid = |name: &str, values: &[&str]| {
            (name.to_owned(), values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>())
        };
        let gate = Gate {
            forbid_env: vec![forbid("UCX_TLS", &["tcp"]), forbid("NCCL_DEBUG", &["INFO", "TRACE"])],
            ..Gate::default()
        };
        let check =
            |name: &str, value: &str| gate.forbidden(&|asked| (asked == name).then(|| value.to_owned())).is_some();
        assert!(check("UCX_TLS", "tcp") && check("UCX_TLS", "sm, TCP,self") && check("NCCL_DEBUG", "info"));
        assert!(!check("UCX_TLS", "srd,tcpx") && !check("NCCL_DEBUG", "WARN") && !check("OTHER", "tcp"));
    }

    #[test]
    fn numbers_of_ucx_perftest() {
        let text = "+--------------+\n| Stage        |\n[thread 0]               500      1.234     2.0     2.1   9000.5   9100.25   1800    1820\n\
                    Final:                   500      1.100     2.5     2.6   9200.5   9300.75   1900    1920\n";
        assert_eq!(parse_ucx(text).unwrap(), [500.0, 1.1, 2.5, 2.6, 9200.5, 9300.75, 1900.0, 1920.0]);
        assert_eq!(parse_ucx("ucx_perftest: command not understood"), None);
    }

    proptest! {
        #[test]
        fn any_output_is_survived(text in "\\PC{0,200}") {
            parse_ucx(&text);
        }

        #[test]
        fn a_changed_byte_changes_the_digest(at in 0usize..512, flip in 1u8..=255, stream in 0u64..9, number in 0u64..99) {
            let mut block = vec![0; 512];
            fill(&mut block, stream, number);
            let before = digest(&block);
            block[at] ^= flip;
            prop_assert_ne!(before, digest(&block));
        }
    }
}
