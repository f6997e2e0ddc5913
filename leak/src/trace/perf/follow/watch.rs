//! Which events are open, and when to open others.

use std::time::Duration;

use super::*;

/// How often the calls that are not followed are counted, and for how long.
const GAUGE_EVERY: Duration = Duration::from_secs(3);
const GAUGE_FOR: Duration = Duration::from_millis(40);
/// How long records may be lost before it is decided on those that there are.
const LONGEST_LOSS: Duration = Duration::from_millis(500);
/// How long there must be few calls before all are followed again.
const QUIET: Duration = Duration::from_secs(10);

/// What is watched now.
pub(super) struct Watch {
    session: Option<Session>,
    pub(super) thinning: Option<Thinning>,
    /// The coarsest sample that there was.
    pub(super) worst_one_in: u32,
    fault_one_in: u32,
    census: Census,
    faults: u64,
    /// Whether records were lost since the census began.
    lossy: bool,
    since: Duration,
    /// Calls up to the last change of what is watched.
    before: Counts,
    /// What the book had counted by then.
    book_before: Counts,
    gauge: Option<Gauge>,
    gauged_at: Duration,
    /// Calls seen while gauging: mappings, munmaps, mremaps, brks.
    seen: [u64; 4],
    /// Of these, mremaps and brks per second when they were last counted.
    others_per_s: f64,
    quiet_since: Duration,
    last_total: u64,
}

/// Events that only count, for a moment.
struct Gauge {
    session: Session,
    placed_before: u64,
}

impl Watch {
    pub(super) fn none() -> Watch {
        Watch {
            session: None,
            thinning: None,
            worst_one_in: 1,
            fault_one_in: 1,
            census: Census::default(),
            faults: 0,
            lossy: false,
            since: Duration::ZERO,
            before: Counts::default(),
            book_before: Counts::default(),
            gauge: None,
            gauged_at: Duration::ZERO,
            seen: [0; 4],
            others_per_s: 0.0,
            quiet_since: Duration::ZERO,
            last_total: 0,
        }
    }

    /// A record was read. Returns how many calls it stands for.
    pub(super) fn note(&mut self, said: Said) -> u32 {
        use super::super::super::book::Call;
        match said {
            Said::Enter(Call::Mmap { len_bytes }) => self.census.add(len_bytes, 1),
            Said::Enter(Call::Mremap(_) | Call::Brk) => self.census.add_other(),
            Said::Placed { len_bytes, .. } => {
                let weight = self.thinning.as_ref().map_or(1, |thin| thin.weight(len_bytes));
                self.census.add(len_bytes, weight);
                return weight;
            }
            Said::Fault { .. } => {
                self.faults += 1;
                return self.fault_one_in;
            }
            _ => {}
        }
        1
    }

    /// Records found no room. Of two to four, one is of a call that comes with its stack.
    pub(super) fn missed(&mut self, records: u64) {
        if self.thinning.is_none() {
            self.census.miss(records / 3);
            self.lossy = true;
        }
    }

    /// Mappings since a thinned watch began. First in its list is a dummy, then come those that are followed one by one,
    /// then those that are sampled, if there are any. Together they are all, and each counts what its filter lets pass,
    /// written down or not.
    fn mappings(&self) -> u64 {
        let (Some(session), Some(thinning)) = (&self.session, &self.thinning) else { return 0 };
        let events = if thinning.lengths.is_empty() { 1..=1 } else { 1..=2 };
        events.map(|event| session.count(event)).sum()
    }
}

