//! The file of samples, written while they are taken: what was seen of a run that is interrupted,
//! or ends with its machine, is there.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use pdlab_leak::csv::CsvWriter;
use pdlab_leak::sample::Sample;

use super::ReproError;

/// A file that samples are added to, or none.
#[derive(Debug)]
pub struct SampleFile {
    file: Option<(PathBuf, CsvWriter<BufWriter<File>>)>,
}

impl SampleFile {
    /// Begins `path` anew; without it, samples are dropped.
    ///
    /// # Errors
    /// [`ReproError::Write`].
    pub fn create(path: Option<&Path>) -> Result<Self, ReproError> {
        let begin = |path: &Path| {
            let csv = File::create(path).and_then(|file| CsvWriter::new(BufWriter::new(file)));
            csv.map(|csv| (path.to_owned(), csv)).map_err(|source| unwritten(path, source))
        };
        Ok(Self { file: path.map(begin).transpose()? })
    }

    /// Adds `samples`, whole lines only, and sees to it that other programs can read them.
    ///
    /// # Errors
    /// [`ReproError::Write`].
    pub fn add(&mut self, samples: &[Sample]) -> Result<(), ReproError> {
        let Some((path, csv)) = &mut self.file else { return Ok(()) };
        let written = samples.iter().try_for_each(|sample| csv.write(sample));
        written.and_then(|()| csv.flush()).map_err(|source| unwritten(path, source))
    }
}

fn unwritten(path: &Path, source: io::Error) -> ReproError {
    ReproError::Write { file: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_there_as_soon_as_they_are_added() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("samples.csv");
        let sample = Sample { process: "decode-0".into(), ..Sample::default() };
        let mut file = SampleFile::create(Some(&path)).unwrap();
        for count in 1..4 {
            file.add(std::slice::from_ref(&sample)).unwrap();
            let text = std::fs::read(&path).unwrap();
            assert_eq!(pdlab_leak::csv::read(&text[..]).unwrap().len(), count);
        }
    }

    #[test]
    fn no_file_is_no_error_and_a_wrong_one_is() {
        SampleFile::create(None).unwrap().add(&[Sample::default()]).unwrap();
        let error = SampleFile::create(Some(Path::new("/no/such/dir/x.csv"))).unwrap_err();
        assert!(error.to_string().contains("/no/such/dir/x.csv"), "{error}");
    }
}
