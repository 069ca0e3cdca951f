//! Small files of the system, read without trusting their length.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Bytes read of any file: the longest of those that matter has a few KiB.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Processes looked at. More than any machine that lends time runs; the rest is left out.
pub(super) const PROCESSES_MAX: usize = 16 << 10;

/// A file as text, cut off at [`FILE_BYTES_MAX`]. None if it can't be read.
pub(super) fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A file that holds one word.
pub(super) fn word(path: &Path) -> Option<String> {
    read(path).map(|text| text.trim().to_owned())
}

/// A file that holds one number.
pub(super) fn number<T: std::str::FromStr>(path: &Path) -> Option<T> {
    word(path)?.parse().ok()
}

/// At most so many names in a folder, sorted. None of a folder that can't be read.
pub(super) fn list(path: &Path, most: usize) -> Vec<String> {
    let entries = std::fs::read_dir(path).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.take(most).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_an_end_is_cut_off() {
        let read = read(Path::new("/dev/zero")).unwrap();
        assert_eq!(read.len() as u64, FILE_BYTES_MAX);
    }

    #[test]
    fn a_folder_of_too_many_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b", "a", "c"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(list(folder.path(), 3), ["a", "b", "c"]);
        assert_eq!(list(folder.path(), 2).len(), 2);
        assert_eq!(list(Path::new("/nowhere"), 2), [""; 0]);
    }
}
