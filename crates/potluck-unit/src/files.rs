//! The files that a unit leaves in `/out`: which paths they may have, and their exact bytes.
//!
//! ```text
//! files: count (u32) ‖ each: path length (u16) ‖ path ‖ length (u32) ‖ bytes
//! ```
//!
//! Numbers are little-endian. Files are sorted by the bytes of their paths, so that what was
//! written in another order is the same outcome.

use crate::Limits;

/// One file that a unit left in `/out`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutFile {
    /// Where it is below `/out`, with `/` between its components.
    pub path: String,
    /// All that is in it.
    pub bytes: Vec<u8>,
}

impl OutFile {
    /// 4,096 bytes, as on most systems.
    pub const PATH_BYTES_MAX: usize = 4096;
    /// 255 bytes for each component, as on most file systems.
    pub const NAME_BYTES_MAX: usize = 255;
    /// 64 components: whoever walks a tree may call itself for each.
    pub const DEPTH_MAX: usize = 64;
    /// What a file costs in the bytes of an outcome beside its path and its contents.
    pub(crate) const HEAD_BYTES: usize = 6;

    /// What this file takes of the quota that [`Limits::out_max_bytes`] is.
    pub fn cost(&self) -> u64 {
        (self.path.len() + self.bytes.len()) as u64
    }
}

/// Checks that `path` can name a file below a folder on any system and leads nowhere else.
pub fn check_path(path: &str) -> Result<(), PathError> {
    if path.len() > OutFile::PATH_BYTES_MAX {
        return Err(PathError::TooLong);
    }
    if path.split('/').count() > OutFile::DEPTH_MAX {
        return Err(PathError::TooDeep);
    }
    path.split('/').try_for_each(check_name)
}

/// Checks one component of a path.
fn check_name(name: &str) -> Result<(), PathError> {
    match name {
        "" | "." | ".." => Err(PathError::Component),
        name if name.contains('\0') => Err(PathError::Component),
        name if name.len() > OutFile::NAME_BYTES_MAX => Err(PathError::TooLong),
        _ => Ok(()),
    }
}

/// Why a path can't name a file. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A component is empty, `.` or `..`, or holds a zero byte.
    #[error("a part of it is empty, `.` or `..`, or holds a zero byte")]
    Component,
    /// The path has more than 4,096 bytes, or a component more than 255.
    #[error("it has more than 4096 bytes, or a part of it more than 255")]
    TooLong,
    /// More than 64 components.
    #[error("it has more than 64 parts")]
    TooDeep,
}

/// Appends the bytes of `files`, which are sorted and within their bounds.
pub fn write_files(files: &[OutFile], into: &mut Vec<u8>) {
    let number = |length: usize| u32::try_from(length).expect("files are bounded at 64 MiB");
    into.extend_from_slice(&number(files.len()).to_le_bytes());
    for OutFile { path, bytes } in files {
        let length = u16::try_from(path.len()).expect("paths are bounded at 4,096 bytes");
        into.extend_from_slice(&length.to_le_bytes());
        into.extend_from_slice(path.as_bytes());
        into.extend_from_slice(&number(bytes.len()).to_le_bytes());
        into.extend_from_slice(bytes);
    }
}

/// How many bytes [`write_files`] appends.
pub fn files_length(files: &[OutFile]) -> usize {
    let each = |file: &OutFile| OutFile::HEAD_BYTES + file.path.len() + file.bytes.len();
    4 + files.iter().map(each).sum::<usize>()
}

/// Reads files back; none if [`write_files`] would not have written these bytes, or if there is no
/// file at all.
pub fn read_files(bytes: &[u8]) -> Option<Vec<OutFile>> {
    let (count, mut rest) = bytes.split_first_chunk()?;
    let count = u32::from_le_bytes(*count);
    if count == 0 || count > Limits::OUT_FILES_MAX {
        return None;
    }
    let mut files: Vec<OutFile> = Vec::new();
    for _ in 0..count {
        let (length, tail) = rest.split_first_chunk()?;
        let (path, tail) = tail.split_at_checked(u16::from_le_bytes(*length).into())?;
        let (length, tail) = tail.split_first_chunk()?;
        let (bytes, tail) = tail.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let path = str::from_utf8(path).ok().filter(|path| check_path(path).is_ok())?;
        if files.last().is_some_and(|last| last.path.as_str() >= path) || lies_in_file(&files, path)
        {
            return None;
        }
        files.push(OutFile { path: path.to_owned(), bytes: bytes.to_vec() });
        rest = tail;
    }
    rest.is_empty().then_some(files)
}

/// Whether one of `files`, which are sorted, has the name of a folder that `path` goes through.
fn lies_in_file(files: &[OutFile], path: &str) -> bool {
    path.match_indices('/')
        .any(|(end, _)| files.binary_search_by(|file| file.path.as_str().cmp(&path[..end])).is_ok())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn file(path: &str, bytes: &[u8]) -> OutFile {
        OutFile { path: path.to_owned(), bytes: bytes.to_vec() }
    }

    fn bytes(files: &[OutFile]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_files(files, &mut bytes);
        assert_eq!(bytes.len(), files_length(files));
        bytes
    }

    #[test]
    fn files_read_back_from_their_bytes() {
        let files = [file("a", b""), file("a!", b"x"), file("b/c", b"\0\xff"), file("ü", b"y")];
        assert_eq!(read_files(&bytes(&files)), Some(files.to_vec()));
        let whole = bytes(&files);
        for end in 0..whole.len() {
            assert_eq!(read_files(&whole[..end]), None, "{end}");
        }
        assert_eq!(read_files(&[&whole[..], &[0]].concat()), None);
    }

    #[test]
    fn what_no_honest_worker_writes_is_refused() {
        let x = |path: &str| file(path, b"x");
        for files in [
            vec![],
            vec![x("b"), x("a")],
            vec![x("a"), x("a")],
            vec![x("a"), x("a!"), x("a/b")],
            vec![x("a"), x("a/b/c")],
            vec![x("")],
            vec![x("/a")],
            vec![x("a/")],
            vec![x("a//b")],
            vec![x("./a")],
            vec![x("a/../b")],
            vec![x("a\0")],
            vec![x(&"n".repeat(256))],
            vec![x(&format!("{}a", "a/".repeat(64)))],
            vec![x(&[&"n".repeat(240)[..]; 18].join("/"))],
        ] {
            assert_eq!(read_files(&bytes(&files)), None, "{files:?}");
        }
        let mut not_text = bytes(&[x("a")]);
        not_text[6] = 0xff;
        assert_eq!(read_files(&not_text), None);
        // The claims above fail for the right reason: one byte or part less is taken.
        let longest = format!("{}/{}", [&"n".repeat(240)[..]; 16].join("/"), "n".repeat(240));
        assert_eq!(longest.len(), OutFile::PATH_BYTES_MAX);
        for path in [&longest, &"n".repeat(255), &format!("{}a", "a/".repeat(63))] {
            assert!(read_files(&bytes(&[x(path)])).is_some(), "{path}");
        }
        assert_eq!(read_files(&bytes(&[x(&(longest + "n"))])), None);
    }

    #[test]
    fn one_file_too_many_is_refused() {
        let many =
            |count: u32| (0..count).map(|n| file(&format!("{n:05}"), b"")).collect::<Vec<_>>();
        assert!(read_files(&bytes(&many(Limits::OUT_FILES_MAX))).is_some());
        assert!(read_files(&bytes(&many(Limits::OUT_FILES_MAX + 1))).is_none());
    }
}
