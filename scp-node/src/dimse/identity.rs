//! What this program calls itself towards peers and in files. Source: PS3.7 §A.2.1, §D.3.3.2; PS3.10 §7.1.

/// The application context of DICOM, the only one there is. PS3.7 §A.2.1.
pub const APPLICATION_CONTEXT: &str = "1.2.840.10008.3.1.1.1";
/// Implementation class UID: the arc of UUID-derived UIDs, a number drawn once for this program. PS3.7 §D.3.3.2.
pub const IMPLEMENTATION_CLASS: &str = "2.25.302457338405498262105671230541889713204";
/// Implementation version name. PS3.7 §D.3.3.2.4.
pub const IMPLEMENTATION_VERSION: &str = concat!("SCP_NODE_", env!("CARGO_PKG_VERSION"));

// VR SH. PS3.5 §6.2.
const _: () = assert!(IMPLEMENTATION_VERSION.len() <= 16, "a version name has at most 16 characters");
