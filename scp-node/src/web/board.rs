//! The board: each part of the service posts how it is, in one sentence, and what it counts.
//!
//! Input: posts and numbers of any thread. Output: the same to whoever shows them. Nobody who posts waits for anybody who looks.
//! A part posts whenever its state changes, and may repeat itself: the time since when a level lasts is kept.
//!
//! ```
//! use scp_node::web::{Board, Level};
//! let board = Board::default();
//! board.post("TRF logs", Some("4299"), Level::Warning, "fourth day without a fetch: the share refuses the password");
//! board.gauge("scp_node_trf_records", "TRF records in the index.", &[("linac", "4299")], 12.0);
//! ```
//!
//! Sentences are shown to people and returned by `/healthz`: no patient, no password, no file content in them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use serde::Serialize;

/// How a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It works.
    Good,
    /// Somebody should look at it during the day; the service does its work.
    Warning,
    /// It does not do its work: `/healthz` answers 503.
    Broken,
}

impl Level {
    /// For people and for `/metrics`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warning => "warning",
            Self::Broken => "broken",
        }
    }
}

/// What a part says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Post {
    /// Which part, as people call it: `receiver`, `iCom`, `TRF logs`.
    pub part: String,
    /// Which linac it is about, by its name in the settings; `None`: the whole part.
    pub linac: Option<String>,
    /// How it is.
    pub level: Level,
    /// One sentence: what is, and what to do about it.
    pub sentence: String,
    /// Since when it has this level.
    pub since: DateTime<Utc>,
}

/// A number for `/metrics`.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// Prometheus's name; a counter's ends in `_total`.
    pub name: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// Whether it only grows.
    pub counts: bool,
    /// Values by their labels.
    pub values: BTreeMap<Vec<(&'static str, String)>, f64>,
}

/// See the module. Cheap to clone: all clones are one board.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    posts: BTreeMap<(Option<String>, String), Post>,
    metrics: BTreeMap<&'static str, Metric>,
}

impl Board {
    /// Says how a part is, in place of what it said before.
    pub fn post(&self, part: &str, linac: Option<&str>, level: Level, sentence: impl Into<String>) {
        let key = (linac.map(str::to_owned), part.to_owned());
        let mut state = self.lock();
        let before = state.posts.get(&key).filter(|post| post.level == level);
        let since = before.map_or_else(Utc::now, |post| post.since);
        let post =
            Post { part: key.1.clone(), linac: key.0.clone(), level, sentence: sentence.into(), since };
        state.posts.insert(key, post);
    }

    /// Takes a part's post away, such as that of a part that ended as it should.
    pub fn withdraw(&self, part: &str, linac: Option<&str>) {
        self.lock().posts.remove(&(linac.map(str::to_owned), part.to_owned()));
    }

    /// Sets a number that may grow and shrink.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)], value: f64) {
        *self.lock().value(name, help, false, labels) = value;
    }

    /// Adds to a number that only grows; its name should end in `_total`.
    pub fn count(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)], more: f64) {
        *self.lock().value(name, help, true, labels) += more;
    }

    /// All posts, the whole service's before those of linacs.
    #[must_use]
    pub fn posts(&self) -> Vec<Post> {
        self.lock().posts.values().cloned().collect()
    }

    /// All numbers, by name.
    #[must_use]
    pub fn metrics(&self) -> Vec<Metric> {
        self.lock().metrics.values().cloned().collect()
    }

    /// A panic in another holder leaves nothing half done here.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn value(
        &mut self,
        name: &'static str,
        help: &'static str,
        counts: bool,
        labels: &[(&'static str, &str)],
    ) -> &mut f64 {
        let metric = self.metrics.entry(name).or_insert_with(|| Metric {
            name,
            help,
            counts,
            values: BTreeMap::new(),
        });
        let labels = labels.iter().map(|(label, value)| (*label, (*value).to_owned())).collect();
        metric.values.entry(labels).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_since_when_a_level_lasts_is_kept_while_it_lasts() {
        let board = Board::default();
        board.post("TRF logs", Some("4299"), Level::Warning, "second day without a fetch");
        let first = board.posts().remove(0);
        board.post("TRF logs", Some("4299"), Level::Warning, "third day without a fetch");
        let second = board.posts().remove(0);
        assert_eq!((second.since, second.sentence.as_str()), (first.since, "third day without a fetch"));
        board.post("TRF logs", Some("4299"), Level::Good, "fetched 12 records");
        assert!(board.posts()[0].since >= first.since && board.posts()[0].level == Level::Good);
        board.withdraw("TRF logs", Some("4299"));
        assert!(board.posts().is_empty());
    }

    #[test]
    fn clones_are_one_board_and_counters_add_up() {
        let board = Board::default();
        let clone = board.clone();
        clone.count("a_total", "As.", &[("linac", "1")], 2.0);
        clone.count("a_total", "As.", &[("linac", "1")], 3.0);
        board.gauge("b", "B.", &[], 7.0);
        board.gauge("b", "B.", &[], 5.0);
        let values: Vec<f64> = board.metrics().iter().flat_map(|m| m.values.values().copied()).collect();
        assert_eq!(values, [5.0, 5.0]);
    }
}
