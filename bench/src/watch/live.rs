//! What is seen while a watch goes on, and its form as a line. Pure; `tui` has the other form.

use pdlab_leak::gauge::Axes;
use pdlab_leak::ledger::Owner;
use pdlab_leak::sample::Memory;
use pdlab_leak::stacks::Stacks;
use pdlab_leak::verdict::Judgement;
use pdlab_leak::work::Unit;

use super::plan::Plan;
use crate::repro::words::{amount, change, grouped, so_far};

/// Where a watch stands.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// What is watched, and how.
    pub plan: &'a Plan,
    /// Seconds since it began.
    pub elapsed_s: f64,
    /// Readings taken.
    pub readings: u64,
    /// The last one.
    pub memory: Memory,
    /// RSS gained since the first.
    pub gained_bytes: i64,
    /// Units of work done.
    pub units: f64,
    /// The verdict so far.
    pub judgement: &'a Judgement,
    /// What is judged, over work: the readings that were kept, from first to last.
    pub levels: &'a [(f64, f64)],
    /// Who holds what was gained, the largest first.
    pub owners: &'a [Owner],
    /// What the tracer sees, if one runs.
    pub stacks: Option<&'a Stacks>,
    /// Why no readings are taken just now, if so.
    pub paused: Option<&'a str>,
    /// What the reader should know.
    pub remarks: &'a [String],
}

impl View<'_> {
    /// What is judged over which work.
    pub fn axes(&self) -> Axes {
        self.plan.axes()
    }

    /// Units of work per second.
    pub fn rate(&self) -> f64 {
        if self.elapsed_s > 0.0 { self.units / self.elapsed_s } else { 0.0 }
    }

    /// How much work was done, and how fast: `40,000 unmaps at 4,000/s`. Nothing where work is time.
    pub fn work(&self) -> Option<String> {
        let (unit, units) = (self.plan.unit, grouped(self.units as u64));
        (unit != Unit::Second)
            .then(|| format!("{units} {unit}s at {}/s", grouped(self.rate() as u64)))
    }

    /// The whole of it in a line.
    pub fn line(&self) -> String {
        if let Some(reason) = self.paused {
            return format!("no readings: {reason}");
        }
        let rss = amount(self.memory.rss_bytes as f64);
        let gained = change(self.gained_bytes as f64);
        let work = self.work().map_or(String::new(), |work| format!("{work}, "));
        format!("RSS {rss} ({gained}), {work}{}", so_far(self.axes(), self.judgement))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::watch::plan::tests::plan;
    use pdlab_leak::estimate::{Point, Series};
    use pdlab_leak::verdict::{Criteria, judge};

    /// 144 B per unmap at 40,000 unmaps per second for 10 s.
    pub(in crate::watch) fn judgement() -> Judgement {
        let point = |i: u64| {
            let work = 10_000.0 * i as f64;
            Point { work, level: 1e8 + 144.0 * work, t_s: i as f64 / 4.0 }
        };
        let series = Series::new((0..41).map(point));
        judge(&series, &Criteria::new(pdlab_leak::gauge::Gauge::Held, 4.0), 1)
    }

    pub(in crate::watch) fn view<'a>(
        plan: &'a Plan,
        judgement: &'a Judgement,
        memory: Memory,
    ) -> View<'a> {
        View {
            plan,
            elapsed_s: 10.0,
            readings: 41,
            memory,
            gained_bytes: 57_600_000,
            units: 400_000.0,
            judgement,
            levels: &[],
            owners: &[],
            stacks: None,
            paused: None,
            remarks: &[],
        }
    }

    #[test]
    fn the_line_says_where_it_stands() {
        let memory = Memory { rss_bytes: 157_600_000, ..Memory::default() };
        let (plan, judgement) = (plan(Unit::Unmap), judgement());
        let view = view(&plan, &judgement, memory);
        assert_eq!(
            view.line(),
            "RSS 157.6 MB (+57.6 MB), 400,000 unmaps at 40,000/s, 144.0 B per unmap (144.0 to 144.0), leak so far"
        );
        let paused = View { paused: Some("connection refused"), ..view };
        assert_eq!(paused.line(), "no readings: connection refused");
    }

    #[test]
    fn work_that_is_time_is_not_told_twice() {
        let plan = plan(Unit::Second);
        let (judgement, memory) = (judgement(), Memory::default());
        assert_eq!(view(&plan, &judgement, memory).work(), None);
    }
}
