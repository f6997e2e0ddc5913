//! Reads the watched process without holding it up: no walk of a whole mapping, in which it could not map or unmap
//! anything. `docs/WATCH.md` has what the ways of reading cost.

use std::time::{Duration, Instant};

use pdlab_leak::rdma::{Census, Objects};
use pdlab_leak::sample::Memory;
use pdlab_leak::sampler::{Image, SampleError, Watched};
use pdlab_leak::stacks::growth::Moment;
use pdlab_leak::trace::Traced;

use super::attribution::State;
use crate::repro::cost;

/// Of its time, a watch spends at most one part in so many on readings: a process of many mappings takes longer to read.
const DUTY: u32 = 20;

/// The same for a look at all mappings, which takes far longer.
const STATE_DUTY: u32 = 100;

/// Seconds to the second look at all mappings; the next ones follow at twice the distance each, up to [`STATE_MOST`].
/// A process may end at any time, and the last look is then what its owners are told from.
const STATE_FIRST: Duration = Duration::from_secs(2);
const STATE_MOST: Duration = Duration::from_secs(60);

/// A process under watch.
#[derive(Debug)]
pub struct Eyes {
    watched: Watched,
    image: Option<Image>,
    census: Census,
    state_due: Instant,
    state_pause: Duration,
}

impl Eyes {
    /// Begins to watch `pid`.
    ///
    /// # Errors
    /// If there is no such process, or it may not be read.
    pub fn open(pid: u32, now: Instant) -> Result<Self, SampleError> {
        let watched = Watched::open(pid)?;
        let image = watched.image();
        let census = Census::open();
        Ok(Self { watched, image, census, state_due: now, state_pause: STATE_FIRST / 2 })
    }

    /// Whether RDMA objects are counted here.
    pub fn see_devices(&self) -> bool {
        self.census.counts()
    }

    /// Its memory now and its RDMA objects, where they are counted, and how long the next reading should wait at least.
    ///
    /// # Errors
    /// If it has ended, or may no longer be read.
    pub fn read(
        &mut self,
        now: Instant,
    ) -> Result<(Memory, Option<Objects>, Duration), SampleError> {
        let memory = self.watched.glance()?;
        let objects = self.census.read().of(self.watched.pid());
        Ok((memory, objects, now.elapsed() * DUTY))
    }

    /// Seconds of processor time that it has used.
    pub fn cpu_s(&self) -> Option<f64> {
        cost::cpu_s(self.watched.pid()).ok()
    }

    /// Whether it runs another program than at the last call, so that all its memory is new.
    pub fn has_executed(&mut self) -> bool {
        let Some(now) = self.watched.image() else { return false };
        let before = self.image.replace(now);
        before.is_some_and(|before| before != now)
    }

    /// What it holds, of all mappings, and how much of what `traced` has seen of them is resident.
    ///
    /// # Errors
    /// If it has ended, or may no longer be read.
    pub fn state(&mut self, now: Instant, traced: Option<Traced>) -> Result<State, SampleError> {
        let survey = self.watched.survey_gently()?;
        let moment = traced.map(|traced| {
            let resident = self.watched.resident(&survey, &Moment::spans(&traced));
            Moment { traced, resident }
        });
        let descriptors = self.watched.descriptors()?;
        let took = now.elapsed();
        self.state_pause = (self.state_pause * 2).min(STATE_MOST).max(took * STATE_DUTY);
        self.state_due = now + took + self.state_pause;
        Ok(State { survey, moment, descriptors })
    }

    /// Whether it is time for another look at all mappings.
    pub fn state_is_due(&self, now: Instant) -> bool {
        now >= self.state_due
    }
}
