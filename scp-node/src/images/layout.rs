//! Where objects lie: values from the network become path parts that stay inside the root, on every file system.
//!
//! Input: patient IDs, plan labels, UIDs, dates as a sender wrote them; nothing in them is trusted. Output: relative
//! paths whose every component is legal on NTFS and ext4. No I/O.
//!
//! Two different values never share a component, on case-insensitive file systems either: [`part`] is injective even
//! after lower-casing (for values that are cut, up to SHA-256).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use chrono::{NaiveDate, NaiveTime};
use sha2::{Digest, Sha256};

use crate::names::Uid;

/// Longest component before it is cut and hashed. Justification: an everyday path stays far below the 260 characters that many
/// Windows programs can open; one of a long patient ID, a long label and a long UID is about as long by itself, and does not.
const PART_MAX: usize = 64;
/// How much of a cut component stays readable.
const PART_KEPT: usize = 40;

/// Directories of our own begin with an underscore, which [`part`] never lets through in front.
pub const INCOMING: &str = "_incoming";
/// Sessions whose plan's label is not known yet.
pub const UNRESOLVED: &str = "_unresolved";
/// Instances that came again with other bytes.
pub const KEPT: &str = "_kept";
/// The catalog's directory.
pub const CATALOG: &str = "_catalog";
/// The directory of RT Plans, beside the dates of their images.
pub(super) const PLAN: &str = "_plan";
/// The plan's directory of objects that name no plan at all.
const NO_PLAN: &str = "_no_plan";
/// The patient's directory of objects without a patient ID.
const NO_PATIENT: &str = "_no_patient";
/// The date's directory of images without a date.
const NO_DATE: &str = "_no_date";

