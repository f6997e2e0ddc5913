//! The tools of the field: command lines and output. Pure.
//!
//! | tool | tells | manual |
//! |---|---|---|
//! | `iperf3` | bandwidth of one TCP stream | <https://software.es.net/iperf/invoking.html> |
//! | `ucx_perftest` | bandwidth, or latency at depth 1, of `ucp_get` | <https://github.com/openucx/ucx/blob/master/docs/source/running.md> |
//! | `ib_read_bw`, `ib_read_lat` | bandwidth and latency of RDMA reads | <https://github.com/linux-rdma/perftest> |

use serde::{Deserialize, Serialize};

/// A tool that measures what an agent does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tool {
    /// One TCP stream.
    Iperf3,
    /// Gets over the same UCX.
    UcxPerftest,
    /// RDMA reads, many at a time.
    IbReadBw,
    /// RDMA reads, one at a time.
    IbReadLat,
}

/// What a tool has found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Bytes per second, if it tells.
    pub bytes_per_s: Option<f64>,
    /// Median time of one read, microseconds, if it tells.
    pub latency_us: Option<f64>,
}

/// What to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Bytes of a block.
    pub block_bytes: u64,
    /// Blocks in flight.
    pub depth: usize,
    /// How often, for tools that count.
    pub iterations: u64,
    /// How long, for those that look at the clock, seconds.
    pub seconds: u64,
    /// Port of the serving side.
    pub port: u16,
    /// RDMA device, such as `mlx5_0`, on this side.
    pub device: Option<String>,
    /// Index of the GID of that device.
    pub gid_index: Option<String>,
}

impl Tool {
    /// The name of its program.
    pub fn program(self) -> &'static str {
        match self {
            Self::Iperf3 => "iperf3",
            Self::UcxPerftest => "ucx_perftest",
            Self::IbReadBw => "ib_read_bw",
            Self::IbReadLat => "ib_read_lat",
        }
    }

    /// The tools that do what `transport` does at this depth, if they are installed.
    pub fn of(transport: &str, depth: usize, has_device: bool) -> Vec<Self> {
        let rdma = if depth == 1 { Self::IbReadLat } else { Self::IbReadBw };
        match transport {
            "tcp" if depth > 1 => vec![Self::Iperf3],
            "ucx" if has_device => vec![Self::UcxPerftest, rdma],
            "ucx" => vec![Self::UcxPerftest],
            "verbs" => vec![rdma],
            _ => Vec::new(),
        }
    }

    /// Arguments of the serving side.
    pub fn serve(self, job: &Job) -> Vec<String> {
        let port = job.port.to_string();
        match self {
            Self::Iperf3 => words(&["-s", "-1", "-p", &port]),
            Self::UcxPerftest => words(&["-p", &port]),
            Self::IbReadBw | Self::IbReadLat => self.ib(job),
        }
    }

    /// Arguments of the side that reads from `host`.
    pub fn ask(self, job: &Job, host: &str) -> Vec<String> {
        let Job { block_bytes, depth, iterations, seconds, port, .. } = job;
        let (port, size) = (port.to_string(), block_bytes.to_string());
        let text = |number: u64| number.to_string();
        match self {
            // -R: the server sends, as the side does that is read from.
            Self::Iperf3 => words(&[
                "-c",
                host,
                "-p",
                &port,
                "-R",
                "-J",
                "-t",
                &text(*seconds),
                "-l",
                &text((*block_bytes).min(1 << 20)),
            ]),
            // -f: only the last line; -v: as numbers. It spins on both sides: with its mode that
            // sleeps (-E sleep) the side that is read from does not answer gets over TCP.
            Self::UcxPerftest => words(&[
                host,
                "-p",
                &port,
                "-t",
                "ucp_get",
                "-s",
                &size,
                "-O",
                &depth.to_string(),
                "-n",
                &text(*iterations),
                "-w",
                &text((*iterations / 10).max(1)),
                "-f",
                "-v",
            ]),
            Self::IbReadBw | Self::IbReadLat => {
                let mut args = self.ib(job);
                args.push(host.to_owned());
                args
            }
        }
    }

    /// perftest wants the same arguments on both sides.
    fn ib(self, job: &Job) -> Vec<String> {
        let (port, size) = (job.port.to_string(), job.block_bytes.to_string());
        let iterations = job.iterations.max(5).to_string();
        let mut args = words(&["-F", "-p", &port, "-s", &size, "-n", &iterations]);
        if self == Self::IbReadBw {
            // A queue deeper than the run is long is refused.
            let depth = (job.depth as u64).clamp(1, job.iterations.max(5));
            args.extend(words(&["-t", &depth.to_string()]));
        }
        let option = |name: &str, value: &Option<String>| match value {
            Some(value) => words(&[name, value]),
            None => Vec::new(),
        };
        args.extend(option("-d", &job.device));
        args.extend(option("-x", &job.gid_index));
        args
    }

    /// What the output of the reading side says; `None` if it says nothing that is known.
    pub fn read(self, output: &str, depth: usize) -> Option<Reading> {
        // Both report mebibytes per second as MB.
        const MIB: f64 = 1_048_576.0;
        let bandwidth = |bytes_per_s| Reading { bytes_per_s: Some(bytes_per_s), latency_us: None };
        match self {
            Self::Iperf3 => {
                let json: serde_json::Value = serde_json::from_str(output).ok()?;
                let bits = json["end"]["sum_received"]["bits_per_second"].as_f64()?;
                Some(bandwidth(bits / 8.0)).filter(is_some_rate)
            }
            Self::UcxPerftest => {
                // iterations, then microseconds: percentile, average, overall; then bandwidth:
                // average, overall; then message rate.
                let numbers = output.lines().rev().find_map(|line| {
                    let numbers = numbers(line.trim_start_matches("Final:"), ',');
                    (numbers.len() >= 8).then_some(numbers)
                })?;
                let latency_us = (depth == 1).then_some(numbers[1]);
                Some(Reading { bytes_per_s: Some(numbers[5] * MIB), latency_us })
                    .filter(is_some_rate)
            }
            Self::IbReadBw => {
                // bytes, iterations, peak, average, message rate.
                let numbers = last_numbers(output, 5)?;
                Some(bandwidth(numbers[3] * MIB)).filter(is_some_rate)
            }
            Self::IbReadLat => {
                // bytes, iterations, then microseconds: least, most, typical, average, …
                let numbers = last_numbers(output, 6)?;
                Some(Reading { bytes_per_s: None, latency_us: Some(numbers[4]) })
                    .filter(|reading| reading.latency_us.is_some_and(|us| us > 0.0))
            }
        }
    }
}

