//! Where records lie: PyMedPhys's directories, with names that are legal on NTFS. No I/O.
//!
//! Input: names from Mosaiq and from headers, nothing in them is trusted. Output: relative paths that stay inside the root.
//! Source: PyMedPhys 0.41, `_trf/manage/index.py` and `_utilities/filesystem.py`; compared in `tests/tests/trf_pymedphys.rs`.
//! As there, a character that is not allowed is dropped, so that two names may share a directory; files never do, since
//! [`with_hash`] tells two records of one name apart and the index knows each by its hash.

use sha2::{Digest, Sha256};

use super::entry::{Entry, State, hex};

/// Records whose treatment is known.
pub const INDEXED: &str = "indexed";
/// Where extraction leaves records, by linac.
pub const TO_BE_INDEXED: &str = "to_be_indexed";
/// The database.
pub const DATABASE: &str = "index.sqlite";
/// PyMedPhys's index.
pub const PYMEDPHYS_INDEX: &str = "index.json";

/// Longest component. Mosaiq's longest patient (ID, last and first name) has about 80 characters; more is cut and hashed.
const MAX_CHARACTERS: usize = 80;
/// How much of a cut component stays.
const KEPT_CHARACTERS: usize = 64;

/// The directory of a record, relative to the root, with forward slashes.
pub fn directory(entry: &Entry) -> String {
    let flat = |state: State| match state {
        State::Review => "to_be_reviewed".to_owned(),
        state => state.word().to_owned(),
    };
    let (Some(facts), Some(treated), State::Indexed) = (&entry.facts, entry.treatments.first(), entry.state)
    else {
        return flat(if entry.state == State::Indexed { State::NoMosaiqRecordFound } else { entry.state });
    };
    let patient_id = treated.patient_id.as_deref().unwrap_or("None");
    let patient = format!("{patient_id}_{}_{}", treated.last_name, treated.first_name);
    let mode = if treated.qa_mode { "qa" } else { "clinical" };
    let field =
        format!("{}_{}_{}_{}", treated.field_id, facts.field_label, facts.field_name, treated.field_type);
    let time = format!("{}_{}", facts.local_time.format("%Y-%m-%d_%H%M%S"), facts.machine);
    let centre = entry.centre.as_deref().unwrap_or("unknown");
    [INDEXED, &safe(centre), &pymedphys(&patient), mode, &pymedphys(&field), &pymedphys(&time)].join("/")
}

/// A file name that tells apart two records of one name: `name_<8 hex>.trf`.
pub fn with_hash(name: &str, sha256: &str) -> String {
    let stem = name.strip_suffix(".trf").unwrap_or(name);
    format!("{stem}_{}.trf", sha256.get(..8).unwrap_or(sha256))
}

/// PyMedPhys's `make_a_valid_directory_name`, and then [`safe`].
pub fn pymedphys(text: &str) -> String {
    let kept = text.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.() ".contains(*c));
    safe(&kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>())
}

/// The one place where a name becomes a path component: legal on NTFS and ext4, never a device, never a way out.
///
/// What is legal stays as it is; illegal characters become `-`, a trailing dot or blank and the names of devices get `_`, what is too
/// long is cut and gets 8 digits of its SHA-256.
/// Source: Microsoft, "Naming Files, Paths, and Namespaces".
pub fn safe(text: &str) -> String {
    let illegal = |c: char| c.is_control() || "<>:\"/\\|?*".contains(c);
    let mut name: String = text.chars().map(|c| if illegal(c) { '-' } else { c }).collect();
    if name.chars().count() > MAX_CHARACTERS {
        let hash = hex(&Sha256::digest(text.as_bytes()));
        name = name.chars().take(KEPT_CHARACTERS).collect();
        name = format!("{name}~{}", hash.get(..8).unwrap_or_default());
    }
    if name.is_empty() || name.ends_with(['.', ' ']) {
        name.push('_');
    }
    if is_device(&name) || name.starts_with(' ') {
        name.insert(0, '_');
    }
    name
}

/// Whether Windows takes the name for a device, with any extension.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
    let numbered = |rest: &str| {
        matches!(rest, "¹" | "²" | "³") || (rest.len() == 1 && rest.bytes().all(|b| b.is_ascii_digit()))
    };
    match stem.as_str() {
        "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$" => true,
        other => ["COM", "LPT"].iter().any(|device| other.strip_prefix(device).is_some_and(numbered)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_legal(name: &str) -> bool {
        !name.is_empty()
            && !name.ends_with(['.', ' '])
            && !name.chars().any(|c| c.is_control() || "<>:\"/\\|?*".contains(c))
            && !is_device(name)
            && name.chars().count() <= MAX_CHARACTERS + 2
    }

    #[test]
    fn plain_names_stay_and_hostile_ones_are_made_harmless() {
        let cases = [
            ("QA0001_Phantom_Daily", "QA0001_Phantom_Daily"),
            ("12_1-1_AP G0_VMAT", "12_1-1_AP-G0_VMAT"),
            ("1_O'Brien_Zoë", "1_OBrien_Zo"),
            ("..", ".._"),
            ("../../etc/passwd", "....etcpasswd"),
            ("A\\..\\B", "A..B"),
            ("NUL", "_NUL"),
            ("com1.x", "_com1.x"),
            ("COM10", "COM10"),
            ("a.", "a._"),
            ("", "_"),
        ];
        for (value, expected) in cases {
            assert_eq!(pymedphys(value), expected, "{value:?}");
            assert!(is_legal(&pymedphys(value)), "{value:?}");
        }
        assert_eq!(safe("North Coast"), "North Coast");
        assert_eq!(safe("North/Coast"), "North-Coast");
    }

    #[test]
    fn two_records_of_one_name_get_two_names() {
        assert_eq!(with_hash("1_2.trf", "0123456789"), "1_2_01234567.trf");
    }

    proptest! {
        #[test]
        fn every_name_becomes_one_legal_component(value in any::<String>()) {
            prop_assert!(is_legal(&pymedphys(&value)), "{:?}", pymedphys(&value));
            prop_assert!(is_legal(&safe(&value)), "{:?}", safe(&value));
        }
    }
}
