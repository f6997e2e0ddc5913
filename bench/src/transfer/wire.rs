//! What the coordinator and the agents say to each other, as data, and how it is framed.
//!
//! Both sides first send eight bytes: `PDXF` and a version, little-endian. After that every message
//! is its length in four bytes, little-endian, and so much JSON. The coordinator asks, the agent
//! answers each request once, in order. While a run is under way one thing more may be asked: to
//! stop it.

use std::io;
use std::net::IpAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::ceiling::Tool;
use super::ceiling::tool::Reading;
use super::plan::{Limit, Op, Register};
use super::stats::Counts;

/// Version 1 is the first. Both sides refuse every other.
pub const VERSION: u32 = 1;
const MAGIC: [u8; 4] = *b"PDXF";
/// Bytes of a message: a histogram of a long run has some hundred kilobytes.
const MAX_MESSAGE_BYTES: u32 = 32 << 20;

/// What the coordinator asks of an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Open a transport and register memory. First of all.
    Open(Open),
    /// Connect to these agents.
    Connect(Vec<Contact>),
    /// Move blocks until the limit is reached or [`Request::Stop`] comes. Answered when it is.
    Run(Run),
    /// Answer the writes of others from now on.
    Serve(Run),
    /// End what [`Request::Serve`] began.
    EndServe,
    /// End the run that is under way. Not answered itself.
    Stop,
    /// Tell the processor time used so far.
    Usage,
    /// Start the serving side of a tool.
    StartTool(ToolJob),
    /// Run the reading side of a tool against `host`, from here.
    AskTool {
        /// What to measure.
        job: ToolJob,
        /// Where it serves.
        host: IpAddr,
        /// And on which port.
        port: u16,
    },
    /// End the serving side.
    EndTool,
    /// Release everything.
    Close,
}

/// The answer to each of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Open`].
    Opened(Opened),
    /// To [`Request::Connect`], [`Request::Serve`], [`Request::EndTool`] and [`Request::Close`].
    Done,
    /// To [`Request::Run`] and [`Request::EndServe`].
    Ran(Report),
    /// To [`Request::Usage`].
    Usage(Usage),
    /// To [`Request::StartTool`]: the port on which it serves.
    Tool {
        /// The port.
        port: u16,
    },
    /// To [`Request::AskTool`].
    Told {
        /// Its figures.
        reading: Reading,
        /// How it was called.
        command: String,
    },
    /// It could not be done.
    Failed {
        /// Whether what was asked for makes no sense, or cannot be had there.
        bad_input: bool,
        /// Why.
        reason: String,
    },
}

/// How an agent is to be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Its index in the topology.
    pub index: usize,
    /// `tcp`, `ucx`, `verbs` or `auto`.
    pub transport: String,
    /// The UCX build, unless the host has been told another.
    pub ucx: Option<String>,
    /// Address for the data; without it the one over which this request came.
    pub data_host: Option<IpAddr>,
    /// Bytes that others read.
    pub source_bytes: u64,
    /// Bytes for what it reads.
    pub target_bytes: u64,
    /// Of the content.
    pub seed: u64,
    /// Reads that it may have in flight per peer.
    pub reads_per_peer: usize,
    /// Regions it may have registered at a time.
    pub regions: usize,
}

/// An agent that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// What others need to connect.
    #[serde(with = "serde_bytes_as_hex")]
    pub metadata: Vec<u8>,
    /// The transport that it is.
    pub transport: String,
    /// Version of the library behind it.
    pub library: Option<String>,
    /// Why it is this one.
    pub why: String,
    /// What it sets that its library would not, as environment variables.
    pub settings: Vec<(String, String)>,
    /// `UCX_*` variables in the environment of its process.
    pub variables: Vec<(String, String)>,
    /// Identifies its process among all of a run.
    pub process: u64,
    /// Where the data goes.
    pub data_host: IpAddr,
    /// Name of its host.
    pub host: String,
    /// RDMA device that its tools use.
    pub device: Option<String>,
}

/// Another agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// Its index in the topology.
    pub index: usize,
    /// What it gave out.
    #[serde(with = "serde_bytes_as_hex")]
    pub metadata: Vec<u8>,
}

/// Blocks to move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Who acts.
    pub op: Op,
    /// When memory is registered.
    pub register: Register,
    /// Bytes of a block.
    pub block_bytes: u64,
    /// Blocks of a transfer.
    pub blocks_per_read: usize,
    /// Transfers in flight per flow.
    pub width: usize,
    /// When to stop; nobody stops who only serves.
    pub limit: Limit,
    /// Whether every block is checked.
    pub verify: bool,
    /// How long one transfer may take, milliseconds.
    pub deadline_ms: u64,
    /// The flows of this agent.
    pub flows: Vec<Leg>,
}

/// One end of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leg {
    /// Index of the agent at the other end.
    pub peer: usize,
    /// Bytes of the source's memory to walk through.
    pub source_bytes: u64,
    /// First byte of the flow's slice of the target's memory.
    pub slice_offset: u64,
    /// Bytes of the slice to walk through.
    pub slice_bytes: u64,
}

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// By flow, in the order of the request.
    pub flows: Vec<LegReport>,
    /// Why it ended before its limit.
    pub failure: Option<String>,
}

