//! Flame graphs of growth: bytes gained and still resident, by stack.
//!
//! inferno lays them out and draws them; what goes into the page are its frames alone, without its
//! script, its style sheet and its buttons, so that the page stays without scripts. Every frame has
//! its text as a title, which a mouse shows; a table beside the drawing has the same in words.

use inferno::differential;
use inferno::flamegraph::color::{BasicPalette, Palette};
use inferno::flamegraph::{self, Direction, Options};
use maud::{Markup, PreEscaped, html};
use pdlab_leak::stacks::namer::short;
use pdlab_leak::stacks::{StackGrowth, Stacks, folded::folded};

use super::html::{figure_of, table};
use crate::repro::words::change;

/// What inferno leaves free at either side of the frames.
const PAD: f64 = 10.0;

/// Stacks of the table, the largest.
const ROWS: usize = 8;

/// Widths of the two drawings, one of which is shown: on a laptop, and on a phone.
const WIDTHS: [(&str, usize); 2] = [("wide", 880), ("narrow", 343)];

/// Frames narrower than this share of the drawing (0.3 %) are left out: nobody could point at them.
const MIN_WIDTH_PERCENT: f64 = 0.3;

/// The growth of `process` by stack, under an `id` of its own; nothing if no stack has gained.
pub(super) fn growth(id: &str, process: &str, stacks: &Stacks) -> Markup {
    let lines = folded(stacks, 1.0);
    let title = format!("Memory gained by {process}, by call stack");
    let caption = html! {
        "Bytes that were gained and are still resident: the outermost function is at the top, who it \
         called below it, and the width is bytes. " (stacks.tier) ", " (stacks.confidence) "."
        @for remark in &stacks.remarks { br; (remark) }
    };
    html! {
        @if !lines.is_empty() { (drawings(id, &title, &lines, &caption)) (largest(stacks)) }
    }
}

/// What changed from the growth of one run to that of another, both per unit of work: `scale` is
/// how much more work the first run did.
pub(super) fn difference(
    names: (&str, &str),
    before: &Stacks,
    after: &Stacks,
    scale: f64,
) -> Markup {
    let (lines, total) = compared(before, after, scale);
    let title = format!("Growth by call stack: {} against {}", names.1, names.0);
    let caption = html! {
        "The width is bytes of both runs together, those of " (names.1) " scaled to the work of "
        (names.0) ". Red stacks gained more in " (names.1) ", blue ones less, white ones the same."
    };
    html! {
        @if total > 0 { (drawings("flame-difference", &title, &lines, &caption)) }
        @else { p { "No stack of either run has gained anything." } }
    }
}

/// Lines with two counts each, and their sum. The width of a frame is that of its second count, so
/// that what only the first run has would be invisible: both runs' bytes together are the second,
/// and the first is chosen so that the difference is what changed.
fn compared(before: &Stacks, after: &Stacks, scale: f64) -> (String, u64) {
    let (before, after) = (folded(before, 1.0), folded(after, scale));
    let mut pairs = Vec::new();
    let options = differential::Options::default();
    // Reading from text and writing to memory cannot fail.
    let made = differential::from_readers(options, before.as_bytes(), after.as_bytes(), &mut pairs);
    debug_assert!(made.is_ok(), "reads and writes memory");
    let pairs = String::from_utf8(pairs).unwrap_or_default();
    let mut lines: Vec<(String, u64)> = pairs
        .lines()
        .filter_map(|line| {
            let (rest, after) = line.rsplit_once(' ')?;
            let (stack, before) = rest.rsplit_once(' ')?;
            let (before, after): (u64, u64) = (before.parse().ok()?, after.parse().ok()?);
            Some((format!("{stack} {} {}", 2 * before, before + after), before + after))
        })
        .collect();
    lines.sort_unstable();
    let total = lines.iter().map(|(_, bytes)| bytes).sum();
    let lines: Vec<String> = lines.into_iter().map(|(line, _)| line).collect();
    (lines.join("\n"), total)
}

fn drawings(id: &str, title: &str, lines: &str, caption: &Markup) -> Markup {
    let spoken = format!("{title}. The table has the largest stacks in words.");
    let drawn = WIDTHS.iter().filter_map(|&(class, width)| {
        let title_id = format!("{id}-{class}-title");
        Some(drawing(class, width, &title_id, title, &spoken, &frames(lines, width)?))
    });
    figure_of(id, &html! { h3 { (title) } @for drawing in drawn { (drawing) } }, caption)
}

/// The frames of a flame graph as inferno draws them.
#[derive(Debug, Clone, PartialEq)]
struct Frames {
    width: f64,
    height: f64,
    /// Elements of SVG; places from left to right are percent of `width`.
    elements: String,
}

