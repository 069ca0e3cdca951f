//! Makes the units of a job: one row of arguments and standard input for each entry of an array, a
//! file's lines, or files.

use std::path::{Path, PathBuf};

use potluck_unit::{InputTable, Row};

use crate::exit::Failure;

/// What the units of a job are made of. At most one of the three sources.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Units")]
pub(crate) struct RowArgs {
    /// One unit for each number: `0-99`, `0-990:10` (every tenth, ends included) or `1,5,7`. The
    /// number replaces each {} in ARGS, or is appended as last argument if there is none
    #[arg(long, value_name = "NUMBERS", group = "source")]
    pub(crate) array: Option<String>,
    /// One unit for each line of a file. The line replaces each {} in ARGS, or is appended as last
    /// argument if there is none
    #[arg(long, value_name = "FILE", group = "source")]
    pub(crate) each_line: Option<PathBuf>,
    /// One unit for each file that matches, in the order of their names. The file's bytes are the
    /// unit's standard input; its name replaces each {} in ARGS
    #[arg(long, value_name = "GLOB", group = "source")]
    pub(crate) each_file: Option<String>,
    /// With --each-line: give the line, ended by a newline, as standard input instead of appending it
    #[arg(long, requires = "each_line")]
    pub(crate) stdin: bool,
    /// One unit, with this file's bytes as standard input; `-` for our own standard input
    #[arg(long, value_name = "FILE", group = "source")]
    pub(crate) stdin_file: Option<PathBuf>,
    /// The program's arguments
    #[arg(last = true, value_name = "ARGS")]
    pub(crate) args: Vec<String>,
}

impl RowArgs {
    /// Reads what there is to read and makes the rows.
    pub(crate) fn rows(&self) -> Result<Vec<Row>, Failure> {
        let rows = if let Some(array) = &self.array {
            let numbers = parse_array(array).map_err(Failure::input)?;
            numbers.iter().map(|number| self.row(&number.to_string())).collect()
        } else if let Some(path) = &self.each_line {
            self.rows_of_lines(&read(path)?, path)?
        } else if let Some(pattern) = &self.each_file {
            self.rows_of_files(pattern)?
        } else {
            let stdin = self.stdin_file.as_deref().map(read).transpose()?.unwrap_or_default();
            vec![Row { args: self.args.clone(), stdin }]
        };
        let nul = rows.iter().position(|row| row.args.iter().any(|arg| arg.contains('\0')));
        match nul {
            None => Ok(rows),
            Some(unit) => Err(Failure::input(format!(
                "an argument of unit {unit} has a zero byte, which no program can be given; give it as \
                 standard input instead"
            ))),
        }
    }

    /// The arguments with `entry` in its place: at every `{}`, or at the end.
    fn row(&self, entry: &str) -> Row {
        let mut args = self.args_with(entry);
        if !self.has_place() {
            args.push(entry.to_owned());
        }
        Row { args, stdin: Vec::new() }
    }

    fn has_place(&self) -> bool {
        self.args.iter().any(|arg| arg.contains(PLACE))
    }

    fn args_with(&self, entry: &str) -> Vec<String> {
        self.args.iter().map(|arg| arg.replace(PLACE, entry)).collect()
    }

    fn rows_of_lines(&self, bytes: &[u8], path: &Path) -> Result<Vec<Row>, Failure> {
        let shown = path.display();
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        if bytes.is_empty() {
            let message =
                format!("{shown} has no lines, and each line makes one unit; give another file");
            return Err(Failure::input(message));
        }
        let row = |(number, line): (usize, &[u8])| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if self.stdin && !self.has_place() {
                return Ok(Row { args: self.args.clone(), stdin: [line, b"\n"].concat() });
            }
            let text = str::from_utf8(line).map_err(|_| {
                let number = number + 1;
                Failure::input(format!(
                    "line {number} of {shown} is not UTF-8 text, as arguments must be; give lines as \
                     standard input with --stdin"
                ))
            })?;
            if self.stdin {
                return Ok(Row { args: self.args_with(text), stdin: [line, b"\n"].concat() });
            }
            Ok(self.row(text))
        };
        bytes.split(|byte| *byte == b'\n').enumerate().map(row).collect()
    }

    fn rows_of_files(&self, pattern: &str) -> Result<Vec<Row>, Failure> {
        let found = glob::glob(pattern).map_err(|error| {
            Failure::input(format!("`{pattern}` is not a pattern of file names: {error}"))
        })?;
        let mut paths = found.collect::<Result<Vec<PathBuf>, _>>().map_err(|error| {
            Failure::input(format!("cannot look for files that match `{pattern}`: {error}"))
        })?;
        paths.retain(|path| path.is_file());
        paths.sort();
        if paths.is_empty() {
            let message = format!(
                "no file matches `{pattern}`; quote the pattern so that the shell leaves it alone"
            );
            return Err(Failure::input(message));
        }
        paths.iter().map(|path| self.row_of_file(path)).collect()
    }

    fn row_of_file(&self, path: &Path) -> Result<Row, Failure> {
        let stdin = read(path)?;
        if !self.has_place() {
            return Ok(Row { args: self.args.clone(), stdin });
        }
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
            let path = path.display();
            Failure::input(format!(
                "the name of {path} is not UTF-8 text, as arguments must be; rename it"
            ))
        })?;
        Ok(Row { args: self.args_with(name), stdin })
    }
}

