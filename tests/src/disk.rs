//! Disks that fill up, and disks that hang.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::peers::require;

/// A small disk of its own; unmounted on drop.
#[derive(Debug)]
pub struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// `None` where this account may not mount.
    ///
    /// # Panics
    /// When it must be there (`REQUIRE_PEERS`) and is not.
    pub fn mount(mebibytes: u32) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(directory.path()).output();
        require("the right to mount a tmpfs", mounted.ok().filter(|m| m.status.success()))?;
        Some(Self(directory))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Makes a library for `LD_PRELOAD` of one C file. `None` without a C compiler.
///
/// # Panics
/// When it must be there (`REQUIRE_PEERS`) and is not.
pub fn preloaded(work: &Path, source: &str) -> Option<PathBuf> {
    let library = work.join(Path::new(source).file_stem()?).with_extension("so");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .args([source, "-ldl"])
        .status()
        .ok()
        .filter(|status| status.success());
    require("a C compiler (cc)", built)?;
    Some(library)
}

/// A library for `LD_PRELOAD` that lets changes wait while a file exists, see `tests/bench/icom-stall.c`.
#[derive(Debug)]
pub struct HangingDisk {
    library: PathBuf,
    prefix: PathBuf,
    flag: PathBuf,
}

impl HangingDisk {
    /// Changes to paths that begin with `prefix` wait while it hangs; `work` takes the library. `None` without a C compiler.
    ///
    /// # Panics
    /// When it must be there (`REQUIRE_PEERS`) and is not.
    pub fn new(work: &Path, prefix: &Path) -> Option<Self> {
        let library = preloaded(work, concat!(env!("CARGO_MANIFEST_DIR"), "/bench/icom-stall.c"))?;
        Some(Self { library, prefix: prefix.to_owned(), flag: work.join("disk-hangs") })
    }

    /// What the program on this disk is started with.
    pub fn variables(&self) -> [(&'static str, &Path); 3] {
        [("LD_PRELOAD", &self.library), ("STALL_DIR", &self.prefix), ("STALL_FLAG", &self.flag)]
    }

    /// From now on it hangs.
    ///
    /// # Panics
    /// When it cannot be told.
    pub fn hang(&self) {
        std::fs::write(&self.flag, b"").unwrap();
    }

    /// From now on it works.
    ///
    /// # Panics
    /// When it did not hang.
    pub fn work(&self) {
        std::fs::remove_file(&self.flag).unwrap();
    }
}
