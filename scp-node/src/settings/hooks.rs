//! `[hooks]`: commands of the site that the service runs.

use serde::{Deserialize, Serialize};

use super::{seconds, wrong};
use crate::error::Result;

/// `[hooks]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HookSettings {
    /// Program and arguments, run when a session of images has been quiet for `settle_s`; its directory follows as the
    /// last argument, or takes the place of `{directory}`. No shell is involved. Empty: nothing is run.
    pub session_complete: Vec<String>,
    /// Seconds without a new image after which a session counts as complete.
    pub settle_s: f64,
    /// Commands that may run at once; others wait their turn.
    pub at_once: usize,
    /// Seconds that a command may take; then it is ended.
    pub timeout_s: f64,
}

impl Default for HookSettings {
    fn default() -> Self {
        Self { session_complete: Vec::new(), settle_s: 10.0, at_once: 1, timeout_s: 300.0 }
    }
}

impl HookSettings {
    pub(super) fn check(&self) -> Result<()> {
        if self.session_complete.first().is_some_and(|program| program.trim().is_empty()) {
            let what = "the program's name is empty; write [\"program\", \"argument\", …] or leave it out";
            return Err(wrong("hooks.session_complete", what.into()));
        }
        if !(1..=64).contains(&self.at_once) {
            return Err(wrong("hooks.at_once", format!("{} is not between 1 and 64", self.at_once)));
        }
        seconds("hooks.settle_s", self.settle_s)?;
        seconds("hooks.timeout_s", self.timeout_s)
    }
}