/// What one flow did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LegReport {
    /// Index of the agent at the other end.
    pub peer: usize,
    /// Bytes that arrived.
    pub bytes: u64,
    /// Transfers that ended well.
    pub transfers: u64,
    /// From the first one to the end of the last.
    pub seconds: f64,
    /// Of each transfer, nanoseconds.
    pub latencies: Counts,
    /// Blocks checked.
    pub verified_blocks: u64,
    /// Blocks that were not what they had to be.
    pub corrupt_blocks: u64,
    /// The first of them.
    pub first_corrupt: Option<String>,
}

/// Processor time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Identifies the process: agents may share one.
    pub process: u64,
    /// User and system time used so far, microseconds.
    pub cpu_us: u64,
}

/// What a tool is to measure; both sides are told the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolJob {
    /// Which.
    pub tool: Tool,
    /// Bytes of a block.
    pub block_bytes: u64,
    /// Blocks in flight.
    pub depth: usize,
    /// How often.
    pub iterations: u64,
}

/// Sends our greeting, and takes the other side's.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] with what to do, if the other side is no such thing or of another version;
/// what the connection reports.
pub async fn greet(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    stream.write_all(&greeting(VERSION)).await?;
    let mut theirs = [0; 8];
    stream.read_exact(&mut theirs).await?;
    check(theirs).map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason))
}

fn greeting(version: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..].copy_from_slice(&version.to_le_bytes());
    bytes
}

fn check(theirs: [u8; 8]) -> Result<(), String> {
    let [m0, m1, m2, m3, version @ ..] = theirs;
    if [m0, m1, m2, m3] != MAGIC {
        return Err("it is no pdlab bench transfer --listen; check host and port".to_owned());
    }
    match u32::from_le_bytes(version) {
        VERSION => Ok(()),
        other => Err(format!(
            "it speaks version {other} of the protocol, this side speaks {VERSION}; run the same \
             pdlab on both hosts"
        )),
    }
}

/// Sends one message.
///
/// # Errors
/// What the connection reports.
pub async fn send(to: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_vec(message).map_err(io::Error::other)?;
    let len = u32::try_from(json.len()).ok().filter(|len| *len <= MAX_MESSAGE_BYTES);
    let len = len.ok_or_else(|| io::Error::other("a message too long to be sent"))?;
    let mut frame = len.to_le_bytes().to_vec();
    frame.extend(json);
    to.write_all(&frame).await?;
    to.flush().await
}

/// Receives one message; `None` at the end of the connection. Not cancel safe.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] for what is none; what the connection reports.
pub async fn receive<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<T>> {
    let mut len = [0; 4];
    match from.read_exact(&mut len).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    };
    let len = u32::from_le_bytes(len);
    if len > MAX_MESSAGE_BYTES {
        let text = format!("a message of {len} bytes, at most {MAX_MESSAGE_BYTES} are taken");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    // Grows with what arrives: a length alone must not cost memory.
    let mut json = Vec::new();
    from.take(len.into()).read_to_end(&mut json).await?;
    if json.len() < len as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let message = serde_json::from_slice(&json);
    message.map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

/// Bytes as a string of hexadecimal digits.
mod serde_bytes_as_hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let digits: Option<Vec<u8>> =
            text.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
        let digits = digits.filter(|digits| digits.len().is_multiple_of(2));
        let digits = digits.ok_or_else(|| D::Error::custom("bytes that are not hexadecimal"))?;
        Ok(digits.as_chunks::<2>().0.iter().map(|[high, low]| high << 4 | low).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn contact() -> Request {
        Request::Connect(vec![Contact { index: 3, metadata: vec![0, 0xff, 0x10] }])
    }

    #[test]
    fn messages_round_trip() {
        let mut bytes = Vec::new();
        block_on(async {
            send(&mut bytes, &contact()).await.unwrap();
            send(&mut bytes, &Request::Usage).await.unwrap();
            let mut from = bytes.as_slice();
            assert_eq!(receive::<Request>(&mut from).await.unwrap(), Some(contact()));
            assert_eq!(receive::<Request>(&mut from).await.unwrap(), Some(Request::Usage));
            assert_eq!(receive::<Request>(&mut from).await.unwrap(), None);
        });
        assert!(String::from_utf8_lossy(&bytes).contains(r#""00ff10""#));
    }

    #[test]
    fn strangers_and_other_versions_are_told_what_to_do() {
        assert_eq!(check(greeting(VERSION)), Ok(()));
        assert!(check(*b"HTTP/1.1").unwrap_err().contains("host and port"));
        let newer = check(greeting(VERSION + 1)).unwrap_err();
        assert!(newer.contains("version 2") && newer.contains("same pdlab"), "{newer}");
    }

    #[test]
    fn a_length_alone_costs_nothing_and_too_long_a_message_is_refused() {
        let length = |len: u32| {
            block_on(receive::<Request>(&mut len.to_le_bytes().as_slice())).unwrap_err().kind()
        };
        assert_eq!(length(u32::MAX), io::ErrorKind::InvalidData);
        assert_eq!(length(MAX_MESSAGE_BYTES), io::ErrorKind::UnexpectedEof);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = block_on(receive::<Request>(&mut bytes.as_slice()));
            let _ = block_on(receive::<Reply>(&mut bytes.as_slice()));
            let mut framed = (bytes.len() as u32).to_le_bytes().to_vec();
            framed.extend(&bytes);
            let _ = block_on(receive::<Request>(&mut framed.as_slice()));
        }

        /// A message with one byte changed is another message or none, and never a panic.
        #[test]
        fn damaged_messages_do_no_harm(at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let mut bytes = Vec::new();
            block_on(send(&mut bytes, &contact())).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = to;
            let _ = block_on(receive::<Request>(&mut bytes.as_slice()));
        }
    }
}
