//! `samples.csv`: one line per reading, numbers only but for the name of the process.
//!
//! Columns: `process`, `t_us` (microseconds since the measurement began), the counters of [`Work`], the readings of
//! [`Memory`], the [`Counts`] and the RDMA [`Objects`] under their own names; a count that nobody can tell is empty. Names are safe
//! by construction (no commas, quotes or line ends), so nothing is quoted. A reader finds columns by name, ignores
//! those it does not know, and does without those that older files lack (`LATER`).

use std::collections::HashMap;
use std::io::{self, BufRead, Write};

use crate::rdma::Objects;
use crate::sample::{Counts, Memory, Sample};
use crate::work::Work;

/// Columns that files of earlier versions do not have; their counters are 0 there, and RDMA objects not known.
const LATER: [&str; 7] =
    ["counted", "rdma_devices", "rdma_mrs", "rdma_mr_bytes", "rdma_qps", "rdma_cqs", "rdma_pds"];

/// A file of samples cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CsvError {
    /// Reading failed.
    #[error("cannot read samples: {0}")]
    Io(#[from] io::Error),
    /// A line does not fit.
    #[error("samples, line {line}: {message}")]
    Line {
        /// Line in the file, from 1.
        line: usize,
        /// What is wrong, and what to do if anything can be done.
        message: String,
    },
}

/// Writes samples. Wrap slow writers in a [`std::io::BufWriter`].
#[derive(Debug)]
pub struct CsvWriter<W> {
    out: W,
}

impl<W: Write> CsvWriter<W> {
    /// Writes the header.
    pub fn new(mut out: W) -> io::Result<CsvWriter<W>> {
        writeln!(out, "{}", header().join(","))?;
        Ok(CsvWriter { out })
    }

