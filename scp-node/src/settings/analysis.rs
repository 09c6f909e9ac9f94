//! `[analysis]`: how `qatrack_ext` runs pylinac and where it keeps results. The service itself does not use it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{home, seconds, wrong};
use crate::error::Result;

/// `[analysis]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnalysisSettings {
    /// Python interpreter that has pylinac 3.20 or newer, such as `/opt/pylinac/bin/python`; without it, the one that
    /// asks. QATrack+ 3.1.1 pins an older pylinac in its own environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub python: Option<PathBuf>,
    /// Directory of results, reports and plots. The web server's account and the service's must both write here.
    pub cache: PathBuf,
    /// Seconds that one analysis may take; then its process is ended.
    pub timeout_s: f64,
    /// Seconds after which a composite test gives what there is, so that no web server ends its request (gunicorn in
    /// QATrack+'s own container does so after 30 s); the analysis goes on and the next evaluation has its result.
    pub answer_within_s: f64,
    /// Days for which results are kept after their last use.
    pub keep_days: u32,
}

impl Default for AnalysisSettings {
    fn default() -> Self {
        Self {
            python: None,
            cache: home().join("analysis"),
            timeout_s: 120.0,
            answer_within_s: 25.0,
            keep_days: 90,
        }
    }
}

impl AnalysisSettings {
    pub(super) fn check(&self) -> Result<()> {
        if !self.cache.is_absolute() {
            let what = format!("`{}` is not an absolute path", self.cache.display());
            return Err(wrong("analysis.cache", what));
        }
        // A relative path would mean another interpreter in every working directory; mod_wsgi's is `/`.
        if let Some(python) = self.python.as_ref().filter(|python| !python.is_absolute()) {
            let what = format!("`{}` is not an absolute path", python.display());
            return Err(wrong("analysis.python", what));
        }
        if self.keep_days == 0 {
            return Err(wrong("analysis.keep_days", "must be 1 or more".into()));
        }
        seconds("analysis.timeout_s", self.timeout_s)?;
        seconds("analysis.answer_within_s", self.answer_within_s)
    }
}
