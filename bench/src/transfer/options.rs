//! The command line of `pdlab bench transfer`, and the plan it means.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use pdlab_transport::BackendChoice;

use super::error::Error;
use super::plan::{COLD_BYTES, Limit, MAX_PEERS, Op, Plan, Register, WorkingSet, cells};
use super::topology::Pattern;
use crate::repro::options::parse_bytes;

/// Options of `pdlab bench transfer`.
#[derive(Debug, Clone, Args)]
#[command(after_help = AFTER)]
pub struct Options {
    /// Serve as the other side: wait for `--connect` at this address, until Ctrl-C
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Move blocks to or from hosts that listen; without it, between processes of this host
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', conflicts_with = "listen")]
    pub connect: Vec<String>,
    /// Address for the data, if it is another than that of the connection between the hosts
    #[arg(long, value_name = "ADDRESS")]
    pub data_host: Option<IpAddr>,
    /// What moves blocks: tcp, ucx, verbs or auto; several are measured in turn
    #[arg(long, value_delimiter = ',', default_value = "auto", env = "PDLAB_TRANSPORT")]
    pub transport: Vec<BackendChoice>,
    /// UCX build: a version such as 1.19.0, `system`, or a path; a host that listens may name its
    /// own
    #[arg(long, value_name = "BUILD", env = "PDLAB_UCX")]
    pub ucx: Option<String>,
    /// Sizes of a block; `4K..64M` is every fourth power of two
    #[arg(long, value_name = "BYTES", value_delimiter = ',', default_value = "64K,256K,1M")]
    pub block_size: Vec<String>,
    /// Blocks in flight per flow
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "8")]
    pub depth: Vec<usize>,
    /// Blocks that move as one transfer
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub blocks_per_read: usize,
    /// Who moves bytes to whom; incast is many-to-one
    #[arg(long, value_enum, default_value = "many-to-one")]
    pub pattern: Pattern,
    /// Peers of this side [default: one, or one for each host]
    #[arg(long, value_name = "N")]
    pub peers: Option<usize>,
    /// Who acts; a write is a read by the target that the source asks for
    #[arg(long, value_enum, value_delimiter = ',', default_value = "read")]
    pub op: Vec<Op>,
    /// Register the memory that receives once, or for each transfer
    #[arg(long, value_enum, value_delimiter = ',', default_value = "once")]
    pub register: Vec<Register>,
    /// Memory to walk through in each agent: cold (256M), hot (one transfer's at
    /// the source, what is in flight at the target), or bytes
    #[arg(long, value_name = "SET", value_delimiter = ',', default_value = "cold")]
    pub working_set: Vec<String>,
    /// Threads of each agent of this host, beside those of its transport [default: one for each flow of
    /// the agent, at most one for each processor; with --listen one]
    #[arg(long, value_name = "N", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=64))]
    pub threads: Option<usize>,
    /// How long each measurement takes
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    pub duration: Duration,
    /// Move so much per flow and measurement instead
    #[arg(long, value_name = "BYTES", conflicts_with = "duration", value_parser = parse_bytes)]
    pub bytes: Option<u64>,
    /// Move for so long before each measurement
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = humantime::parse_duration)]
    pub warmup: Duration,
    /// Measure everything so often, in turn; figures are medians
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub rounds: usize,
    /// Check every block that arrives; corrupt ones are counted, and make the exit code 1
    #[arg(long)]
    pub verify: bool,
    /// Seed of the content
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// How long one transfer may take
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    pub deadline: Duration,
    /// Do not measure what it compares with: memcpy, iperf3, `ucx_perftest`, `ib_read_bw`
    #[arg(long)]
    pub no_ceilings: bool,
    /// Directory for the result [default: runs/{UTC time}-transfer]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,
    /// No line per measurement
    #[arg(long)]
    pub quiet: bool,
    /// End when the parent process does
    #[arg(long, hide = true)]
    pub die_with_parent: bool,
}

const AFTER: &str = "Two hosts: `pdlab bench transfer --listen 10.0.0.1:7100` on one, \
    `pdlab bench transfer --connect 10.0.0.1:7100` on the other. Whoever reaches the port can have \
    memory allocated and traffic sent: listen on trusted networks only.";

