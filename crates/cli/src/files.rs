//! Files that go out, whole or not at all, and what is said on standard output and error.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use servecast_report::{printable, printable_styled};
use tempfile::NamedTempFile;

pub(crate) use servecast_config::files::*;

use crate::error::{Failure, quoted, reason};

/// Packs several times faster than the default of `gzip`, to files a third larger: what a run writes costs little beside it.
const GZIP_LEVEL: u32 = 1;

/// The default of the `zstd` command.
const ZSTANDARD_LEVEL: i32 = 3;

/// Most links that lead to one another.
const MOST_LINKS: usize = 40;

/// Where a path leads: symbolic links are followed, also to what is not there yet, as when a shell writes to one.
fn followed(path: &Path) -> io::Result<PathBuf> {
    if let Ok(target) = fs::canonicalize(path) {
        return Ok(target);
    }
    // A pipe behind `/dev/stdout` is there, but has no path.
    if fs::metadata(path).is_ok() {
        return Ok(path.to_owned());
    }
    let mut target = path.to_owned();
    for _ in 0..MOST_LINKS {
        // What is no link, or cannot be asked, is the end.
        let Ok(link) = fs::read_link(&target) else { return Ok(target) };
        target = target.parent().unwrap_or(Path::new("")).join(link);
    }
    Err(io::Error::other("too many symbolic links lead to one another"))
}

/// What two paths of the same file have in common, whether it is there yet or not; `None` for a device or a pipe,
/// which takes what several writers have to say.
pub(crate) fn identity(path: &Path) -> Option<PathBuf> {
    let path = &followed(path).unwrap_or_else(|_| path.to_owned());
    if let Ok(metadata) = fs::metadata(path) {
        return metadata.is_file().then(|| path.clone());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    Some(folder.join(path.file_name().unwrap_or_default()))
}

/// Refuses an output path at which nothing can be put, before any work is done for it.
pub(crate) fn check_output(path: &Path) -> Result<(), Failure> {
    match Target::of(path)? {
        Target::InPlace(_) => Ok(()),
        // A file without a name leaves nothing behind, whatever happens.
        Target::Replace(target) => {
            let file = tempfile::tempfile_in(existing_folder(path, &target)?);
            file.map(drop).map_err(|error| cannot_write(path, &error))
        }
    }
}

/// The same of a path that must not be one of those that are read; `flag` names it.
pub(crate) fn check_output_beside(
    path: &Path,
    flag: &str,
    inputs: impl IntoIterator<Item = impl AsRef<Path>>,
) -> Result<(), Failure> {
    check_output(path)?;
    let Some(output) = identity(path) else { return Ok(()) };
    if inputs.into_iter().any(|input| identity(input.as_ref()).is_some_and(|input| input == output)) {
        let message = format!("{flag} is {}, which is read", quoted(path));
        return Err(Failure::user(message).with_hint("give it another name"));
    }
    Ok(())
}

/// A file that appears at its path when it is complete.
///
/// Until [`OutputFile::commit`] it is a temporary file in the same folder, which goes away when this is dropped. Its
/// name says how it is packed: `.gz`, `.zst`, or not at all.
pub(crate) struct OutputFile {
    path: PathBuf,
    writer: Packer,
    /// The temporary file and its later name; `None` for a device or a pipe, which is written as it comes.
    rename: Option<(tempfile::TempPath, PathBuf)>,
}

impl OutputFile {
    pub(crate) fn create(path: &Path) -> Result<Self, Failure> {
        let (file, rename) = match Target::of(path)? {
            Target::InPlace(target) => {
                let file = File::options().write(true).open(target);
                (file.map_err(|error| cannot_write(path, &error))?, None)
            }
            Target::Replace(target) => {
                let (file, temporary) = temporary(path, &target)?.into_parts();
                (file, Some((temporary, target)))
            }
        };
        let writer = Packer::new(path, file).map_err(|error| cannot_write(path, &error))?;
        Ok(Self { path: path.to_owned(), writer, rename })
    }

    /// Puts the file, now complete, at its path.
    pub(crate) fn commit(self) -> Result<(), Failure> {
        let Self { path, writer, rename } = self;
        let complete = || {
            writer.finish()?;
            match rename {
                Some((temporary, target)) => temporary.persist(target).map_err(|error| error.error),
                None => Ok(()),
            }
        };
        complete().map_err(|error| Failure::write(quoted(&path), &error))
    }

    /// Whether it is a device or a pipe, in which something is left even if the run fails.
    pub(crate) fn is_in_place(&self) -> bool {
        self.rename.is_none()
    }

    /// An error in writing, with the name of the file.
    pub(crate) fn failure(&self, error: &io::Error) -> Failure {
        Failure::write(quoted(&self.path), error)
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.as_write().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.as_write().flush()
    }
}

/// What a path names.
enum Target {
    /// A file, there or not, with symbolic links followed: it is replaced.
    Replace(PathBuf),
    /// A device or a pipe, which cannot be.
    InPlace(PathBuf),
}

impl Target {
    fn of(path: &Path) -> Result<Self, Failure> {
        if is_standard_stream(path) {
            return Err(Failure::user("`-` is no path of an output file")
                .with_hint("/dev/stdout is one; for the report, --format json prints it"));
        }
        let target = followed(path).map_err(|error| cannot_write(path, &error))?;
        let names_a_directory = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        match fs::metadata(&target) {
            Ok(metadata) if metadata.is_dir() => Err(is_directory(path)),
            Ok(metadata) if metadata.is_file() => {
                if metadata.permissions().readonly() {
                    return Err(Failure::user(format!("cannot write {}: it is read-only", quoted(path))));
                }
                Ok(Self::Replace(target))
            }
            Ok(_) => Ok(Self::InPlace(target)),
            Err(_) if names_a_directory => Err(is_directory(path)),
            Err(_) => Ok(Self::Replace(target)),
        }
    }
}

fn is_directory(path: &Path) -> Failure {
    Failure::user(format!("cannot write {}: it is a directory", quoted(path))).with_hint("name a file in it")
}

pub(crate) fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::user(format!("cannot write {}: {}", quoted(path), reason(error)))
}

