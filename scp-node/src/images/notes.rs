//! The plans that archives told us, one JSON object a line: the one thing that no object on disk says.
//!
//! Every plan whose label becomes known is noted, under the catalog's write lock, before its row. What a full disk, a crash or a power
//! cut leaves of a line costs that line and no other.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::layout;
use super::moves::Moves;
use super::rows::PlanRecord;
use crate::error::{Error, Result};
use crate::names::Uid;

/// Where they are.
pub(super) fn file(root: &Path) -> PathBuf {
    root.join(layout::CATALOG).join("plans.jsonl")
}

/// Adds a plan; taken back with the moves of its transaction.
pub(super) fn add(root: &Path, plan: &PlanRecord, moves: &mut Moves) -> Result<()> {
    let path = file(root);
    let line = serde_json::to_string(plan).map_err(|e| Error::io(&path)(e.into()))?;
    let append = |moves: &mut Moves| -> std::io::Result<()> {
        let mut file = File::options().create(true).read(true).append(true).open(&path)?;
        let length = file.metadata()?.len();
        moves.grows(&path, length);
        let begin = if ends_within_a_line(&mut file, length)? { "\n" } else { "" };
        // Half a line that a full disk leaves is cut off with what is taken back.
        file.write_all(format!("{begin}{line}\n").as_bytes())
    };
    append(moves).map_err(Error::io(&path))
}

fn ends_within_a_line(file: &mut File, length: u64) -> std::io::Result<bool> {
    let Some(last) = length.checked_sub(1) else { return Ok(false) };
    let mut byte = [0];
    file.seek(SeekFrom::Start(last))?;
    file.read_exact(&mut byte)?;
    Ok(byte != *b"\n")
}

/// What was told last of each plan.
pub(super) fn read(root: &Path) -> Result<BTreeMap<Uid, PlanRecord>> {
    let path = file(root);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(Error::io(&path)(error)),
    };
    let mut plans = BTreeMap::new();
    let mut damaged = 0;
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice::<PlanRecord>(line) {
            Ok(plan) => {
                plans.insert(plan.plan_uid.clone(), plan);
            }
            Err(_) => damaged += 1,
        }
    }
    if damaged > 0 {
        let file = path.display();
        tracing::warn!(lines = damaged, %file, "notes of plans that cannot be read are passed over; archives tell them again");
    }
    Ok(plans)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::Catalog;

    fn plan(uid: &str, label: &str) -> PlanRecord {
        let plan_uid = Uid::new(uid).unwrap();
        PlanRecord { plan_uid, patient_id: "QA".into(), label: label.into(), dated: None }
    }

    fn catalog() -> (tempfile::TempDir, Catalog) {
        let root = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(root.path()).unwrap();
        (root, catalog)
    }

    #[test]
    fn half_a_line_costs_no_other_plan() {
        // In an ASCII letter, and within one of two bytes.
        for cut in [5, 13] {
            let (root, mut catalog) = catalog();
            catalog.remember_plan(&plan("1.2.1", "A")).unwrap();
            let whole = std::fs::read(file(root.path())).unwrap();
            catalog.remember_plan(&plan("1.2.2", "MÜLL")).unwrap();
            let mut bytes = std::fs::read(file(root.path())).unwrap();
            let at = bytes.iter().position(|b| *b == 0xC3).unwrap() + 1;
            bytes.truncate(if cut == 5 { whole.len() + 5 } else { at });
            std::fs::write(file(root.path()), bytes).unwrap();
            catalog.remember_plan(&plan("1.2.3", "C")).unwrap();
            let labels: Vec<_> = read(root.path()).unwrap().into_values().map(|plan| plan.label).collect();
            assert_eq!(labels, ["A", "C"]);
        }
    }

    #[test]
    fn a_plan_whose_transaction_fails_is_not_noted() {
        let (root, mut catalog) = catalog();
        catalog.remember_plan(&plan("1.2.1", "A")).unwrap();
        let before = std::fs::read(file(root.path())).unwrap();
        let fails = "CREATE TRIGGER t BEFORE INSERT ON plans BEGIN SELECT RAISE(ABORT, 'no'); END";
        catalog.connection().execute_batch(fails).unwrap();
        catalog.remember_plan(&plan("1.2.2", "B")).unwrap_err();
        assert_eq!(std::fs::read(file(root.path())).unwrap(), before);
    }
}
