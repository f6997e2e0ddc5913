//! Whether allocations are traced, and the tracer of one cell.

use std::sync::Arc;

use pdlab_leak::layout::Layout;
use pdlab_leak::result::TraceNote;
use pdlab_leak::sampler::{Survey, Watched};
use pdlab_leak::stacks::Stacks;
use pdlab_leak::stacks::growth::Moment;
use pdlab_leak::trace::tier::{Assessment, Tier};
use pdlab_leak::trace::{TraceOptions, Traced, Tracer};

use super::ReproError;
use super::options::Trace;

/// How a run is traced. The cures that it proves are traced in the same way, so that what they cost is compared with
/// what the run without them has paid, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracing {
    /// The way; `None`: not at all.
    tier: Option<Tier>,
    /// Whether a run that cannot be traced is none.
    required: bool,
    /// Why no stacks are taken, a sentence.
    why_not: String,
}

impl Tracing {
    /// No stacks, because of `why`.
    pub fn off(why: &str) -> Self {
        Self { tier: None, required: false, why_not: why.to_owned() }
    }

    /// What `mode` means on a machine with these tiers. `auto` takes kernel tracepoints or nothing: to trace by stopping
    /// the process twice per call would change what is measured.
    ///
    /// # Errors
    /// [`ReproError::Unavailable`] if tracing is asked for and no tier with stacks applies; it names what is in the way.
    pub fn choose(mode: Trace, assessments: &[Assessment]) -> Result<Self, ReproError> {
        let usable = |tier: Tier| assessments.iter().any(|a| a.tier == tier && a.usable());
        let obstacles = |tier: Tier| {
            let of = assessments.iter().filter(|assessment| assessment.tier == tier);
            let all: Vec<String> =
                of.flat_map(|assessment| &assessment.obstacles).map(ToString::to_string).collect();
            format!("{tier}: {}", all.join("; "))
        };
        let with =
            |tier| Self { tier: Some(tier), required: mode == Trace::On, why_not: String::new() };
        match mode {
            Trace::Off => Ok(Self::off("--trace off")),
            Trace::On | Trace::Auto if usable(Tier::Perf) => Ok(with(Tier::Perf)),
            Trace::On if usable(Tier::Strace) => Ok(with(Tier::Strace)),
            Trace::On => Err(ReproError::Unavailable(format!(
                "allocations cannot be traced here.\n    {}\n    {}\nrun with --trace auto, which \
                 then reads /proc alone",
                obstacles(Tier::Perf),
                obstacles(Tier::Strace),
            ))),
            Trace::Auto => Ok(Self::off(&obstacles(Tier::Perf))),
        }
    }

    /// Begins to trace `pid`.
    ///
    /// # Errors
    /// [`ReproError::Unavailable`] if tracing was asked for and cannot begin.
    pub fn begin(&self, pid: u32) -> Result<Eyes, ReproError> {
        let Some(tier) = self.tier else { return Ok(Eyes::closed(self.why_not.clone())) };
        let options = TraceOptions { tier: Some(tier), ..TraceOptions::default() };
        match Tracer::start(pid, &options) {
            Ok(tracer) => {
                Ok(Eyes { tracer: Some(Arc::new(tracer)), start: None, why_not: String::new() })
            }
            Err(error) if self.required => Err(ReproError::Unavailable(error.to_string())),
            Err(error) => Ok(Eyes::closed(error.to_string())),
        }
    }
}

/// The tracer of one process, if there is one.
#[derive(Debug)]
pub struct Eyes {
    tracer: Option<Arc<Tracer>>,
    start: Option<Moment>,
    why_not: String,
}

impl Eyes {
    fn closed(why_not: String) -> Self {
        Self { tracer: None, start: None, why_not }
    }