/// One path component for one value.
///
/// `A-Za-z0-9.-` and inner `_` stay, all else becomes `%XX` of its UTF-8 bytes; so do a leading `_` or `.`, a trailing
/// dot, and the first letter of Windows' reserved names. A value with lower-case letters gets `~` and a hexadecimal
/// mask of which letters are lower-case, after an `m`; one longer than 64 characters is cut and gets `~~` and 32 hexadecimal
/// digits of its SHA-256. An empty value is `%`.
pub fn part(value: &str) -> String {
    let mut text = String::with_capacity(value.len() + 8);
    let bytes = value.as_bytes();
    let reserved = is_reserved(value);
    for (n, &byte) in bytes.iter().enumerate() {
        let first = n == 0;
        let last = n + 1 == bytes.len();
        let stays = match byte {
            b'A'..=b'Z' | b'a'..=b'z' => !(first && reserved),
            b'0'..=b'9' | b'-' => true,
            b'_' => !first,
            b'.' => !first && !last,
            _ => false,
        };
        if stays {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    if text.is_empty() {
        return "%".into();
    }
    if let Some(mask) = case_mask(&text) {
        // A digit after it would make it another name's short one on NTFS: `WL10MV~3`.
        text.push_str("~m");
        text.push_str(&mask);
    }
    if text.len() > PART_MAX {
        let digest = hex(&Sha256::digest(bytes));
        let kept: String = text.chars().take(PART_KEPT).collect();
        // The cut may not end inside an escape, or at a dot.
        let kept = match kept.rfind('%') {
            Some(at) if at + 3 > kept.len() => &kept[..at],
            _ => kept.as_str(),
        };
        return format!("{}~~{}", kept.trim_end_matches('.'), &digest[..32]);
    }
    text
}

/// The value that [`part`] made this component of; `None` when it was cut, or is none of ours.
pub fn unpart(component: &str) -> Option<String> {
    if component.starts_with('_') || component.contains("~~") {
        return None;
    }
    let text = component.split('~').next()?;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' if text.len() == 1 => {}
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

/// Which letters are lower-case, as hexadecimal digits of four letters each; `None` when none is.
///
/// The hexadecimal digits of an escape are upper-case and no letters of the value, so they are passed over.
fn case_mask(text: &str) -> Option<String> {
    let mut mask = String::new();
    let (mut nibble, mut bits, mut any) = (0u8, 0, false);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            bytes.next();
            bytes.next();
        } else if byte.is_ascii_alphabetic() {
            nibble = nibble << 1 | u8::from(byte.is_ascii_lowercase());
            any |= byte.is_ascii_lowercase();
            bits += 1;
            if bits == 4 {
                let _ = write!(mask, "{nibble:X}");
                (nibble, bits) = (0, 0);
            }
        }
    }
    if bits > 0 {
        let _ = write!(mask, "{nibble:X}");
    }
    any.then_some(mask)
}

/// Whether Windows takes the name for a device, with any extension. Source: Microsoft, "Naming Files, Paths, and Namespaces".
fn is_reserved(value: &str) -> bool {
    let stem = value.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
    match stem.as_str() {
        "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$" => true,
        _ => match stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT")) {
            Some(rest) => {
                matches!(rest, "0" | "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9" | "¹" | "²" | "³")
            }
            None => false,
        },
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The first eight hexadecimal digits of a value's SHA-256: short names of series, and what logs call a patient.
pub fn short_hash(value: &str) -> String {
    hex(Sha256::digest(value.as_bytes()).get(..4).unwrap_or_default())
}

/// A path as logs may show it: our own directories and the file's name stay, what was made of patient IDs and labels is
/// a hash.
pub fn for_log(root: &Path, path: &Path) -> PathBuf {
    let Ok(below) = path.strip_prefix(root) else { return path.into() };
    let mut parts: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
    let file = parts.pop_if(|part| part.ends_with(".dcm"));
    let (ours, foreign) = match parts.first().map(AsRef::as_ref) {
        Some(INCOMING | UNRESOLVED | CATALOG) => (parts.len(), false),
        Some(KEPT) => (1, parts.len() > 1),
        first => (0, first.is_some()),
    };
    let mut shown = root.to_path_buf();
    shown.extend(parts.iter().take(ours).map(AsRef::as_ref));
    if foreign {
        shown.push(short_hash(&parts.join("/")));
    }
    shown.extend(file.as_deref());
    shown
}

/// What decides where a session lies.
#[derive(Debug, Clone, Copy)]
pub struct SessionKey<'a> {
    /// (0010,0020) as sent.
    pub patient_id: &'a str,
    /// SOP Instance UID of the plan that the images refer to.
    pub plan_uid: Option<&'a Uid>,
    /// (300A,0002) of that plan, once it is known.
    pub plan_label: Option<&'a str>,
    /// (0020,000E)
    pub series_uid: &'a str,
    /// Acquisition date, content date where that is absent.
    pub date: Option<NaiveDate>,
    /// Acquisition time, content time where that is absent.
    pub time: Option<NaiveTime>,
}

impl SessionKey<'_> {
    /// The session's directory below the root.
    ///
    /// `<PatientID>/<RTPlanLabel>/<YYYY-MM-DD>/<HHMMSS>_<8 hex of the series UID>`; while the plan's label is unknown,
    /// `_unresolved/<16 hex of patient, plan, series and date>`.
    pub fn directory(&self) -> PathBuf {
        let label = match (self.plan_uid, self.plan_label) {
            (_, Some(label)) => part(label),
            (None, None) => NO_PLAN.into(),
            (Some(plan), None) => {
                let date = self.date.map(|d| d.to_string()).unwrap_or_default();
                let key = format!("{}\0{plan}\0{}\0{date}", self.patient_id, self.series_uid);
                let digest = hex(&Sha256::digest(key.as_bytes()));
                return [UNRESOLVED, &digest[..16]].iter().collect();
            }
        };
        let date = self.date.map_or_else(|| NO_DATE.to_owned(), |d| d.format("%Y-%m-%d").to_string());
        let time = self.time.map_or_else(|| "_".to_owned(), |t| t.format("%H%M%S").to_string());
        let session = format!("{time}_{}", short_hash(self.series_uid));
        [patient_part(self.patient_id), label, date, session].iter().collect()
    }
}

