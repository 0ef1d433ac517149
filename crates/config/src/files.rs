//! Files that come in, packed or not.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use serde::de::DeserializeOwned;
use servecast_types::message;
use servecast_workload::{KnownFormat, TELLING_BYTES, known_format};

use crate::error::{Failure, quoted, reason};
use crate::lines::{LONGEST_LINE, Lines};

/// The largest file that is read as a whole, in bytes.
const LARGEST: u64 = 1 << 30;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTANDARD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Whether a path stands for standard input or output.
pub fn is_standard_stream(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// What messages call an input.
pub fn input_name(path: &Path) -> String {
    if is_standard_stream(path) { "standard input".to_owned() } else { path.display().to_string() }
}

/// Opens a file, or standard input for `-`, and unpacks what its first bytes say is packed.
pub fn open(path: &Path) -> Result<Box<dyn BufRead>, Failure> {
    if is_standard_stream(path) {
        let stdin = BufReader::with_capacity(1 << 16, io::stdin());
        return unpacked(stdin).map_err(|error| cannot_read(path, &error));
    }
    let file = open_file(path)?;
    unpacked(BufReader::with_capacity(1 << 16, file)).map_err(|error| cannot_read(path, &error))
}

/// What a file is by how it begins, if that is known; standard input cannot be read twice.
pub fn format_of(path: &Path) -> Option<KnownFormat> {
    if is_standard_stream(path) || !fs::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
        return None;
    }
    let mut start = Vec::new();
    // What cannot be unpacked to its end has told enough.
    let _ = open(path).ok()?.take(TELLING_BYTES as u64).read_to_end(&mut start);
    known_format(&start)
}

/// The bytes of a file.
pub fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    whole(path, open_file(path)?)
}

/// The text of a file, unpacked if it is packed.
pub fn read_unpacked_text(path: &Path) -> Result<String, Failure> {
    String::from_utf8(whole(path, open(path)?)?)
        .map_err(|error| Failure::input(&error.utf8_error()).about(path.display().to_string()))
}

/// Everything that is in an input.
fn whole(path: &Path, input: impl Read) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    input.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| cannot_read(path, &error))?;
    if bytes.len() as u64 > LARGEST {
        let size = LARGEST >> 20;
        return Err(Failure::user(format!("cannot read {}: it has more than {size} MiB", quoted(path))));
    }
    Ok(bytes)
}

/// What a TOML file says; what is wrong with it is said with its line.
pub fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let text = read_text(path)?;
    toml::from_str(&text).map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        let problem = message!("line {}: {}", line as u64, error.message().replace('\n', " "));
        Failure::user(problem).about(quoted(path))
    })
}

/// The text of a file.
pub fn read_text(path: &Path) -> Result<String, Failure> {
    String::from_utf8(read(path)?)
        .map_err(|error| Failure::input(&error.utf8_error()).about(path.display().to_string()))
}

#[expect(clippy::disallowed_methods, reason = "settings name files, which are opened here and nowhere else")]
fn open_file(path: &Path) -> Result<File, Failure> {
    let file = File::open(path).map_err(|error| cannot_read(path, &error))?;
    let metadata = file.metadata().map_err(|error| cannot_read(path, &error))?;
    if metadata.is_dir() {
        return Err(Failure::user(format!("cannot read {}: it is a directory", quoted(path)))
            .with_hint("name a file in it"));
    }
    Ok(file)
}

fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::user(reason(error)).about(format!("cannot read `{}`", input_name(path)));
    match std::env::current_dir() {
        Ok(folder) if error.kind() == io::ErrorKind::NotFound && path.is_relative() => {
            failure.with_hint(format!("the path is relative to {}", folder.display()))
        }
        _ => failure,
    }
}

/// Data that are unpacked as they are read; errors say what is wrong with them.
struct Packed<R> {
    data: R,
    name: &'static str,
}

impl<R: Read> Read for Packed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.data.read(out).map_err(|error| {
            let name = self.name;
            let problem = match error.kind() {
                io::ErrorKind::UnexpectedEof => format!("the {name} data ends too early: the file is cut off"),
                io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::Other => format!(
                    "the {name} data is damaged here, or something else follows it ({error}): unpack the file, and give what is \
                     right of it"
                ),
                _ => return error,
            };
            io::Error::new(error.kind(), problem)
        })
    }
}

fn unpacked(mut reader: impl BufRead + 'static) -> io::Result<Box<dyn BufRead>> {
    // A pipe may deliver its first bytes one by one.
    let mut start = Vec::new();
    reader.by_ref().take(ZSTANDARD.len() as u64).read_to_end(&mut start)?;
    let (is_gzip, is_zstandard) = (start.starts_with(&GZIP), start.starts_with(&ZSTANDARD));
    let whole = io::Cursor::new(start).chain(reader);
    let unpacked: Box<dyn BufRead> = if is_gzip {
        let data = Packed { data: MultiGzDecoder::new(whole), name: "gzip" };
        Box::new(BufReader::with_capacity(1 << 16, data))
    } else if is_zstandard {
        let data = Packed { data: zstd::Decoder::with_buffer(whole)?, name: "Zstandard" };
        Box::new(BufReader::with_capacity(1 << 16, data))
    } else {
        Box::new(whole)
    };
    Ok(Box::new(Lines::new(unpacked, LONGEST_LINE)))
}