/// An empty file beside `target`, with the permissions that a new file would have.
fn temporary(path: &Path, target: &Path) -> Result<NamedTempFile, Failure> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".servecast-").suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // The umask takes away from it what it takes away from any new file.
        builder.permissions(
            fs::metadata(target)
                .map_or_else(|_| fs::Permissions::from_mode(0o666), |metadata| metadata.permissions()),
        );
    }
    builder.tempfile_in(existing_folder(path, target)?).map_err(|error| cannot_write(path, &error))
}

fn existing_folder<'a>(path: &Path, target: &'a Path) -> Result<&'a Path, Failure> {
    let folder = match target.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => return Err(is_directory(path)),
    };
    if folder.exists() {
        return Ok(folder);
    }
    let message = format!("cannot write {}: the folder {} does not exist", quoted(path), quoted(folder));
    Err(Failure::user(message).with_hint(format!("mkdir -p {}", folder.display())))
}

/// Packs what is written, as the name of the file says.
enum Packer {
    Plain(BufWriter<File>),
    /// Rows are short, and every call of the encoder has its price.
    Gzip(BufWriter<GzEncoder<File>>),
    Zstandard(zstd::Encoder<'static, BufWriter<File>>),
}

impl Packer {
    fn new(path: &Path, file: File) -> io::Result<Self> {
        let buffered = |file| BufWriter::with_capacity(1 << 16, file);
        Ok(match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz") => Self::Gzip(BufWriter::with_capacity(
                1 << 16,
                GzEncoder::new(file, Compression::new(GZIP_LEVEL)),
            )),
            Some("zst") => Self::Zstandard(zstd::Encoder::new(buffered(file), ZSTANDARD_LEVEL)?),
            _ => Self::Plain(buffered(file)),
        })
    }

    fn as_write(&mut self) -> &mut dyn Write {
        match self {
            Self::Plain(writer) => writer,
            Self::Gzip(writer) => writer,
            Self::Zstandard(writer) => writer,
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Plain(mut writer) => writer.flush(),
            Self::Gzip(writer) => writer.into_inner()?.finish().map(drop),
            Self::Zstandard(writer) => writer.finish()?.flush(),
        }
    }
}

/// Writes text to standard output, with nothing in it that commands a terminal but the styles of tables.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(printable_styled(text).as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::write("standard output", &error))
}

/// Writes a line to standard error.
pub(crate) fn note(text: &str) {
    tell(&format!("{text}\n"));
}

/// Writes text to standard error, with nothing in it that commands a terminal; a closed one keeps nobody from working.
pub(crate) fn tell(text: &str) {
    let _ = io::stderr().lock().write_all(printable(text).as_bytes());
}