impl Options {
    /// What is to be measured.
    ///
    /// # Errors
    /// [`Error::Config`] with the option and what to give instead.
    pub fn plan(&self) -> Result<Plan, Error> {
        let peers = self.peers.unwrap_or(self.connect.len().max(1));
        if peers > MAX_PEERS {
            return Err(Error::config("--peers", format!("{peers} is more than {MAX_PEERS}")));
        }
        if let Some(bad) = self.connect.iter().find(|host| !is_host_and_port(host)) {
            return Err(Error::config("--connect", format!("\"{bad}\" is no HOST:PORT")));
        }
        let transports: Vec<String> = self
            .transport
            .iter()
            .map(|choice| match choice {
                BackendChoice::Auto => "auto".to_owned(),
                BackendChoice::Only(kind) => kind.to_string(),
            })
            .collect();
        let sizes: Vec<Vec<u64>> =
            self.block_size.iter().map(|text| block_sizes(text)).collect::<Result<_, _>>()?;
        let sets: Vec<WorkingSet> =
            self.working_set.iter().map(|text| working_set(text)).collect::<Result<_, _>>()?;
        let blocks = once("--block-size", &sizes.concat())?;
        let cells = cells(
            &once("--transport", &transports)?,
            &once("--op", &self.op)?,
            &once("--register", &self.register)?,
            &once("--working-set", &sets)?,
            &blocks,
            &once("--depth", &self.depth)?,
        );
        let plan = Plan {
            cells,
            pattern: self.pattern,
            peers,
            blocks_per_read: self.blocks_per_read,
            limit: self.bytes.map_or(Limit::Millis(millis(self.duration)), Limit::Bytes),
            warmup_ms: millis(self.warmup),
            rounds: self.rounds,
            verify: self.verify,
            seed: self.seed,
            deadline_ms: millis(self.deadline).max(1),
        };
        plan.check().map_err(|(option, problem)| Error::config(option, problem))?;
        Ok(plan)
    }
}

/// Refuses what is listed twice: it would be measured as if it were two things.
fn once<T: PartialEq + Clone>(option: &'static str, values: &[T]) -> Result<Vec<T>, Error> {
    let twice = values.iter().enumerate().any(|(i, value)| values[..i].contains(value));
    if twice {
        return Err(Error::config(option, "a value is listed twice"));
    }
    if values.is_empty() {
        return Err(Error::config(option, "it is empty"));
    }
    Ok(values.to_vec())
}

/// `64K` or `4K..64M`.
fn block_sizes(text: &str) -> Result<Vec<u64>, Error> {
    let parse =
        |text: &str| parse_bytes(text).map_err(|problem| Error::config("--block-size", problem));
    let Some((first, last)) = text.split_once("..") else { return Ok(vec![parse(text)?]) };
    let (first, last) = (parse(first)?, parse(last)?);
    if first > last {
        return Err(Error::config("--block-size", format!("{text} counts down")));
    }
    let next = |size: &u64| size.checked_mul(4);
    Ok(std::iter::successors(Some(first), next).take_while(|size| *size <= last).collect())
}

fn working_set(text: &str) -> Result<WorkingSet, Error> {
    match text {
        "hot" => Ok(WorkingSet::Hot),
        "cold" => Ok(WorkingSet::Bytes(COLD_BYTES)),
        bytes => parse_bytes(bytes).map(WorkingSet::Bytes).map_err(|problem| {
            Error::config("--working-set", format!("give cold, hot or bytes: {problem}"))
        }),
    }
}

fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn plan(line: &str) -> Result<Plan, Error> {
        let words = std::iter::once("transfer").chain(line.split_whitespace());
        Cli::try_parse_from(words).unwrap().options.plan()
    }

    #[test]
    fn lists_become_a_sweep() {
        let all = plan(
            "--transport tcp --block-size 4K..64M --depth 1,64 --op read,write --working-set hot,cold",
        )
        .unwrap();
        assert_eq!(all.cells.len(), 8 * 2 * 2 * 2);
        let sizes = block_sizes("4K..64M").unwrap();
        assert_eq!((sizes.len(), sizes[0], sizes[7]), (8, 4096, 64 << 20));
        let simple = plan("--transport tcp").unwrap();
        assert_eq!((simple.cells.len(), simple.peers, simple.limit), (3, 1, Limit::Millis(1000)));
        let two = plan("--transport tcp --connect a:1,b:2 --bytes 1G").unwrap();
        assert_eq!((two.peers, two.limit), (2, Limit::Bytes(1 << 30)));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (line, words) in [
            ("--block-size 12x", "--block-size: \"12x\""),
            ("--block-size 1M..4K", "counts down"),
            ("--block-size 64K,64K", "--block-size: a value is listed twice"),
            ("--block-size 4K..64K,16K", "--block-size: a value is listed twice"),
            ("--block-size 2G", "--block-size: 2 GiB"),
            ("--depth 0", "--depth"),
            ("--depth 8 --blocks-per-read 3", "--blocks-per-read"),
            ("--working-set warm", "--working-set: give cold, hot or bytes"),
            ("--peers 0", "--peers"),
            ("--peers 1000", "--peers"),
            ("--connect nowhere", "--connect: \"nowhere\""),
            ("--connect host:99999", "--connect"),
            ("--duration 0s", "--duration"),
        ] {
            let error = plan(&format!("--transport tcp {line}")).unwrap_err();
            assert!(error.is_bad_input() && error.to_string().contains(words), "{line}: {error}");
        }
    }
}
