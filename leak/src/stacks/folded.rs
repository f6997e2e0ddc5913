//! Folded stacks: a line per stack, outermost frame first, frames separated by `;`, then a blank and a number. Flame
//! graph tools of all kinds read it (<https://github.com/brendangregg/FlameGraph#2-fold-stacks>).

use std::collections::BTreeMap;
use std::fmt::Write;

use super::growth::Stacks;
use super::namer::short;
use crate::trace::Frame;

/// Bytes gained by stack, as a line each; stacks that gained nothing have none. `scale` is a factor on the bytes, for runs
/// that did more or less work than the one they are compared with.
pub fn folded(stacks: &Stacks, scale: f64) -> String {
    let mut lines: BTreeMap<String, u64> = BTreeMap::new();
    for stack in stacks.mapped() {
        let bytes = (stack.gained_bytes() as f64 * scale).round();
        if bytes >= 1.0 {
            *lines.entry(line(&stack.frames)).or_default() += bytes as u64;
        }
    }
    lines.into_iter().fold(String::new(), |mut text, (stack, bytes)| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{stack} {bytes}");
        text
    })
}

/// The frames without what has a meaning in the format.
fn line(frames: &[Frame]) -> String {
    if frames.is_empty() {
        return "(no stack)".to_string();
    }
    let clean = |frame: &Frame| {
        let name: String = short(frame)
            .chars()
            .map(|c| {
                if c == ';' {
                    ','
                } else if c.is_control() {
                    ' '
                } else {
                    c
                }
            })
            .collect();
        // A number at the end would be read as one of the counts.
        let number = name.rsplit(' ').next().is_some_and(|word| word.parse::<f64>().is_ok());
        if number { format!("{name}_") } else { name }
    };
    frames.iter().rev().map(clean).collect::<Vec<_>>().join(";")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stacks::fixture::frames;
    use crate::stacks::growth::StackGrowth;

    fn stacks(names: &[&str], bytes: i64) -> Stacks {
        let growth = StackGrowth::of(frames(names), crate::layout::Class::Anonymous, bytes);
        Stacks { stacks: vec![growth.clone(), growth], ..Stacks::default() }
    }

    #[test]
    fn a_line_has_the_outermost_frame_first_and_the_sum() {
        let text = folded(
            &stacks(&["grow@libucs.so.0", "core::fmt::<[u8; 8]>::x@app", "main@app"], 100),
            1.5,
        );
        assert_eq!(text, "main (app);core::fmt::<[u8, 8]>::x (app);grow (libucs.so.0) 300\n");
        assert_eq!(folded(&stacks(&["f"], -5), 1.0), "");
        assert_eq!(folded(&stacks(&[], 5), 1.0), "(no stack) 10\n");
    }

    proptest! {
        #[test]
        fn a_line_is_one_line_with_one_number(name in "\\PC{0,12}|[a-z] [0-9.e]{1,5}|.{0,8}") {
            let text = folded(&stacks(&[&name, "main"], 7), 1.0);
            prop_assert_eq!(text.lines().count(), 1);
            let (stack, bytes) = text.trim_end().rsplit_once(' ').unwrap();
            prop_assert_eq!(bytes, "14");
            prop_assert_eq!(stack.matches(';').count(), 1);
            let last = stack.rsplit(' ').next().unwrap();
            prop_assert!(last == stack || last.parse::<f64>().is_err(), "{}", stack);
        }
    }
}
