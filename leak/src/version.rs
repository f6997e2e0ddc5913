//! UCX versions and ranges of them, as scenarios and signatures write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A UCX release, `major.minor.patch`.
///
/// Suffixes of builds (`1.14.1.post1`, `1.19.0-rc2`) are accepted and ignored: they repackage a release, and no
/// known leak depends on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UcxVersion {
    /// First number, 1 for every UCX of today.
    pub major: u32,
    /// Second number, which names the release line.
    pub minor: u32,
    /// Third number; 0 when the text leaves it out.
    pub patch: u32,
}

/// The text is not a version or a range of versions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// Not `major.minor[.patch]`.
    #[error("\"{0}\" is not a UCX version; write it like 1.19.0")]
    Version(String),
    /// Not one of the four forms of a range.
    #[error(
        "\"{0}\" is not a range of UCX versions; write 1.17.0..=1.20.1, ..1.17.0, 1.21.0.. or a single version"
    )]
    Range(String),
}

impl UcxVersion {
    /// `major.minor.patch`.
    pub const fn new(major: u32, minor: u32, patch: u32) -> UcxVersion {
        UcxVersion { major, minor, patch }
    }
}

impl fmt::Display for UcxVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for UcxVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<UcxVersion, VersionError> {
        let wrong = || VersionError::Version(text.to_string());
        let release = text.split('-').next().unwrap_or_default();
        let mut parts = release.split('.');
        let mut number = || parts.next().map(|part| part.parse::<u32>().map_err(|_| wrong()));
        let major = number().ok_or_else(wrong)??;
        let minor = number().ok_or_else(wrong)??;
        let patch = number().transpose()?.unwrap_or(0);
        match parts.next() {
            Some(build) if !build.starts_with("post") => Err(wrong()),
            _ => Ok(UcxVersion { major, minor, patch }),
        }
    }
}

/// A range of releases: `1.17.0..=1.20.1`, `..1.17.0` (end excluded), `1.21.0..` or one version alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    from: Option<UcxVersion>,
    to: Option<UcxVersion>,
    to_included: bool,
}

impl VersionRange {
    /// Whether `version` lies in the range.
    pub fn contains(&self, version: UcxVersion) -> bool {
        let after_start = self.from.is_none_or(|from| version >= from);
        let before_end =
            self.to.is_none_or(|to| version < to || (self.to_included && version == to));
        after_start && before_end
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(from), Some(to)) = (self.from, self.to)
            && from == to
        {
            return from.fmt(f);
        }
        if let Some(from) = self.from {
            from.fmt(f)?;
        }
        f.write_str("..")?;
        if let Some(to) = self.to {
            f.write_str(if self.to_included { "=" } else { "" })?;
            to.fmt(f)?;
        }
        Ok(())
    }
}

impl FromStr for VersionRange {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<VersionRange, VersionError> {
        let wrong = |_| VersionError::Range(text.to_string());
        let bound = |part: &str| match part {
            "" => Ok(None),
            part => part.parse().map(Some).map_err(wrong),
        };
        let Some((from, to)) = text.split_once("..") else {
            let only = text.parse().map_err(wrong)?;
            return Ok(VersionRange { from: Some(only), to: Some(only), to_included: true });
        };
        let (to, to_included) = match to.strip_prefix('=') {
            Some(to) => (to, true),
            None => (to, false),
        };
        let range = VersionRange { from: bound(from)?, to: bound(to)?, to_included };
        // "..=" and an end before the start match nothing: certainly a slip of the pen.
        let empty = match (range.from, range.to) {
            (Some(from), Some(to)) => from > to || (from == to && !to_included),
            (_, None) => to_included,
            (None, Some(_)) => false,
        };
        if empty { Err(VersionError::Range(text.to_string())) } else { Ok(range) }
    }
}

macro_rules! serde_as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
serde_as_text!(UcxVersion, VersionRange);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_parse_with_and_without_a_build_suffix() {
        let parse = |text: &str| text.parse::<UcxVersion>();
        assert_eq!(parse("1.19.0"), Ok(UcxVersion::new(1, 19, 0)));
        assert_eq!(parse("1.14.1.post1"), Ok(UcxVersion::new(1, 14, 1)));
        assert_eq!(parse("1.19.0-rc2"), Ok(UcxVersion::new(1, 19, 0)));
        assert_eq!(parse("1.16"), Ok(UcxVersion::new(1, 16, 0)));
        for bad in ["", "1", "system", "1.x", "1.19.0.7", "v1.19.0", "1..2", "-1.2"] {
            assert_eq!(parse(bad), Err(VersionError::Version(bad.to_string())), "{bad}");
        }
    }

    #[test]
    fn versions_order_by_number_not_by_text() {
        assert!(UcxVersion::new(1, 9, 0) < UcxVersion::new(1, 19, 0));
    }

    #[test]
    fn a_range_contains_its_ends_as_written() {
        let contains = |range: &str, version: &str| {
            range.parse::<VersionRange>().unwrap().contains(version.parse().unwrap())
        };
        assert!(contains("1.17.0..=1.20.1", "1.17.0"));
        assert!(contains("1.17.0..=1.20.1", "1.20.1"));
        assert!(!contains("1.17.0..=1.20.1", "1.20.2"));
        assert!(!contains("..1.17.0", "1.17.0"));
        assert!(contains("..1.17.0", "1.16.9"));
        assert!(contains("1.21.0..", "2.0.0"));
        assert!(contains("1.19.0", "1.19.0") && !contains("1.19.0", "1.19.1"));
        assert!(contains("..", "1.0.0"));
    }

    #[test]
    fn ranges_print_as_they_parse_and_empty_ones_are_refused() {
        for text in ["1.17.0..=1.20.1", "..1.17.0", "1.21.0..", "1.19.0", "..", "..=1.20.1"] {
            assert_eq!(text.parse::<VersionRange>().unwrap().to_string(), text);
        }
        for bad in
            ["1.20.0..1.17.0", "1.19.0..1.19.0", "1.19.0..=", "..=", "x..", "1.17.0...1.20.0"]
        {
            assert!(bad.parse::<VersionRange>().is_err(), "{bad}");
        }
    }
}
