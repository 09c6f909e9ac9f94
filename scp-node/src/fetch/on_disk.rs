//! Which instances are on disk indeed: a row in the catalog, and the file that it names, which somebody may have removed.

use std::collections::HashSet;

use crate::error::Result;
use crate::images::Catalog;
use crate::names::Uid;

/// Those of these instances that the catalog has and whose files are there.
pub(super) fn on_disk<'a>(
    catalog: &Catalog,
    instances: impl IntoIterator<Item = &'a Uid>,
) -> Result<HashSet<Uid>> {
    let look = || -> rusqlite::Result<HashSet<Uid>> {
        let mut statement = catalog.connection().prepare_cached(
            "SELECT s.directory, i.file_name FROM instances i JOIN sessions s ON s.id = i.session_id
             WHERE i.sop_instance_uid = ?1",
        )?;
        let mut there = HashSet::new();
        for uid in instances {
            let mut rows = statement.query([uid.as_str()])?;
            let Some(row) = rows.next()? else { continue };
            let (directory, file): (String, String) = (row.get(0)?, row.get(1)?);
            // A disk that cannot be looked into has not lost the file.
            if catalog.root().join(directory).join(file).try_exists().unwrap_or(true) {
                there.insert(uid.clone());
            }
        }
        Ok(there)
    };
    look().map_err(|e| catalog.error(e))
}