/// Reads a file, or our own standard input for `-`.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let read = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    read.map_err(|error| {
        Failure::input(format!("cannot read {}: {error}; check the path", path.display()))
    })
}

/// The numbers that an array means, in the order written: ranges `first-last` or `first-last:step`
/// with both ends included, and single numbers, separated by commas.
fn parse_array(text: &str) -> Result<Vec<u64>, String> {
    parse_numbers(text, "--array")
}

/// Numbers as an option called `option` takes them, at most as many as a job may have units.
pub(crate) fn parse_numbers(text: &str, option: &str) -> Result<Vec<u64>, String> {
    let mut numbers = Vec::new();
    for part in text.split(',') {
        let (first, last, step) = parse_range(part.trim(), option)?;
        // One unit fewer than it makes: their number itself could be past the largest.
        let steps = (last - first) / step;
        let max = InputTable::UNITS_MAX;
        if steps.saturating_add(numbers.len() as u64) >= u64::from(max) {
            return Err(format!(
                "{option} {text} makes more than {max} units; split it into several jobs"
            ));
        }
        numbers.extend((0..=steps).map(|at| first + at * step));
    }
    Ok(numbers)
}

fn parse_range(part: &str, option: &str) -> Result<(u64, u64, u64), String> {
    let number = |text: &str| {
        text.parse::<u64>().map_err(|_| {
            let max = u64::MAX;
            format!("`{part}` in {option}: `{text}` is not a number from 0 to {max}; write 0-99, 0-990:10 or 1,5,7")
        })
    };
    let (ends, step) = match part.split_once(':') {
        Some((ends, step)) => (ends, number(step)?),
        None => (part, 1),
    };
    let (first, last) = match ends.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(ends)?, number(ends)?),
    };
    if step == 0 {
        return Err(format!("`{part}` in {option} never ends: the step must be 1 or more"));
    }
    if first > last {
        return Err(format!("`{part}` in {option} goes down: write the smaller number first"));
    }
    Ok((first, last, step))
}

/// Stands for the entry in the arguments.
const PLACE: &str = "{}";

#[cfg(test)]
mod tests {
    use super::*;

    fn with_args(args: &[&str]) -> RowArgs {
        RowArgs { args: args.iter().map(|arg| (*arg).to_owned()).collect(), ..RowArgs::default() }
    }

    fn lines(args: &[&str], text: &[u8]) -> Result<Vec<Row>, Failure> {
        with_args(args).rows_of_lines(text, Path::new("in.txt"))
    }

    fn args_of(rows: Vec<Row>) -> Vec<String> {
        rows.into_iter().map(|row| row.args.join(" ")).collect()
    }

    #[test]
    fn arrays_include_both_ends() {
        assert_eq!(parse_array("0-3"), Ok(vec![0, 1, 2, 3]));
        assert_eq!(parse_array("0-20:10"), Ok(vec![0, 10, 20]));
        assert_eq!(parse_array("0-19:10"), Ok(vec![0, 10]));
        assert_eq!(parse_array("1,5,7"), Ok(vec![1, 5, 7]));
        assert_eq!(parse_array("7, 0-1 ,7"), Ok(vec![7, 0, 1, 7]));
        assert_eq!(parse_array("5"), Ok(vec![5]));
    }