    /// Takes what is mapped at the start, of which `survey` has just been made, for what was there before.
    pub async fn open(&mut self, watched: &Watched, survey: &Survey) {
        let Some(tracer) = self.tracer.clone() else { return };
        if let Some(traced) = apart(move || tracer.live()).await {
            self.start = Some(moment(watched, survey, traced));
        }
    }

    /// Ends the trace: growth by stack since the start up to `survey`, which has just been made, and how it was found.
    pub async fn close(self, watched: &Watched, survey: &Survey) -> (Option<Stacks>, TraceNote) {
        let (Some(tracer), Some(start)) = (self.tracer, self.start) else {
            return (None, TraceNote::off(self.why_not));
        };
        let stop = move || match Arc::try_unwrap(tracer) {
            Ok(tracer) => tracer.stop(),
            // Nobody else holds it: `open` has returned.
            Err(tracer) => tracer.live(),
        };
        match apart(stop).await {
            Some(traced) => {
                let stacks = Stacks::between(&start, &moment(watched, survey, traced));
                let note = TraceNote::of(&stacks);
                (Some(stacks), note)
            }
            None => (None, TraceNote::off("the tracer came to no end".to_owned())),
        }
    }
}

/// Runs what blocks on a thread of its own; `None` if it panicked.
async fn apart(work: impl FnOnce() -> Traced + Send + 'static) -> Option<Traced> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn moment(watched: &Watched, survey: &Survey, traced: Traced) -> Moment {
    let resident = watched.resident(survey, &Moment::spans(&traced));
    Moment { traced, resident }
}

/// The layouts of two surveys.
pub(super) fn layouts(surveys: (Survey, Survey)) -> (Layout, Layout) {
    (surveys.0.layout, surveys.1.layout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repro::Exit;
    use pdlab_leak::trace::tier::Obstacle;

    fn assessments(perf: bool, strace: bool) -> Vec<Assessment> {
        let obstacles = |usable: bool, what: &str| {
            let obstacle = Obstacle { what: what.to_owned(), remedy: "mend it".to_owned() };
            if usable { Vec::new() } else { vec![obstacle] }
        };
        vec![
            Assessment { tier: Tier::Perf, obstacles: obstacles(perf, "no tracefs") },
            Assessment { tier: Tier::Strace, obstacles: obstacles(strace, "no strace") },
            Assessment { tier: Tier::Proc, obstacles: Vec::new() },
        ]
    }

    #[test]
    fn auto_takes_tracepoints_or_nothing_and_says_why() {
        let choose = |mode, perf, strace| Tracing::choose(mode, &assessments(perf, strace));
        assert_eq!(choose(Trace::Auto, true, true).unwrap().tier, Some(Tier::Perf));
        let none = choose(Trace::Auto, false, true).unwrap();
        assert_eq!(
            (none.tier, none.why_not.as_str()),
            (None, "perf tracepoints: no tracefs: mend it")
        );
        assert_eq!(choose(Trace::Off, true, true).unwrap().tier, None);
    }

    #[test]
    fn on_takes_what_there_is_or_names_what_is_in_the_way() {
        let choose = |perf, strace| Tracing::choose(Trace::On, &assessments(perf, strace));
        assert_eq!(choose(true, true).unwrap().tier, Some(Tier::Perf));
        assert_eq!(choose(false, true).unwrap().tier, Some(Tier::Strace));
        let error = choose(false, false).unwrap_err();
        assert_eq!(error.exit(), Exit::Environment);
        let text = error.to_string();
        assert!(text.contains("no tracefs: mend it") && text.contains("no strace"), "{text}");
    }

    #[test]
    fn a_process_that_is_gone_ends_the_run_only_where_tracing_was_asked_for() {
        let gone = |required| {
            Tracing { tier: Some(Tier::Perf), required, why_not: String::new() }.begin(u32::MAX)
        };
        assert!(gone(false).unwrap().why_not.contains("gone"));
        assert_eq!(gone(true).unwrap_err().exit(), Exit::Environment);
    }
}
