//! Where objects lie, what is known about them, and how they get there.
//!
//! `layout` (values to paths), `walk` and `head` (bytes to values) know no files; `catalog` is what readers use, in the
//! values of `rows` from the tables of `schema`; `store` is the writing side, with `spool` for temporary files, `quota` for what
//! they may take and `commit` for who commits; `filing` is the one way to give an object a place, `labels` moves sessions whose
//! plan's label becomes known, `notes` keeps what archives told of plans, `moves` is what makes files and rows change together,
//! `held` waits for files that others have open, `reindex` is the way back from files to rows.

pub mod catalog;
mod commit;
pub mod filing;
pub mod head;
mod held;
mod labels;
pub mod layout;
mod moves;
mod notes;
mod quota;
pub mod reindex;
pub(crate) mod rows;
mod schema;
mod spool;
pub mod store;
pub mod walk;

pub use catalog::Catalog;
pub use filing::Filed;
pub use head::Beam;
pub use quota::stored_bytes;
pub use rows::{Instance, PlanRecord, Session, SessionFilter, Totals};
pub use store::{Announced, Arrived, Refusal, Store};

#[cfg(test)]
mod tests;