/// `None` if inferno draws nothing that we know.
fn frames(lines: &str, width: usize) -> Option<Frames> {
    let mut options = Options::default();
    options.title = String::new();
    options.image_width = Some(width + 2 * PAD as usize);
    options.direction = Direction::Inverted;
    options.colors = Palette::Basic(BasicPalette::Mem);
    options.deterministic = true;
    options.count_name = "bytes".to_owned();
    options.font_size = 11;
    // A monospaced letter is 0.6 of its height. The rest is the padding, which inferno takes for room.
    options.font_width = 0.66;
    options.frame_height = 17;
    options.min_width = MIN_WIDTH_PERCENT;
    options.no_javascript = true;
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut options, lines.lines(), &mut svg).ok()?;
    let svg = String::from_utf8(svg).ok()?;
    let height = svg.split_once("viewBox=\"0 0 ")?.1.split_once('"')?.0.split_once(' ')?.1;
    let inner = svg.split_once("<svg id=\"frames\"")?.1.split_once('>')?.1;
    let elements = inner.rsplit_once("</svg></svg>")?.0.to_owned();
    Some(Frames { width: width as f64, height: height.parse().ok()?, elements })
}

fn drawing(
    class: &str,
    width: usize,
    title_id: &str,
    title: &str,
    spoken: &str,
    frames: &Frames,
) -> Markup {
    let view = format!("0 0 {width} {}", frames.height);
    html! {
        svg class=(format!("flame {class}")) viewBox=(view) role="img" aria-labelledby=(title_id) {
            title id=(title_id) { (title) }
            desc { (spoken) }
            // Escaped by inferno: it is XML, and the frames' names are its text.
            (PreEscaped(&frames.elements))
        }
    }
}

/// The largest stacks in words, each to be opened.
fn largest(stacks: &Stacks) -> Markup {
    let gained: i64 = stacks.mapped().map(|stack| stack.gained_bytes().max(0)).sum();
    let row = |stack: &StackGrowth| {
        let share = 100.0 * stack.gained_bytes() as f64 / gained.max(1) as f64;
        let name = stack.frames.iter().find(|frame| frame.function.is_some());
        let name = name.or(stack.frames.first()).map_or("(no stack)".to_owned(), short);
        let all: Vec<String> = stack.frames.iter().map(ToString::to_string).collect();
        vec![
            html! { details { summary { (name) } pre { (all.join("\n")) } } },
            html! { (change(stack.gained_bytes() as f64)) @if stack.estimated { ", estimated" } },
            html! { (format!("{share:.1} %")) },
        ]
    };
    let rows: Vec<Vec<Markup>> =
        stacks.mapped().filter(|stack| stack.gained_bytes() > 0).take(ROWS).map(row).collect();
    let caption = "The largest stacks, innermost function first";
    table(caption, &["Stack", "Growth", "Share of all stacks"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repro::fixture;
    use proptest::prelude::*;

    fn stacks() -> Stacks {
        fixture::traced(&fixture::scenario()).stacks.unwrap()
    }

    #[test]
    fn a_flame_graph_has_its_frames_and_nothing_that_runs() {
        let page = growth("flame", "decode-0", &stacks()).into_string();
        for words in
            ["ucs_mpool_grow (libucs.so.0.0.0) (28,400,000 bytes, 99.13%)", "load_model (pdlab)"]
        {
            assert!(page.contains(words), "{words} is not in {page}");
        }
        for forbidden in ["<script", "<style", "onload", "xlink", "url("] {
            assert!(!page.contains(forbidden), "{forbidden}: {page}");
        }
        assert_eq!(page.matches("<svg").count(), 2);
        assert_eq!(page.matches("</svg>").count(), 2);
        assert!(growth("flame", "decode-0", &Stacks::default()).into_string().is_empty());
    }

    #[test]
    fn a_difference_shows_what_is_gone() {
        let (all, mut cured) = (stacks(), stacks());
        cured.stacks.remove(0);
        let (lines, total) = compared(&all, &cured, 2.0);
        // The model is there in both; at half of the work it counts twice.
        assert_eq!(total, 28_400_000 + 250_000 + 500_000);
        assert!(lines.lines().any(|line| line.ends_with("ucs_mpool_grow (libucs.so.0.0.0);ucs_rcache_mp_chunk_alloc (libucs.so.0.0.0);ucm_orig_mmap_syscall (libucm.so.0.0.0);syscall (libc.so.6) 56800000 28400000")), "{lines}");
        let page = difference(("default", "cured"), &all, &cured, 2.0).into_string();
        assert!(page.contains("Growth by call stack: cured against default"), "{page}");
        assert!(page.contains("rgb(") && !page.contains("<script"), "{page}");
        let none = difference(("a", "b"), &Stacks::default(), &Stacks::default(), 1.0);
        assert!(none.into_string().contains("No stack of either run"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn hostile_names_stay_text(name in "\\PC{0,20}|</svg></svg><script>|[<>&\"';]{1,9}") {
            let mut stacks = stacks();
            stacks.stacks[0].frames[2].function = Some(name);
            let page = growth("flame", "decode-0", &stacks).into_string();
            prop_assert_eq!(page.matches("<svg").count(), 2);
            prop_assert_eq!(page.matches("</svg>").count(), 2);
            prop_assert!(!page.contains("<script"));
        }
    }
}