fn is_some_rate(reading: &Reading) -> bool {
    reading.bytes_per_s.is_some_and(|rate| rate.is_finite() && rate > 0.0)
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The numbers of a line that has nothing else.
fn numbers(line: &str, separator: char) -> Vec<f64> {
    let fields = line.split(|c: char| c == separator || c.is_whitespace());
    let parsed: Option<Vec<f64>> =
        fields.filter(|field| !field.is_empty()).map(|field| field.parse().ok()).collect();
    parsed.unwrap_or_default()
}

fn last_numbers(output: &str, least: usize) -> Option<Vec<f64>> {
    output.lines().rev().map(|line| numbers(line, ',')).find(|numbers| numbers.len() >= least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TOOLS: [Tool; 4] = [Tool::Iperf3, Tool::UcxPerftest, Tool::IbReadBw, Tool::IbReadLat];

    fn job() -> Job {
        Job {
            block_bytes: 65_536,
            depth: 64,
            iterations: 1000,
            seconds: 1,
            port: 7000,
            device: Some("mlx5_0".to_owned()),
            gid_index: Some("3".to_owned()),
        }
    }

    #[test]
    fn output_is_read_as_the_tools_write_it() {
        let rate = |tool: Tool, text: &str| tool.read(text, 8).and_then(|r| r.bytes_per_s);
        let json = r#"{"start":{},"end":{"sum_received":{"bits_per_second":16e9}}}"#;
        assert_eq!(rate(Tool::Iperf3, json), Some(2e9));
        assert_eq!(rate(Tool::Iperf3, r#"{"error":"unable to connect"}"#), None);

        let ucx = "100000,15.221,13.002,13.250,4807.1,4717.0,76913,75471\n";
        assert_eq!(rate(Tool::UcxPerftest, ucx), Some(4717.0 * 1_048_576.0));
        assert_eq!(Tool::UcxPerftest.read(ucx, 1).unwrap().latency_us, Some(15.221));
        let table =
            "Final:    100000     15.221    13.002    13.250  4807.10  4717.00  76913   75471\n";
        assert_eq!(rate(Tool::UcxPerftest, table), rate(Tool::UcxPerftest, ucx));

        let bw = " #bytes     #iterations    BW peak[MB/sec]    BW average[MB/sec]   MsgRate[Mpps]\n \
                  65536      1000             48.11              47.50              0.000760\n\
                  ---------\n";
        assert_eq!(rate(Tool::IbReadBw, bw), Some(47.5 * 1_048_576.0));
        let lat = " #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]    \
                   t_stdev[usec]   99% percentile[usec]   99.9% percentile[usec]\n \
                   2       1000          88.20          541.30       101.5  \t 108.31       \t 22.7\t201.1\t541.3\n";
        assert_eq!(Tool::IbReadLat.read(lat, 1).unwrap().latency_us, Some(101.5));
    }

    #[test]
    fn both_sides_of_perftest_get_the_same_arguments() {
        let (serve, ask) = (Tool::IbReadBw.serve(&job()), Tool::IbReadBw.ask(&job(), "10.0.0.1"));
        assert_eq!(serve[..], ask[..ask.len() - 1]);
        assert!(serve.join(" ").contains("-s 65536 -n 1000 -t 64 -d mlx5_0 -x 3"), "{serve:?}");
    }

    #[test]
    fn tools_are_those_of_the_transport() {
        assert_eq!(Tool::of("tcp", 8, false), [Tool::Iperf3]);
        assert_eq!(Tool::of("tcp", 1, false), [], "iperf3 tells no latency");
        assert_eq!(Tool::of("ucx", 1, false), [Tool::UcxPerftest]);
        assert_eq!(Tool::of("verbs", 1, true), [Tool::IbReadLat]);
        assert_eq!(Tool::of("verbs", 8, true), [Tool::IbReadBw]);
    }

    proptest! {
        #[test]
        fn arbitrary_output_does_no_harm(text in "[0-9., \\n{}\":a-f-]{0,200}", depth in 1..3_usize) {
            for tool in TOOLS {
                if let Some(reading) = tool.read(&text, depth) {
                    prop_assert!(reading.bytes_per_s.is_some() || reading.latency_us.is_some());
                }
            }
        }
    }
}
