//! The screen of a watch: memory over work, who holds it, top stacks, the verdict. Pure.

use pdlab_leak::explain::{self, fixed};
use pdlab_leak::ledger::Owner;
use pdlab_leak::stacks::{StackGrowth, Stacks};
use pdlab_leak::verdict::VerdictKind;
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Axis, Block, Chart, Dataset, GraphType, Paragraph, Row, Table, Wrap};

use crate::repro::words::{amount, change, grouped};
use crate::watch::live::View;

/// Points that are drawn: a terminal has two columns of dots per character.
const POINTS: usize = 400;

/// Frames of a stack that are shown: enough to see whose it is.
const FRAMES: usize = 6;

/// Fills `frame` with `view`.
pub fn draw(frame: &mut Frame<'_>, view: &View<'_>) {
    let area = frame.area();
    let stacks = view.stacks.map_or(0, |traced| traced.stacks.len());
    let [head, verdict, middle, below, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(5),
        Constraint::Fill(1),
        if stacks > 0 { Constraint::Fill(1) } else { Constraint::Length(3) },
        Constraint::Length(1),
    ])
    .areas(area);
    let [plot, owners] =
        Layout::horizontal([Constraint::Percentage(55), Constraint::Fill(1)]).areas(middle);
    frame.render_widget(heading(view), head);
    frame.render_widget(finding(view), verdict);
    growth(frame, view, plot);
    frame.render_widget(holders(view.owners), owners);
    frame.render_widget(callers(view), below);
    frame.render_widget(Line::from("q or Ctrl-C ends it and prints the verdict").dim(), foot);
}