    #[test]
    fn arrays_reach_the_largest_number_and_not_past_it() {
        assert_eq!(
            parse_array(&format!("{}-{}:2", u64::MAX - 3, u64::MAX)),
            Ok(vec![u64::MAX - 3, u64::MAX - 1])
        );
        assert_eq!(parse_array(&format!("0-{}:{}", u64::MAX, u64::MAX)), Ok(vec![0, u64::MAX]));
        assert!(parse_array("18446744073709551616").unwrap_err().contains("18446744073709551616"));
    }

    #[test]
    fn arrays_of_more_units_than_a_job_may_have_are_refused_before_they_are_made() {
        assert_eq!(parse_array("1-1000000").map(|numbers| numbers.len()), Ok(1_000_000));
        for text in ["0-1000000", "1-1000000,5", &format!("0-{}", u64::MAX)] {
            assert!(parse_array(text).unwrap_err().contains("split"), "{text}");
        }
    }

    #[test]
    fn arrays_that_make_no_sense_are_refused() {
        for text in ["", ",", "1,", "a", "1-", "-1", "1-2-3", "1:2:3", "5-1", "0-9:0", "1.5"] {
            assert!(parse_array(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_entry_goes_to_every_place_or_to_the_end() {
        assert_eq!(with_args(&["--n={}", "x", "{}{}"]).row("7").args, ["--n=7", "x", "77"]);
        assert_eq!(with_args(&["a"]).row("7").args, ["a", "7"]);
        let array = RowArgs { array: Some("1,2".to_owned()), ..with_args(&["{}", "10"]) };
        assert_eq!(args_of(array.rows().unwrap()), ["1 10", "2 10"]);
    }

    #[test]
    fn line_ends_of_any_kind_are_no_part_of_the_line() {
        for text in ["a b\nc\n", "a b\nc", "a b\r\nc\r\n", "a b\r\nc"] {
            let rows = lines(&["x"], text.as_bytes()).unwrap();
            assert_eq!(args_of(rows), ["x a b", "x c"], "{text:?}");
        }
    }

    #[test]
    fn an_empty_line_is_an_entry_and_an_empty_file_an_error() {
        assert_eq!(args_of(lines(&["x{}"], b"a\n\nb\n").unwrap()), ["xa", "x", "xb"]);
        for text in [&b""[..], b"\n"] {
            assert!(lines(&[], text).unwrap_err().message.contains("no lines"), "{text:?}");
        }
    }

    #[test]
    fn lines_as_standard_input_end_in_a_newline_and_may_be_any_bytes() {
        let args = RowArgs { stdin: true, ..with_args(&["x"]) };
        let rows = args.rows_of_lines(b"\xff\r\nb", Path::new("in.txt")).unwrap();
        assert_eq!(rows[0], Row { args: vec!["x".to_owned()], stdin: b"\xff\n".to_vec() });
        assert_eq!(rows[1].stdin, b"b\n");
        assert!(lines(&["x"], b"a\n\xff\n").unwrap_err().message.contains("line 2"));
    }

    #[test]
    fn files_come_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.txt", "a.txt", "c.md"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let pattern = |end: &str| folder.path().join(end).display().to_string();
        let rows = with_args(&["{}"]).rows_of_files(&pattern("*.txt")).unwrap();
        assert_eq!(rows[0], Row { args: vec!["a.txt".to_owned()], stdin: b"a.txt".to_vec() });
        assert_eq!(args_of(rows), ["a.txt", "b.txt"]);
        let error = with_args(&[]).rows_of_files(&pattern("*.none")).unwrap_err();
        assert!(error.message.contains("no file matches"), "{error:?}");
        assert!(with_args(&[]).rows_of_files("***").is_err());
    }

    #[test]
    fn a_zero_byte_in_an_argument_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        std::fs::write(&path, b"a\nb\0c\n").unwrap();
        let args = RowArgs { each_line: Some(path), ..RowArgs::default() };
        assert!(args.rows().unwrap_err().message.contains("unit 1"));
    }

    #[test]
    fn no_source_is_one_unit() {
        assert_eq!(args_of(with_args(&["a", "{}"]).rows().unwrap()), ["a {}"]);
    }

    #[test]
    fn a_missing_file_is_bad_input_and_named() {
        let error = read(Path::new("/nowhere/at all")).unwrap_err();
        assert_eq!(error.exit, crate::exit::Exit::Input);
        assert!(error.message.contains("/nowhere/at all"));
    }
}
