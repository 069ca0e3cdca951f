//! The input files of a job, as the caller hands them over.

use std::collections::BTreeSet;
use std::sync::Arc;

use potluck_unit::{Limits, PathError, check_path};

use crate::message::{FILES_MAX, FILES_MAX_BYTES};
use crate::preview1::OUT;

/// A file that every unit of a runner finds and none can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFile {
    /// Where, from the root on, with `/` between components.
    pub path: String,
    /// What is in it; shared, so that a job's files are in this process once.
    pub bytes: Arc<[u8]>,
}

impl InputFile {
    /// What it counts for against [`FILES_MAX_BYTES`].
    pub(crate) fn size(&self) -> u64 {
        (self.path.len() + self.bytes.len()) as u64
    }
}

/// Why files can't be the inputs of a job. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilesError {
    /// A path that can't be.
    #[error("`{path}` can't be the path of an input file: {error}")]
    Path {
        /// Which.
        path: String,
        /// Why.
        error: PathError,
    },
    /// Two files, or a file and a folder, of one path.
    #[error("two input files need the path `{path}`")]
    Twice {
        /// Which.
        path: String,
    },
    /// A file where the unit's own folder is.
    #[error("`{path}` can't be the path of an input file: `/{OUT}` is the unit's own folder")]
    InOut {
        /// Which.
        path: String,
    },
    /// Too many.
    #[error("{found} input files are more than the {FILES_MAX} allowed")]
    TooMany {
        /// How many.
        found: usize,
    },
    /// Too much.
    #[error(
        "input files of {found} bytes with their paths are more than the {FILES_MAX_BYTES} allowed"
    )]
    TooLarge {
        /// How many bytes.
        found: u64,
    },
}

/// Checks input files against their bounds, against each other and against the limits.
pub fn check_files(files: &[InputFile], limits: &Limits) -> Result<(), FilesError> {
    if files.len() > FILES_MAX {
        return Err(FilesError::TooMany { found: files.len() });
    }
    let found = files.iter().map(InputFile::size).sum();
    if found > FILES_MAX_BYTES {
        return Err(FilesError::TooLarge { found });
    }
    let mut paths = BTreeSet::new();
    for InputFile { path, .. } in files {
        let named = |error| FilesError::Path { path: path.clone(), error };
        check_path(path).map_err(named)?;
        if limits.out_max_bytes > 0 && path.split('/').next() == Some(OUT) {
            return Err(FilesError::InOut { path: path.clone() });
        }
        if !paths.insert(path.as_str()) {
            return Err(FilesError::Twice { path: path.clone() });
        }
    }
    let folders =
        paths.iter().flat_map(|path| path.match_indices('/').map(|(end, _)| &path[..end]));
    match folders.into_iter().find(|folder| paths.contains(folder)) {
        Some(path) => Err(FilesError::Twice { path: path.to_owned() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(paths: &[&str]) -> Vec<InputFile> {
        let file =
            |path: &&str| InputFile { path: (*path).to_owned(), bytes: Arc::from(&b"x"[..]) };
        paths.iter().map(file).collect()
    }

    #[test]
    fn paths_that_lead_elsewhere_or_to_each_other_are_refused() {
        let check = |paths: &[&str]| check_files(&files(paths), &Limits::DEFAULT);
        assert_eq!(check(&["a", "b/c", "b/d", "a!", "out/x"]), Ok(()));
        for paths in [
            &["/a"][..],
            &["../a"],
            &["a/./b"],
            &["a//b"],
            &[""],
            &["a\0"],
            &["a", "a"],
            &["a/b", "a"],
        ] {
            assert!(check(paths).is_err(), "{paths:?}");
        }
        let limits = Limits { out_max_bytes: 1, ..Limits::DEFAULT };
        let error = check_files(&files(&["out/x"]), &limits).unwrap_err();
        assert!(error.to_string().contains("/out"), "{error}");
        assert_eq!(check_files(&files(&["outer/out"]), &limits), Ok(()));
    }

    #[test]
    fn one_file_or_byte_too_many_is_refused() {
        let names: Vec<String> = (0..=FILES_MAX).map(|n| n.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(check_files(&files(&names[1..]), &Limits::DEFAULT), Ok(()));
        let found = FILES_MAX + 1;
        assert_eq!(
            check_files(&files(&names), &Limits::DEFAULT),
            Err(FilesError::TooMany { found })
        );
        let large = |length: u64| {
            let bytes = vec![0; usize::try_from(length).unwrap()].into();
            check_files(&[InputFile { path: "a".to_owned(), bytes }], &Limits::DEFAULT)
        };
        assert_eq!(large(FILES_MAX_BYTES - 1), Ok(()));
        assert!(matches!(large(FILES_MAX_BYTES), Err(FilesError::TooLarge { .. })));
    }
}