    /// Writes one line.
    pub fn write(&mut self, sample: &Sample) -> io::Result<()> {
        if !is_process_name(&sample.process) {
            let message = format!(
                "{:?} is no name for a process: use letters, digits, '-', '.' and '_'",
                sample.process
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        write!(self.out, "{},{}", sample.process, sample.t_us)?;
        for (_, value) in sample.work.fields().into_iter().chain(sample.memory.fields()) {
            write!(self.out, ",{value}")?;
        }
        let rdma = Objects::default().fields().map(|(name, _)| (name, None));
        let rdma = sample.rdma.map_or(rdma, |objects| objects.fields().map(|(n, v)| (n, Some(v))));
        for (_, value) in sample.held.fields().into_iter().chain(rdma) {
            match value {
                Some(value) => write!(self.out, ",{value}")?,
                None => write!(self.out, ",")?,
            }
        }
        writeln!(self.out)
    }

    /// Flushes what is buffered.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Reads all samples.
pub fn read(reader: impl BufRead) -> Result<Vec<Sample>, CsvError> {
    let mut lines = reader.lines();
    let header = lines.next().unwrap_or(Ok(String::new()))?;
    let columns = Columns::find(&header)?;
    lines.enumerate().map(|(i, line)| columns.sample(i + 2, &line?)).collect()
}

fn header() -> Vec<&'static str> {
    let counters = Work::default().fields().map(|(name, _)| name);
    let readings = Memory::default().fields().map(|(name, _)| name);
    let counts = Counts::default().fields().map(|(name, _)| name);
    let objects = Objects::default().fields().map(|(name, _)| name);
    let own = counters.into_iter().chain(readings).chain(counts).chain(objects);
    ["process", "t_us"].into_iter().chain(own).collect()
}

fn is_process_name(name: &str) -> bool {
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !name.is_empty() && name.chars().all(ok)
}

/// Where each column is.
struct Columns {
    count: usize,
    at: HashMap<&'static str, usize>,
}

impl Columns {
    fn find(header_line: &str) -> Result<Columns, CsvError> {
        let names: Vec<&str> = header_line.split(',').collect();
        let find = |wanted: &'static str| {
            let at = names.iter().position(|name| *name == wanted);
            at.map(|at| (wanted, at)).ok_or_else(|| {
                wrong(1, format!("there is no column \"{wanted}\"; is this a samples.csv?"))
            })
        };
        let is_there = |wanted: &&'static str| !LATER.contains(wanted) || names.contains(wanted);
        let at = header().into_iter().filter(is_there).map(find).collect::<Result<_, _>>()?;
        Ok(Columns { count: names.len(), at })
    }

    fn sample(&self, line: usize, text: &str) -> Result<Sample, CsvError> {
        let fields: Vec<&str> = text.split(',').collect();
        if fields.len() != self.count {
            let (have, need) = (fields.len(), self.count);
            let message = format!(
                "{have} fields where the header has {need}; if it is the last line, the run was cut off: delete the line"
            );
            return Err(wrong(line, message));
        }
        let number = |name: &str| {
            let field = fields[self.at[name]];
            field
                .parse::<u64>()
                .map_err(|_| wrong(line, format!("{name} is {field:?}, which is no whole number")))
        };
        let later = |name: &str| if self.at.contains_key(name) { number(name) } else { Ok(0) };
        let known = |name: &str| match fields[self.at[name]] {
            "" => Ok(None),
            _ => number(name).map(Some),
        };
        let object = |name: &'static str| match self.at.get(name).map(|&at| fields[at]) {
            None | Some("") => Ok(None),
            Some(_) => number(name).map(Some),
        };
        // All of them are told, or none.
        let objects = Objects::default().fields().map(|(name, _)| name);
        let objects = objects.into_iter().map(object).collect::<Result<Vec<_>, _>>()?;
        let mut objects = objects.into_iter();
        let process = fields[self.at["process"]];
        if !is_process_name(process) {
            return Err(wrong(line, format!("process is {process:?}, which is no name")));
        }
        Ok(Sample {
            process: process.to_string(),
            t_us: number("t_us")?,
            work: Work {
                unmaps: number("unmaps")?,
                requests: number("requests")?,
                transfers: number("transfers")?,
                tokens: number("tokens")?,
                kv_bytes: number("kv_bytes")?,
                blocks_verified: number("blocks_verified")?,
                corrupt_blocks: number("corrupt_blocks")?,
                steps: number("steps")?,
                reconnects: number("reconnects")?,
                counted: later("counted")?,
            },
            memory: Memory {
                rss_bytes: number("rss_bytes")?,
                pss_bytes: number("pss_bytes")?,
                anonymous_bytes: number("anonymous_bytes")?,
                private_bytes: number("private_bytes")?,
                lazy_free_bytes: number("lazy_free_bytes")?,
                hugetlb_bytes: number("hugetlb_bytes")?,
                swap_bytes: number("swap_bytes")?,
                vm_bytes: number("vm_bytes")?,
                rss_file_bytes: number("rss_file_bytes")?,
                rss_shmem_bytes: number("rss_shmem_bytes")?,
                pinned_bytes: number("pinned_bytes")?,
                locked_bytes: number("locked_bytes")?,
                threads: number("threads")?,
                fds: number("fds")?,
            },
            held: Counts {
                kv_blocks: number("kv_blocks")?,
                kv_blocks_pinned: number("kv_blocks_pinned")?,
                waiting_remote: number("waiting_remote")?,
                leases: number("leases")?,
                regions: number("regions")?,
                registered_bytes: number("registered_bytes")?,
                endpoints: number("endpoints")?,
                transfers_open: number("transfers_open")?,
                notifications_queued: number("notifications_queued")?,
                remote_engines: number("remote_engines")?,
                rkeys: known("rkeys")?,
                rcache_regions: known("rcache_regions")?,
                rcache_bytes: known("rcache_bytes")?,
                rcache_queue: known("rcache_queue")?,
            },
            rdma: Objects::of_fields(|_| objects.next().flatten()),
        })
    }
}

