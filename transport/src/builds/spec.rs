//! How a user names a UCX build.

use std::{fmt, path::PathBuf, str::FromStr};

use super::Error;

/// A UCX build as written on the command line or in a scenario file.
///
/// ```
/// use pdlab_transport::builds::BuildSpec;
///
/// let spec: BuildSpec = "1.19.0".parse()?;
/// assert_eq!(spec, BuildSpec::Version("1.19.0".into()));
/// # Ok::<(), pdlab_transport::builds::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BuildSpec {
    /// Fetched from the package index: a version, `1.19.0`, or the UCX of a NIXL, `nixl-0.7.1`.
    Version(String),
    /// The UCX that is installed on this machine: `system`.
    System,
    /// A directory with `libucp.so.0` in it, in its `lib` or `lib64`, or the library itself: `/opt/hpcx/ucx`.
    Path(PathBuf),
}

impl FromStr for BuildSpec {
    type Err = Error;

    /// A slash or a leading dot makes a path, a leading digit or `nixl-` what is fetched. Nothing is
    /// looked up yet.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "system" => Ok(Self::System),
            _ if text.contains('/') || text.starts_with('.') => Ok(Self::Path(text.into())),
            _ if text.starts_with(|c: char| c.is_ascii_digit()) || text.starts_with("nixl-") => {
                Ok(Self::Version(text.into()))
            }
            _ => Err(Error::BadSpec(text.into())),
        }
    }
}

impl fmt::Display for BuildSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => f.write_str(version),
            Self::System => f.write_str("system"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_parse_and_print_back() {
        for (text, spec) in [
            ("1.16.0", BuildSpec::Version("1.16.0".into())),
            ("nixl-0.7.1", BuildSpec::Version("nixl-0.7.1".into())),
            ("system", BuildSpec::System),
            ("/opt/hpcx/ucx", BuildSpec::Path("/opt/hpcx/ucx".into())),
            ("./ucx", BuildSpec::Path("./ucx".into())),
            ("..", BuildSpec::Path("..".into())),
        ] {
            let parsed: BuildSpec = text.parse().unwrap();
            assert_eq!(parsed, spec);
            assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_forms_named() {
        for text in ["", "latest", "v1.19.0", "hpcx"] {
            let error = text.parse::<BuildSpec>().unwrap_err().to_string();
            assert!(
                error.contains("1.19.0") && error.contains("system") && error.contains("./ucx"),
                "{error}"
            );
        }
    }
}