/// The directory of an RT Plan: beside its label's dates.
pub fn plan_directory(patient_id: &str, label: Option<&str>) -> PathBuf {
    let label = label.map_or_else(|| NO_PLAN.to_owned(), part);
    [patient_part(patient_id), label, PLAN.to_owned()].iter().collect()
}

fn patient_part(patient_id: &str) -> String {
    if patient_id.is_empty() { NO_PATIENT.into() } else { part(patient_id) }
}

/// `RI.<SOPInstanceUID>.dcm`; the prefix is PyMedPhys's and Varian's custom.
pub fn file_name(prefix: &str, instance: &Uid) -> String {
    format!("{prefix}.{instance}.dcm")
}

/// A path below the root as the catalog holds it: with slashes, so that it means the same on every system.
pub(super) fn slashed(below: &Path) -> String {
    let parts: Vec<_> = below.components().map(|c| c.as_os_str().to_string_lossy()).collect();
    parts.join("/")
}

/// The way back, with this system's separators.
pub(super) fn native(slashed: &str) -> PathBuf {
    Path::new(slashed).components().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Component;

    fn is_legal(component: &str) -> bool {
        !component.is_empty()
            && component.len() <= 110
            && !component.ends_with(['.', ' '])
            && !component.starts_with(['_', '.'])
            && component.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-%~".contains(&b))
            && !is_reserved(component)
    }

    #[test]
    fn a_path_of_the_catalog_reads_back_with_the_separators_of_this_system() {
        let path: PathBuf = ["QA_WL", "WL_10MV", "2026-11-20"].iter().collect();
        assert_eq!(slashed(&path), "QA_WL/WL_10MV/2026-11-20");
        assert_eq!(native("QA_WL/WL_10MV/2026-11-20").as_os_str(), path.as_os_str());
    }

    #[test]
    fn a_path_in_a_log_names_no_patient_and_no_plan() {
        let root = Path::new("root");
        for path in [
            "QA_WL/WL_10MV/2026-11-20/070203_ab/RI.1.2.3.dcm",
            "QA_WL",
            "QA_WL/WL_10MV/_plan",
            "_kept/QA_WL/WL_10MV/2026-11-20/070203_ab/RI.1.2.3.0123456789abcdef.dcm",
        ] {
            let shown = for_log(root, &root.join(path)).display().to_string();
            assert!(!shown.contains("QA_WL") && !shown.contains("WL_10MV"), "{shown}");
            assert_eq!(shown.contains("1.2.3"), path.contains("1.2.3"), "{shown}");
        }
        for path in ["_incoming/7.part", "_unresolved/0123456789abcdef/RI.1.2.3.dcm", "_catalog/plans.jsonl"]
        {
            assert_eq!(for_log(root, &root.join(path)), root.join(path));
        }
        assert_eq!(for_log(root, Path::new("elsewhere")), Path::new("elsewhere"));
    }

    #[test]
    fn plain_values_stay_as_they_are_and_hostile_ones_are_escaped() {
        let cases = [
            ("QA_TB_WL", "QA_TB_WL"),
            ("WL-10.5", "WL-10.5"),
            ("WL 10MV", "WL%2010MV"),
            ("..", "%2E%2E"),
            (".", "%2E"),
            ("../../ETC", "%2E.%2F..%2FETC"),
            ("A/B", "A%2FB"),
            ("A\\B", "A%5CB"),
            ("A\0B", "A%00B"),
            ("CON", "%43ON"),
            ("NUL.TXT", "%4EUL.TXT"),
            ("DOT.", "DOT%2E"),
            ("_incoming", "%5Fincoming~mFF"),
            ("100%", "100%25"),
            ("A~B", "A%7EB"),
            ("", "%"),
            ("Arc1", "Arc1~m3"),
            ("ARC1", "ARC1"),
            ("ÄÖ", "%C3%84%C3%96"),
        ];
        for (value, expected) in cases {
            assert_eq!(part(value), expected, "{value:?}");
            assert!(is_legal(&part(value)), "{value:?}");
        }
    }

    #[test]
    fn names_that_differ_by_case_only_never_share_a_directory() {
        let names = ["wl", "WL", "Wl", "wL"];
        let parts: std::collections::BTreeSet<_> = names.iter().map(|n| part(n).to_lowercase()).collect();
        assert_eq!(parts.len(), names.len());
    }

    #[test]
    fn sixty_four_characters_of_utf8_stay_short() {
        let long = "Ä".repeat(64);
        assert!(part(&long).len() <= 80);
        assert_ne!(part(&long), part(&format!("{long}Ö")));
    }

    #[test]
    fn a_session_lies_by_patient_label_date_time_and_series() {
        let plan = Uid::new("1.2.3").unwrap();
        let mut key = SessionKey {
            patient_id: "QA_TB_WL",
            plan_uid: Some(&plan),
            plan_label: Some("WL_10MV"),
            series_uid: "1.2.3.4",
            date: NaiveDate::from_ymd_opt(2026, 11, 21),
            time: NaiveTime::from_hms_opt(7, 2, 3),
        };
        let expected: PathBuf =
            ["QA_TB_WL", "WL_10MV", "2026-11-21", &format!("070203_{}", short_hash("1.2.3.4"))]
                .iter()
                .collect();
        assert_eq!(key.directory(), expected);
        key.plan_label = None;
        assert_eq!(key.directory().components().next(), Some(Component::Normal(UNRESOLVED.as_ref())));
        key.plan_uid = None;
        assert!(key.directory().starts_with("QA_TB_WL/_no_plan"));
    }

    /// Source: Microsoft, "Naming Files, Paths, and Namespaces", "Short vs. Long Names".
    fn may_be_a_short_name(component: &str) -> bool {
        let stem = component.split('.').next().unwrap_or_default();
        stem.len() <= 8 && stem.rsplit_once('~').is_some_and(|(_, n)| n.bytes().all(|b| b.is_ascii_digit()))
    }

    proptest! {
        #[test]
        fn no_component_may_be_the_short_name_of_another_on_ntfs(value in "[a-bA-B0-9._%~]{0,9}|\\PC{0,5}") {
            prop_assert!(!may_be_a_short_name(&part(&value)), "{:?} -> {:?}", value, part(&value));
        }

        #[test]
        fn every_value_becomes_one_legal_component(value in "\\PC{0,70}|[.a-cA-C/\\\\_%~ ]{0,12}") {
            prop_assert!(is_legal(&part(&value)), "{:?} -> {:?}", value, part(&value));
        }

        #[test]
        fn different_values_differ_even_in_lower_case(a in "[.a-bA-B_%~]{0,6}|\\PC{0,5}", b in "[.a-bA-B_%~]{0,6}|\\PC{0,5}") {
            prop_assume!(a != b);
            prop_assert_ne!(part(&a).to_lowercase(), part(&b).to_lowercase());
        }

        #[test]
        fn a_component_that_was_not_cut_tells_its_value(value in "[.a-bA-B_%~ /]{0,12}|\\PC{0,12}") {
            let component = part(&value);
            prop_assume!(!component.contains("~~"));
            prop_assert_eq!(unpart(&component), Some(value));
        }

        #[test]
        fn a_session_never_leaves_the_root(patient in any::<String>(), label in proptest::option::of(any::<String>()), series in any::<String>()) {
            let plan = Uid::new("1.2").unwrap();
            let key = SessionKey { patient_id: &patient, plan_uid: Some(&plan), plan_label: label.as_deref(), series_uid: &series, date: None, time: None };
            for component in key.directory().components() {
                prop_assert!(matches!(component, Component::Normal(_)));
            }
        }
    }
}
