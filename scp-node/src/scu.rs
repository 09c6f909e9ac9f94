//! Asking an archive: association, C-ECHO, C-FIND and C-MOVE on Study Root, and what archives differ in.
//!
//! Input: an archive's answers, which are not trusted: identifiers go through [`crate::images::walk`], answers about
//! another patient are dropped. Output: typed listings. What is done with them is decided in [`crate::fetch`].
//! Unsupported: Patient Root and C-GET, which Aria does not offer.

pub mod archive;
pub mod association;
pub mod explain;
pub mod inquiry;
pub mod listing;
pub mod query;
pub mod resolver;

pub use archive::{Archive, Echo, FindOutcome, MoveOutcome};
pub use association::{Association, Peer};
pub use inquiry::Inquiry;
pub use listing::{ListedImage, ListedPlan, ListedSeries};
pub use resolver::plan_by_uid;

/// Verification SOP class. PS3.4 §A.4.
pub const VERIFICATION: &str = "1.2.840.10008.1.1";
/// Study Root Query/Retrieve – FIND. PS3.4 §C.6.2.
pub const STUDY_ROOT_FIND: &str = "1.2.840.10008.5.1.4.1.2.2.1";
/// Study Root Query/Retrieve – MOVE. PS3.4 §C.6.2.
pub const STUDY_ROOT_MOVE: &str = "1.2.840.10008.5.1.4.1.2.2.2";
