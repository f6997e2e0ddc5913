//! Patterns of call stacks: frames in order, with gaps.
//!
//! A pattern is a list of frames, innermost first, as stacks are. A frame is `FUNCTION` or `FUNCTION @ MODULE`; both are
//! globs (`*`, `?`, `[abc]`), the module's is held against the name of its file. Frames stand right next to each other
//! unless `...` is between them, and a pattern may begin and end anywhere in a stack:
//!
//! ```toml
//! stack = ["ucs_mpool_grow", "...", "ucs_rcache_unmapped_callback @ libucs.so*"]
//! ```

use glob::Pattern;
use serde::{Deserialize, Deserializer};

use crate::trace::Frame;

/// What stands for any number of frames, none included.
const GAP: &str = "...";

/// A pattern that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A glob is none.
    #[error(
        "\"{text}\" is no pattern of a frame: {reason}; write FUNCTION or FUNCTION @ MODULE, with * and ?"
    )]
    Frame {
        /// What was written.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no frame, or a gap that says nothing.
    #[error(
        "a stack is one frame or more, with \"...\" between them only: it begins and ends anywhere anyway"
    )]
    Gap,
}

/// One frame, or many like it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FramePattern {
    function: Pattern,
    module: Option<Pattern>,
}

impl FramePattern {
    /// Whether `frame` is one of them. A frame without a name is one only where any function is.
    pub fn matches(&self, frame: &Frame) -> bool {
        let function = frame.function.as_deref().unwrap_or_default();
        let file =
            frame.module.as_deref().map_or("", |path| path.rsplit('/').next().unwrap_or(path));
        self.function.matches(function)
            && self.module.as_ref().is_none_or(|module| module.matches(file))
    }
}

impl std::str::FromStr for FramePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<FramePattern, PatternError> {
        let wrong = |reason: String| PatternError::Frame { text: text.to_string(), reason };
        let glob = |part: &str| match part.trim() {
            "" => Err(wrong("a part of it is empty".to_string())),
            part => Pattern::new(part).map_err(|error| wrong(error.msg.to_string())),
        };
        let (function, module) = match text.split_once('@') {
            Some((function, module)) => (function, Some(glob(module)?)),
            None => (text, None),
        };
        Ok(FramePattern { function: glob(function)?, module })
    }
}

impl<'de> Deserialize<'de> for FramePattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FramePattern, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A stack, or many like it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackPattern {
    /// Runs of frames next to each other; gaps are between them.
    runs: Vec<Vec<FramePattern>>,
}

impl StackPattern {
    /// Reads the frames of a pattern, innermost first.
    ///
    /// # Errors
    /// [`PatternError`] names what is wrong.
    pub fn parse(frames: &[String]) -> Result<StackPattern, PatternError> {
        let runs: Vec<Vec<FramePattern>> = frames
            .split(|frame| frame == GAP)
            .map(|run| run.iter().map(|frame| frame.parse()).collect())
            .collect::<Result<_, _>>()?;
        if runs.iter().any(Vec::is_empty) {
            return Err(PatternError::Gap);
        }
        Ok(StackPattern { runs })
    }

    /// How many frames it names: of two patterns that match, the one with more says more.
    pub fn frame_count(&self) -> usize {
        self.runs.iter().map(Vec::len).sum()
    }

    /// Whether `frames`, innermost first, hold the pattern. Taking the first place where a run fits leaves the most for
    /// those after it.
    pub fn matches(&self, frames: &[Frame]) -> bool {
        let mut rest = frames;
        self.runs.iter().all(|run| {
            let fits = |frames: &[Frame]| run.iter().zip(frames).all(|(p, frame)| p.matches(frame));
            match rest.windows(run.len()).position(fits) {
                Some(at) => {
                    rest = &rest[at + run.len()..];
                    true
                }
                None => false,
            }
        })
    }
}

impl<'de> Deserialize<'de> for StackPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StackPattern, D::Error> {
        let frames = Vec::<String>::deserialize(deserializer)?;
        StackPattern::parse(&frames).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stacks::fixture::frames;

    fn pattern(frames: &[&str]) -> Result<StackPattern, PatternError> {
        let frames: Vec<String> = frames.iter().map(|frame| (*frame).to_string()).collect();
        StackPattern::parse(&frames)
    }

    #[test]
    fn frames_stand_next_to_each_other_unless_a_gap_is_between_them() {
        let stack = frames(&[
            "syscall@libc.so.6",
            "grow@libucs.so.0",
            "callback@libucs.so.0",
            "@app",
            "main@app",
        ]);
        for (written, due) in [
            (&["grow", "callback"][..], true),
            (&["syscall", "callback"], false),
            (&["syscall", "...", "callback"], true),
            (&["callback", "grow"], false),
            (&["*", "main"], true),
            (&["call*ack @ libucs.so*", "...", "main @ app"], true),
            (&["callback @ libc*"], false),
            (&["main", "...", "main"], false),
            (&["grow", "callback", "*", "main"], true),
            (&["nobody"], false),
        ] {
            assert_eq!(pattern(written).unwrap().matches(&stack), due, "{written:?}");
        }
        assert!(!pattern(&["main"]).unwrap().matches(&[]));
    }

    #[test]
    fn what_is_no_pattern_is_named() {
        assert_eq!(pattern(&[]), Err(PatternError::Gap));
        assert_eq!(pattern(&["...", "f"]), Err(PatternError::Gap));
        assert_eq!(pattern(&["f", "...", "...", "g"]), Err(PatternError::Gap));
        for bad in ["f[", "a**b", "@ libucs.so", "f @", ""] {
            let error = pattern(&[bad]).unwrap_err().to_string();
            assert!(
                error.contains(&format!("{bad:?}")) && error.contains("FUNCTION @ MODULE"),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in proptest::collection::vec("\\PC{0,20}", 0..5)) {
            if let Ok(pattern) = StackPattern::parse(&text) {
                pattern.matches(&frames(&["a@b", "c@d"]));
            }
        }

        /// The definition, tried everywhere, against the one that is used.
        #[test]
        fn the_first_place_that_fits_loses_no_match(
            stack in proptest::collection::vec("[ab]", 0..9), written in proptest::collection::vec("[ab]|\\.\\.\\.", 1..6),
        ) {
            fn slowly(written: &[String], stack: &[String]) -> bool {
                match written.split_first() {
                    None => true,
                    Some((gap, rest)) if gap == GAP => {
                        (0..=stack.len()).any(|at| slowly(rest, &stack[at..]))
                    }
                    Some((frame, rest)) => {
                        stack.first() == Some(frame) && slowly(rest, &stack[1..])
                    }
                }
            }
            if let Ok(pattern) = StackPattern::parse(&written) {
                let text: Vec<&str> = stack.iter().map(String::as_str).collect();
                let anywhere = (0..=stack.len()).any(|at| slowly(&written, &stack[at..]));
                prop_assert_eq!(pattern.matches(&frames(&text)), anywhere);
            }
        }
    }
}
