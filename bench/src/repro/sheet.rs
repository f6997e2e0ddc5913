//! Text for a terminal: labels at the left, lines that wrap. Pure.

/// Columns of a line: what a terminal shows without wrapping, and prose reads well in.
pub const WIDTH: usize = 100;

/// Columns of the labels at the left.
const LABEL: usize = 11;

/// Lines of labelled, wrapped text.
#[derive(Debug, Default)]
pub struct Sheet {
    /// What has been written so far.
    pub text: String,
}

impl Sheet {
    /// An empty line.
    pub fn blank(&mut self) {
        self.text.push('\n');
    }

    /// A line as it is.
    pub fn line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    /// Wrapped text with a label at the left.
    pub fn item(&mut self, label: &str, text: &str) {
        for (i, line) in wrap(text, WIDTH - LABEL).iter().enumerate() {
            let label = if i == 0 { label } else { "" };
            self.line(&format!("{label:LABEL$}{line}"));
        }
    }

    /// Wrapped text that belongs to the line above.
    pub fn indented(&mut self, text: &str) {
        for line in wrap(text, WIDTH - 4) {
            self.line(&format!("    {line}"));
        }
    }
}

/// Lines of at most `width` columns, broken at blanks; a longer word gets a line of its own. Line
/// breaks in the text stay.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            let needed = line.chars().count() + 1 + word.chars().count();
            if !line.is_empty() && needed > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_wraps_at_blanks_and_keeps_its_lines() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("a\nlongerthanwidth b", 5), ["a", "longerthanwidth", "b"]);
        assert_eq!(wrap("", 5), [""; 0]);
    }
}