impl Follower {
    /// Counts the calls of the process for a moment, and then follows it in the way that their number allows.
    pub(super) fn begin(&mut self) -> Result<(), TraceError> {
        let census = [
            Wanted::every(self.points.enter_mmap.id, "syscalls:sys_enter_mmap"),
            Wanted::every(self.points.enter_mremap.id, "syscalls:sys_enter_mremap"),
            Wanted::every(self.points.enter_brk.id, "syscalls:sys_enter_brk"),
        ];
        let session = Session::open(self.pid, &census, &self.buffers)?;
        let began = now();
        while now() < began + CENSUS {
            std::thread::sleep(IN_FLIGHT);
            let mut bytes = Vec::new();
            self.buffers.drain(&mut bytes);
            decode(&bytes, |record| {
                if let Body::Sample { raw, .. } = record.body
                    && let Some(said) = self.points.said(&raw)
                {
                    self.watch.note(said);
                }
            });
        }
        let seconds = (now() - began).as_secs_f64();
        self.watch.thinning = self.watch.census.thinning(seconds, self.options.max_samples_per_s);
        self.reopen(Counts::default())?;
        drop(session);
        // Of the census nothing is to be taken for a call.
        let mut bytes = Vec::new();
        self.buffers.drain(&mut bytes);
        decode(&bytes, |record| match record.body {
            Body::Sample { .. } | Body::Lost { .. } => {}
            _ => self.waiting.push(record),
        });
        Ok(())
    }

    /// Opens the events of what is to be watched now, and only then closes those of before, which have seen `before`.
    fn reopen(&mut self, before: Counts) -> Result<(), TraceError> {
        if self.watch.thinning.is_some()
            && (self.points.placed.is_none() || !self.may_see_placing())
        {
            self.watch.thinning = None;
            let cannot = "Many calls per second are followed one by one, at a cost: this kernel or this user has no \
                          tracepoint mmap:vm_unmapped_area (run as root, on Linux 5.8 or later)."
                .to_owned();
            if !self.remarks.contains(&cannot) {
                self.remarks.push(cannot);
            }
        }
        let wanted = self.wanted();
        self.watch.session = Some(Session::open(self.pid, &wanted, &self.buffers)?);
        self.watch.before = before;
        self.watch.book_before = self.book.counts();
        self.watch.gauge = None;
        self.watch.last_total = 0;
        self.watch.others_per_s = 0.0;
        self.watch.quiet_since = now();
        self.restart_census();
        if let Some(thinning) = &self.watch.thinning {
            let one_in = thinning.one_in.max(thinning.rest_one_in);
            self.watch.worst_one_in = self.watch.worst_one_in.max(one_in);
            self.watch.gauged_at = Duration::ZERO;
        }
        Ok(())
    }

    /// The tracepoint inside of mmap is open to fewer users than those on system calls.
    fn may_see_placing(&self) -> bool {
        let Some(placed) = &self.points.placed else { return false };
        let wanted = [Wanted::every(placed.id, "mmap:vm_unmapped_area")];
        Session::open(self.pid, &wanted, &self.buffers).is_ok()
    }

    fn wanted(&self) -> Vec<Wanted> {
        let points = &self.points;
        let stack_bytes = self.options.stack_bytes;
        let every = Wanted::every;
        let with_stack = |id, name| Wanted { stack_bytes, ..every(id, name) };
        let mut wanted = vec![Wanted {
            point: None,
            name: "software dummy",
            filter: None,
            period: 0,
            stack_bytes: 0,
        }];
        match (&self.watch.thinning, &points.placed) {
            (Some(thin), Some(placed)) => {
                let placed = |one_in: u32, filter| Wanted {
                    period: one_in.into(),
                    filter,
                    ..with_stack(placed.id, "mmap:vm_unmapped_area")
                };
                wanted.push(placed(thin.rest_one_in, thin.others("length")));
                if let Some(sampled) = thin.sampled("length") {
                    wanted.push(placed(thin.one_in, Some(sampled)));
                }
            }
            _ => wanted.extend([
                with_stack(points.enter_mmap.id, "syscalls:sys_enter_mmap"),
                every(points.exit_mmap.id, "syscalls:sys_exit_mmap"),
                every(points.enter_munmap.id, "syscalls:sys_enter_munmap"),
                every(points.exit_munmap.id, "syscalls:sys_exit_munmap"),
                with_stack(points.enter_mremap.id, "syscalls:sys_enter_mremap"),
                every(points.exit_mremap.id, "syscalls:sys_exit_mremap"),
                with_stack(points.enter_brk.id, "syscalls:sys_enter_brk"),
                every(points.exit_brk.id, "syscalls:sys_exit_brk"),
            ]),
        }
        if let (true, Some(fault)) = (self.options.page_faults, &points.fault) {
            let period = u64::from(self.watch.fault_one_in);
            wanted.push(Wanted { period, ..with_stack(fault.id, "exceptions:page_fault_user") });
        }
        wanted
    }

