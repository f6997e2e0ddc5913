//! Reads the roles of a cluster: memory from `/proc`, paired with counters over HTTP.

use std::collections::BTreeMap;
use std::time::Instant;

use pdlab_api::snapshot::AddressRange;
use pdlab_leak::descriptors::Descriptors;
use pdlab_leak::layout::{Range, Told};
use pdlab_leak::rdma::{Objects, Tracker};
use pdlab_leak::sample::Sample;
use pdlab_leak::sampler::{SampleError, Survey, Watched};
use pdlab_leak::scenario::Role;

use super::ReproError;
use super::cost::{self, CpuReading};
use super::pairing::{Counted, interpolate};
use crate::cluster::Cluster;

/// The roles of a cluster under watch.
#[derive(Debug)]
pub struct Watch {
    /// In the order of [`Cluster::roles`].
    watched: Vec<Watched>,
    /// Index of the judged process.
    judged: usize,
    /// Where the KV pool of the judged process lies.
    kv_pool: Option<Range>,
    /// What the roles hold of RDMA devices, where there are any.
    rdma: Option<Tracker>,
    /// The zero of all times.
    began: Instant,
}

impl Watch {
    /// Begins to watch `cluster`, whose first process of `role` is the judged one.
    ///
    /// # Errors
    /// [`ReproError::Sample`] if a process may not be read, [`ReproError::Cluster`] if it does not
    /// answer.
    pub async fn open(cluster: &mut Cluster, role: Role) -> Result<Self, ReproError> {
        let mut watched = Vec::new();
        for process in cluster.roles() {
            let open = Watched::open(process.pid());
            watched.push(open.map_err(|source| failed(process.label(), source))?);
        }
        let judged = cluster
            .roles()
            .iter()
            .position(|process| process.ready().role.as_str() == role.name())
            .expect("a cluster has at least one of each role");
        // The pool is mapped once, at start, and stays where it is.
        let kv_pool = cluster.snapshot(judged).await?.kv_pool;
        let kv_pool = kv_pool.map(|pool| Range { base: pool.base, len_bytes: pool.len_bytes });
        Ok(Self { watched, judged, kv_pool, rdma: Tracker::open(), began: Instant::now() })
    }

    /// Watches the process that is now at `index` of [`Cluster::roles`]: the one before has died.
    ///
    /// # Errors
    /// [`ReproError::Sample`] if it may not be read.
    pub fn replace(&mut self, cluster: &Cluster, index: usize) -> Result<(), ReproError> {
        let process = &cluster.roles()[index];
        let open = Watched::open(process.pid());
        self.watched[index] = open.map_err(|source| failed(process.label(), source))?;
        Ok(())
    }

    /// Index of the judged process.
    pub fn judged(&self) -> usize {
        self.judged
    }

    /// Seconds since the watch began.
    pub fn elapsed_s(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// One sample of every role, in the order of [`Cluster::roles`].
    ///
    /// # Errors
    /// If a role has died, does not answer, or cannot be read.
    pub async fn read(&mut self, cluster: &mut Cluster) -> Result<Vec<Sample>, ReproError> {
        let objects = self.objects()?;
        let mut samples = Vec::with_capacity(self.watched.len());
        for index in 0..self.watched.len() {
            let mut sample = self.read_one(cluster, index).await?;
            let pid = cluster.roles()[index].pid();
            sample.rdma = objects.as_ref().map(|of| of.get(&pid).copied().unwrap_or_default());
            samples.push(sample);
        }
        Ok(samples)
    }

    /// Processor time of the judged process, at `units` of work.
    ///
    /// # Errors
    /// [`ReproError::Cpu`] if it cannot be read.
    pub fn cpu(&self, cluster: &Cluster, units: f64) -> Result<CpuReading, ReproError> {
        let process = &cluster.roles()[self.judged];
        let cpu_s = cost::cpu_s(process.pid()).map_err(|source| ReproError::Cpu {
            process: process.label().to_owned(),
            reason: source.to_string(),
        })?;
        Ok(CpuReading { units, cpu_s })
    }

    /// What the memory of the judged process is made of, and what it has open.
    ///
    /// # Errors
    /// [`ReproError::Sample`] if it cannot be read.
    pub async fn state(&self, cluster: &Cluster) -> Result<(Survey, Descriptors), ReproError> {
        let judged = self.judged_process();
        let failed = |source| failed(cluster.roles()[self.judged].label(), source);
        let range = |range: AddressRange| Range { base: range.base, len_bytes: range.len_bytes };
        let regions = cluster.regions(self.judged).await.into_iter().map(range).collect();
        let told = Told { kv_pool: self.kv_pool, regions };
        Ok((judged.survey(&told).map_err(failed)?, judged.descriptors().map_err(failed)?))
    }

    /// The judged process.
    pub fn judged_process(&self) -> &Watched {
        &self.watched[self.judged]
    }

    /// The RDMA objects of every process; `None` where there is no RDMA device.
    fn objects(&mut self) -> Result<Option<BTreeMap<u32, Objects>>, ReproError> {
        let Some(tracker) = &mut self.rdma else { return Ok(None) };
        tracker.read().map(Some).map_err(ReproError::Rdma)
    }

    async fn read_one(&self, cluster: &mut Cluster, index: usize) -> Result<Sample, ReproError> {
        let before = self.counted(cluster, index).await?;
        let begun_us = self.now_us();
        let memory = match self.watched[index].read() {
            Ok(memory) => memory,
            Err(source) => {
                // That it died, and with which words, says more than that it is gone.
                cluster.check_alive()?;
                return Err(failed(cluster.roles()[index].label(), source));
            }
        };
        let t_us = begun_us.midpoint(self.now_us());
        let after = self.counted(cluster, index).await?;
        let process = cluster.roles()[index].label().to_owned();
        let Counted { work, held, .. } = interpolate(before, after, t_us);
        Ok(Sample { process, t_us, work, memory, held, rdma: None })
    }

    async fn counted(&self, cluster: &mut Cluster, index: usize) -> Result<Counted, ReproError> {
        let asked_us = self.now_us();
        let snapshot = cluster.snapshot(index).await?;
        Ok(Counted::in_exchange(asked_us, self.now_us(), &snapshot))
    }

    fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }
}

fn failed(process: &str, source: SampleError) -> ReproError {
    ReproError::Sample { process: process.to_owned(), source }
}
