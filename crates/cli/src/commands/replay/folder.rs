//! The folder of `--output-dir`, which one run has for itself.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Failure, quoted, reason};

/// A folder that nobody else writes results into for as long as this is there. If it was made for the run and is empty
/// in the end, it goes away.
///
/// It is the folder itself that is locked, so nothing is left of that, however the process ends. Where folders cannot
/// be locked, two runs may both have one.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    is_new: bool,
    _lock: Option<File>,
}

impl Folder {
    /// Makes the folder if it is not there, and takes it.
    pub(super) fn claim(path: &Path) -> Result<Self, Failure> {
        let is_new = match fs::create_dir(path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => {
                let message = format!("cannot make the folder {}: {}", quoted(path), reason(&error));
                return Err(Failure::user(message));
            }
        };
        let lock = File::open(path).ok();
        if let Some(Err(TryLockError::WouldBlock)) = lock.as_ref().map(File::try_lock) {
            // The other has it, even if it was made here.
            let message = format!("cannot write into {}: another run is writing into it", quoted(path));
            return Err(Failure::user(message).with_hint("name another folder"));
        }
        Ok(Self { path: path.to_owned(), is_new, _lock: lock })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_new {
            // It has files by now if the run went well.
            let _ = fs::remove_dir(&self.path);
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn one_run_has_a_folder_and_leaves_nothing_behind() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("out");
        let first = Folder::claim(&path).unwrap();
        let refused = Folder::claim(&path).unwrap_err();
        assert!(refused.message().to_string().contains("another run is writing into it"), "{refused:?}");
        assert!(path.exists(), "it is still the first one's");
        drop(first);
        assert!(!path.exists(), "nothing was written");
        let second = Folder::claim(&path).unwrap();
        fs::write(path.join("report.json"), "{}").unwrap();
        drop(second);
        assert!(path.join("report.json").exists());
        drop(Folder::claim(&path).unwrap());
        assert!(path.exists());
    }
}