    /// Follows more or fewer calls if their number asks for it.
    pub(super) fn adapt(&mut self) {
        if self.ended {
            return;
        }
        let elapsed = now().saturating_sub(self.watch.since);
        let max = u64::from(self.options.max_samples_per_s);
        let seconds = elapsed.as_secs_f64();
        if self.watch.faults > max {
            let per_s = self.watch.faults as f64 / seconds.max(0.05);
            let factor = (per_s / (max as f64 / 2.0)).ceil().max(2.0) as u32;
            self.watch.fault_one_in = self.watch.fault_one_in.saturating_mul(factor);
            self.watch.worst_one_in = self.watch.worst_one_in.max(self.watch.fault_one_in);
            self.change(self.watch.thinning.clone());
        } else if self.watch.thinning.is_none() {
            // More in part of a second than are to be taken in all of it; or already so many that the kernel has no room.
            let calls = self.watch.census.total();
            let many = calls > max || (self.watch.lossy && calls > max / 8);
            if many && (self.watch.census.tells() || elapsed > LONGEST_LOSS) {
                // Within less time than this a rate says nothing.
                let seconds = seconds.max(0.01);
                let thinning = self.watch.census.thinning(seconds, self.options.max_samples_per_s);
                if thinning.is_some() {
                    self.change(thinning);
                }
            }
        } else {
            self.adapt_thinned();
        }
        if elapsed >= Duration::from_secs(1) {
            self.restart_census();
        }
    }

    fn adapt_thinned(&mut self) {
        let at = now();
        self.gauge(at);
        let elapsed = at.saturating_sub(self.watch.since);
        if elapsed < Duration::from_secs(1) {
            return;
        }
        let total = self.watch.mappings();
        let per_s = (total - self.watch.last_total.min(total)) as f64 / elapsed.as_secs_f64();
        self.watch.last_total = total;
        if per_s + self.watch.others_per_s > f64::from(self.options.max_samples_per_s) / 4.0 {
            self.watch.quiet_since = at;
        } else if at.saturating_sub(self.watch.quiet_since) > QUIET {
            self.change(None);
            return;
        }
        // Other lengths may be frequent by now.
        let (census, max) = (&self.watch.census, self.options.max_samples_per_s);
        let better = census.thinning(elapsed.as_secs_f64(), max);
        if let (Some(now), Some(better)) = (&self.watch.thinning, better) {
            let unlike = better.lengths.iter().any(|len| !now.lengths.contains(len));
            if unlike && better.rest_one_in <= now.rest_one_in {
                self.change(Some(better));
            }
        }
    }