fn heading(view: &View<'_>) -> Paragraph<'static> {
    let target = &view.plan.target;
    let ucx = target.ucx.as_deref().map_or(String::new(), |ucx| format!(", UCX {ucx}"));
    let title = Line::from(vec![
        Span::from("pdlab watch").bold(),
        Span::from(format!("  {} (pid {}{ucx})", target.name, target.pid)),
    ]);
    let memory = &view.memory;
    let mut text = format!(
        "{:.0} s, {} readings   RSS {} ({})   {} threads, {} fds",
        view.elapsed_s,
        grouped(view.readings),
        amount(memory.rss_bytes as f64),
        change(view.gained_bytes as f64),
        memory.threads,
        memory.fds
    );
    if let Some(work) = view.work() {
        text += &format!("   {work}");
    }
    Paragraph::new(vec![title, Line::from(text)])
}

fn colour(verdict: VerdictKind) -> Color {
    match verdict {
        VerdictKind::Leak => Color::Red,
        VerdictKind::Clean => Color::Green,
        VerdictKind::Inconclusive => Color::Yellow,
    }
}

fn finding(view: &View<'_>) -> Paragraph<'static> {
    let (judgement, axes) = (view.judgement, view.axes());
    let style = Style::default().fg(colour(judgement.verdict.kind()));
    let mut lines = vec![Line::from(explain::verdict(judgement, axes)).style(style.bold())];
    lines.extend(explain::doubt(judgement, axes).map(Line::from));
    let leaks = judgement.verdict.kind() == VerdictKind::Leak;
    if let Some(estimate) = judgement.estimate.as_ref().filter(|_| leaks) {
        let capacity = view.plan.capacity(view.memory.rss_bytes);
        lines.push(Line::from(explain::consequence(estimate, axes, capacity)));
    }
    if let Some(reason) = view.paused {
        lines.push(Line::from(format!("No readings just now: {reason}")).yellow());
    }
    Paragraph::new(lines).wrap(Wrap { trim: true }).block(Block::bordered().title("verdict so far"))
}

/// What was gained over work, as dots.
fn growth(frame: &mut Frame<'_>, view: &View<'_>, area: Rect) {
    let axes = view.axes();
    let title = format!("{} gained over {}s", axes.gauge.subject(), axes.unit);
    let block = Block::bordered().title(title);
    let step = view.levels.len().div_ceil(POINTS).max(1);
    let points: Vec<(f64, f64)> = view.levels.iter().step_by(step).copied().collect();
    if points.len() < 2 {
        let wait = Paragraph::new("waiting for readings").alignment(Alignment::Center);
        return frame.render_widget(wait.block(block), area);
    }
    let high = points.iter().map(|point| point.1).fold(0.0, f64::max).max(1.0);
    let low = points.iter().map(|point| point.1).fold(0.0, f64::min);
    let end = points.iter().map(|point| point.0).fold(0.0, f64::max).max(1e-9);
    let bytes = axes.gauge.is_bytes();
    let level = |value: f64| if bytes { change(value) } else { fixed(value, axes.gauge) };
    let bounds = |from: String, to: String| vec![Line::from(from), Line::from(to)];
    let data = Dataset::default()
        .marker(Marker::Braille)
        .graph_type(GraphType::Scatter)
        .style(Style::default().fg(colour(view.judgement.verdict.kind())))
        .data(&points);
    let x = Axis::default().bounds([0.0, end]).labels(bounds("0".into(), grouped(end as u64)));
    let y = Axis::default().bounds([low, high]).labels(bounds(level(low), level(high)));
    frame.render_widget(Chart::new(vec![data]).x_axis(x).y_axis(y).block(block), area);
}

fn holders(owners: &[Owner]) -> Table<'static> {
    let row = |owner: &Owner| {
        let much = owner.count.map_or_else(|| change(owner.bytes as f64), |n| format!("{n:+}"));
        Row::new(vec![
            Text::from(much).alignment(Alignment::Right),
            Text::from(format!("{:.0} %", 100.0 * owner.share)).alignment(Alignment::Right),
            Text::from(owner.name.clone()),
        ])
    };
    let widths = [Constraint::Length(10), Constraint::Length(5), Constraint::Fill(1)];
    Table::new(owners.iter().map(row).collect::<Vec<_>>(), widths)
        .block(Block::bordered().title("held by"))
}

fn callers(view: &View<'_>) -> Paragraph<'static> {
    let block = Block::bordered().title("top stacks");
    let text = match view.stacks {
        None => Text::from("no stacks are traced, or none yet"),
        Some(traced) => stacks(traced),
    };
    Paragraph::new(text).block(block)
}

fn stacks(traced: &Stacks) -> Text<'static> {
    let mut lines = vec![Line::from(format!("{}, {}", traced.tier, traced.confidence)).dim()];
    for stack in &traced.stacks {
        lines.push(Line::from(held(stack)).add_modifier(Modifier::BOLD));
        let frames = stack.frames.iter().take(FRAMES);
        lines.extend(frames.map(|frame| Line::from(format!("  {frame}"))));
    }
    Text::from(lines)
}

fn held(stack: &StackGrowth) -> String {
    let about = if stack.estimated { "about " } else { "" };
    let calls = grouped(stack.maps);
    format!("{about}{} still mapped, {calls} calls", amount(stack.live_bytes as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::live::tests::{judgement, view};
    use crate::watch::plan::tests::plan;
    use pdlab_leak::estimate::Series;
    use pdlab_leak::layout::Class;
    use pdlab_leak::sample::Memory;
    use pdlab_leak::trace::tier::Tier;
    use pdlab_leak::trace::{CallKind, Confidence, Counts, ModuleState};
    use pdlab_leak::verdict::{Criteria, judge};
    use pdlab_leak::work::Unit;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn screen(view: &View<'_>, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(line).collect::<Vec<_>>().join("\n")
    }

    fn traced() -> Stacks {
        let frame = pdlab_leak::trace::Frame {
            function: Some("ucs_mpool_grow".to_owned()),
            module: Some("/x/libucs.so.0".to_owned()),
            offset: 0x1f2a3,
            module_state: ModuleState::Present,
        };
        Stacks {
            tier: Tier::Perf,
            stacks: vec![StackGrowth {
                frames: vec![frame],
                kind: CallKind::Mmap,
                live_bytes: 57_600_000,
                maps: 440,
                resident: [(Class::Anonymous, 57_600_000)].into(),
                estimated: false,
            }],
            counts: Counts::default(),
            confidence: Confidence::Complete,
            untracked_bytes: 0,
            remarks: Vec::new(),
        }
    }

    #[test]
    fn it_shows_verdict_owners_and_stacks() {
        let (plan, judgement, traced) = (plan(Unit::Unmap), judgement(), traced());
        let memory = Memory { rss_bytes: 157_600_000, threads: 3, fds: 7, ..Memory::default() };
        let levels: Vec<(f64, f64)> =
            (0..41).map(|i| (1e4 * i as f64, 1.44e6 * i as f64)).collect();
        let owner = Owner {
            name: "UCX registration cache".to_owned(),
            bytes: 57_600_000,
            share: 0.98,
            ..Owner::default()
        };
        let owners = [owner];
        let view = View {
            levels: &levels,
            owners: &owners,
            stacks: Some(&traced),
            paused: Some("connection refused"),
            ..view(&plan, &judgement, memory)
        };
        let text = screen(&view, 120, 40);
        for words in [
            "VLLM::Worker (pid 4711)",
            "RSS 157.6 MB (+57.6 MB)",
            "400,000 unmaps at 40,000/s",
            "LEAK. 144.0 B per unmap",
            "346 MB/min",
            "connection refused",
            "memory gained over unmaps",
            "UCX registration cache",
            "98 %",
            "ucs_mpool_grow (libucs.so.0+0x1f2a3)",
            "perf tracepoints, complete",
            "q or Ctrl-C",
        ] {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
    }

    #[test]
    fn before_the_first_reading_and_on_any_size_it_draws() {
        let plan = plan(Unit::Second);
        let judgement = judge(&Series::default(), &Criteria::new(plan.gauge, 1.0), 1);
        let view = view(&plan, &judgement, Memory::default());
        assert!(screen(&view, 80, 24).contains("waiting for readings"));
        for (width, height) in [(1, 1), (10, 3), (20, 100), (300, 5)] {
            screen(&view, width, height);
        }
    }
}
