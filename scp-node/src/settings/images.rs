//! `[images]`: where objects lie and how they get there.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{home, wrong};
use crate::error::Result;

/// `[images]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageSettings {
    /// Directory of all objects and of the catalog; one file system. Never below a web server's media directory.
    pub root: PathBuf,
    /// What is safe before a store is acknowledged.
    pub durability: Durability,
    /// Which storage SOP classes are taken.
    pub storage: StorageClasses,
    /// Bytes that must stay free on the disk; a store that would go below is refused as out of resources.
    pub keep_free_bytes: u64,
    /// Bytes that all objects together may take; 0 is no quota.
    pub quota_bytes: u64,
}

impl Default for ImageSettings {
    fn default() -> Self {
        Self {
            root: home().join("images"),
            durability: Durability::Full,
            storage: StorageClasses::Rt,
            keep_free_bytes: 256 << 20,
            quota_bytes: 0,
        }
    }
}

/// What is safe before C-STORE is answered with success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Temporary file, fsync, rename, directory fsync, catalog: survives a power cut.
    Full,
    /// Temporary file, rename, catalog: survives the death of the process, not of the machine.
    Rename,
}

/// Which storage SOP classes are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StorageClasses {
    /// RT Image and RT Plan, Varian's private RT Plan among them.
    Rt,
    /// These, and RT Dose, RT Structure Set, CT, CR and Secondary Capture.
    Qa,
    /// Every storage SOP class.
    All,
}

impl ImageSettings {
    pub(super) fn check(&self) -> Result<()> {
        if !self.root.is_absolute() {
            return Err(wrong("images.root", format!("`{}` is not an absolute path", self.root.display())));
        }
        Ok(())
    }
}