    /// Counts the calls that are not followed for a moment, in order to know how many there are per mapping.
    fn gauge(&mut self, at: Duration) {
        match &self.watch.gauge {
            None if at.saturating_sub(self.watch.gauged_at) >= GAUGE_EVERY => {
                let points = &self.points;
                let count = |id, name| Wanted { period: 0, ..Wanted::every(id, name) };
                let wanted = [
                    count(points.enter_munmap.id, "syscalls:sys_enter_munmap"),
                    count(points.enter_mremap.id, "syscalls:sys_enter_mremap"),
                    count(points.enter_brk.id, "syscalls:sys_enter_brk"),
                ];
                if let Ok(session) = Session::open(self.pid, &wanted, &self.buffers) {
                    let placed_before = self.watch.mappings();
                    self.watch.gauge = Some(Gauge { session, placed_before });
                }
                self.watch.gauged_at = now();
            }
            Some(gauge) if at.saturating_sub(self.watch.gauged_at) >= GAUGE_FOR => {
                let counted_for = at.saturating_sub(self.watch.gauged_at).as_secs_f64();
                let placed = self.watch.mappings().saturating_sub(gauge.placed_before);
                let counts = [
                    placed,
                    gauge.session.count(0),
                    gauge.session.count(1),
                    gauge.session.count(2),
                ];
                self.watch.others_per_s = (counts[2] + counts[3]) as f64 / counted_for;
                for (seen, count) in self.watch.seen.iter_mut().zip(counts) {
                    *seen += count;
                }
                self.watch.gauge = None;
                self.watch.gauged_at = at;
            }
            _ => {}
        }
    }

    fn change(&mut self, thinning: Option<Thinning>) {
        let counts = self.counts();
        let before = std::mem::replace(&mut self.watch.thinning, thinning);
        if before.is_some() {
            // Calls that unmapped something were not followed up to now.
            if let Some(maps) = self.maps() {
                self.book.retain(&maps.spans);
                if let Some(end) = maps.heap_end {
                    self.book.set_heap_end(end);
                }
            }
        }
        let pause = self.watch.lossy && before.is_none();
        if let (true, Some(session)) = (pause, &self.watch.session) {
            // What it writes now finds no room, and costs the process time. What is mapped meanwhile is known to
            // /proc/PID/maps.
            session.pause();
        }
        if let Err(error) = self.reopen(counts) {
            // The process has ended, or there are no files left; what is open goes on.
            self.watch.thinning = before;
            if let (true, Some(session)) = (pause, &self.watch.session) {
                session.resume();
            }
            self.restart_census();
            let remark = format!("What is followed could not be changed: {error}.");
            if self.alive() && !self.remarks.contains(&remark) {
                self.remarks.push(remark);
            }
        } else if pause {
            self.catch_up();
            if let Some(maps) = self.maps() {
                self.missed_bytes = self.unknown_bytes(&maps);
            }
        }
    }

    fn restart_census(&mut self) {
        self.watch.census = Census::default();
        self.watch.faults = 0;
        self.watch.lossy = false;
        self.watch.since = now();
    }

    /// What was seen up to now; what was not followed, by its number per mapping.
    pub(super) fn counts(&self) -> Counts {
        let (seen, before) = (self.book.counts(), self.watch.before);
        if self.watch.thinning.is_none() || self.watch.session.is_none() {
            let then = self.watch.book_before;
            return Counts {
                mmaps: before.mmaps + (seen.mmaps - then.mmaps),
                munmaps: before.munmaps + (seen.munmaps - then.munmaps),
                mremaps: before.mremaps + (seen.mremaps - then.mremaps),
                brks: before.brks + (seen.brks - then.brks),
                faults: seen.faults,
                lost: self.lost,
            };
        }
        let mappings = self.watch.mappings();
        let [placed, munmaps, mremaps, brks] = self.watch.seen;
        let per_mapping = |calls: u64, unknown: u64| match placed {
            0 => unknown,
            _ => (mappings as f64 * calls as f64 / placed as f64) as u64,
        };
        Counts {
            mmaps: before.mmaps + mappings,
            // Until it is known better, what is mapped is unmapped, too.
            munmaps: before.munmaps + per_mapping(munmaps, mappings),
            mremaps: before.mremaps + per_mapping(mremaps, 0),
            brks: before.brks + per_mapping(brks, 0),
            faults: seen.faults,
            lost: self.lost,
        }
    }
}