fn wrong(line: usize, message: String) -> CsvError {
    CsvError::Line { line, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(samples: &[Sample]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = CsvWriter::new(&mut bytes).unwrap();
        samples.iter().for_each(|sample| writer.write(sample).unwrap());
        bytes
    }

    fn sample() -> impl Strategy<Value = Sample> {
        let numbers = proptest::collection::vec(any::<u64>(), 35);
        let known = proptest::collection::vec(any::<Option<u64>>(), 4);
        let rdma = any::<Option<[u64; 6]>>();
        ("[a-zA-Z0-9._-]{1,12}", numbers, known, rdma).prop_map(|(process, n, known, rdma)| {
            let mut n = n.into_iter();
            let mut next = || n.next().expect("there are as many numbers as fields");
            Sample {
                process,
                t_us: next(),
                work: Work {
                    unmaps: next(),
                    requests: next(),
                    transfers: next(),
                    tokens: next(),
                    kv_bytes: next(),
                    blocks_verified: next(),
                    corrupt_blocks: next(),
                    steps: next(),
                    reconnects: next(),
                    counted: next(),
                },
                memory: Memory {
                    rss_bytes: next(),
                    pss_bytes: next(),
                    anonymous_bytes: next(),
                    private_bytes: next(),
                    lazy_free_bytes: next(),
                    hugetlb_bytes: next(),
                    swap_bytes: next(),
                    vm_bytes: next(),
                    rss_file_bytes: next(),
                    rss_shmem_bytes: next(),
                    pinned_bytes: next(),
                    locked_bytes: next(),
                    threads: next(),
                    fds: next(),
                },
                held: Counts {
                    kv_blocks: next(),
                    kv_blocks_pinned: next(),
                    waiting_remote: next(),
                    leases: next(),
                    regions: next(),
                    registered_bytes: next(),
                    endpoints: next(),
                    transfers_open: next(),
                    notifications_queued: next(),
                    remote_engines: next(),
                    rkeys: known[0],
                    rcache_regions: known[1],
                    rcache_bytes: known[2],
                    rcache_queue: known[3],
                },
                rdma: rdma.and_then(|numbers| {
                    let mut numbers = numbers.into_iter();
                    Objects::of_fields(|_| numbers.next())
                }),
            }
        })
    }

    fn error(text: &str) -> String {
        read(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_file_that_is_no_samples_csv_is_named_as_such() {
        assert!(error("").contains("line 1: there is no column \"process\""));
        assert!(error("process,t_us,unmaps\n").contains("no column \"requests\""));
    }

    #[test]
    fn a_torn_line_says_what_to_do() {
        let sample = Sample { process: "decode-0".into(), ..Sample::default() };
        let mut text = String::from_utf8(written(&[sample])).unwrap();
        text.truncate(text.len() - 8);
        let error = error(&text);
        assert!(error.contains("line 2") && error.contains("delete the line"), "{error}");
    }

    #[test]
    fn unknown_columns_are_ignored_and_order_is_free() {
        let header: Vec<&str> = header().into_iter().rev().chain(["new"]).collect();
        let values: Vec<String> = (0..header.len() - 2).map(|i| i.to_string()).collect();
        let text = format!("{}\n{},decode-0,x\n", header.join(","), values.join(","));
        let samples = read(text.as_bytes()).unwrap();
        let last = samples[0].rdma.map(|objects| objects.protection_domains);
        assert_eq!((samples[0].process.as_str(), last), ("decode-0", Some(0)));
        assert_eq!(samples[0].t_us, (header.len() - 3) as u64);
    }

    #[test]
    fn a_file_of_an_earlier_version_is_read() {
        let header: Vec<&str> = header().into_iter().filter(|name| !LATER.contains(name)).collect();
        let values = vec!["7"; header.len() - 1];
        let text = format!("{}\ndecode-0,{}\n", header.join(","), values.join(","));
        let samples = read(text.as_bytes()).unwrap();
        assert_eq!((samples[0].work.reconnects, samples[0].work.counted), (7, 0));
    }

    #[test]
    fn a_name_that_would_break_the_line_is_refused() {
        let bad = Sample { process: "a,b".into(), ..Sample::default() };
        let mut writer = CsvWriter::new(Vec::new()).unwrap();
        assert_eq!(writer.write(&bad).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(samples in proptest::collection::vec(sample(), 0..8)) {
            prop_assert_eq!(read(&written(&samples)[..]).unwrap(), samples);
        }

        #[test]
        fn any_text_is_read_or_refused(body in "[0-9a-z,\n\"-]{0,300}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(format!("{}\n{body}", header().join(",")).as_bytes());
            let _ = read(&bytes[..]);
        }
    }
}
