//! The same files through PyMedPhys and through us. Needs `PYMEDPHYS_PYTHON`, an interpreter with PyMedPhys 0.41.
//!
//! Every disagreement is listed below with its reason; one that is not listed, or one that is listed but does not occur, fails.

use std::path::{Path, PathBuf};
use std::process::Command;

use trf_core::csv::{Dialect, write_pymedphys_header, write_table};
use trf_core::writer::{NewRecord, NewRow};
use trf_core::{Record, Version, items};

/// What PyMedPhys 0.41 does with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Pymedphys {
    /// The same text as we write, but for its header's dose, which is ten times too large if it is not 0; or both refuse.
    Agrees,
    /// As above, and couch angles cut to trunc((x / 10) / 0.1).
    CutsCouchAngle,
    /// Raises on a record that can be decoded.
    Raises(&'static str),
    /// Decodes what is no record.
    Accepts,
}
use Pymedphys::{Accepts, Agrees, CutsCouchAngle, Raises};

/// All files that PyMedPhys and we do not read alike.
const DISAGREEMENTS: &[(&str, Pymedphys, &str)] = &[
    ("v1_all_state_codes", Raises("ValueError: The conversion lookup list"), "unknown states stay numbers"),
    ("v1_couch_angles", CutsCouchAngle, "the couch angle is stored in whole degrees: 3 is 3, not 2"),
    ("v1_date_dot", Raises(PATTERN), "the date's separators are those of the host's culture"),
    ("v1_field_51_chars", Raises(PATTERN), "names have a length, not a largest one of 50 bytes"),
    ("v1_field_127_bytes", Raises(PATTERN), "as above"),
    ("v1_field_128_bytes", Raises(PATTERN), "lengths from 128 take two 7-bit groups"),
    ("v1_field_300_bytes", Raises(PATTERN), "as above"),
    ("v1_field_utf8", Raises(PATTERN), "names are UTF-8, not ASCII"),
    ("v1_machine_20_chars", Raises(PATTERN), "machine ids have a length, not a largest one of 16 bytes"),
    (
        "v1_mu_fraction",
        Raises("IndexError"),
        "a byte of the dose that is printable is no part of the machine id",
    ),
    ("v1_permuted_items", Raises("TypeError"), "items are decoded by id, not by position"),
    ("v1_truncated_final_row", Raises(CUT), "the complete rows are there, with a warning"),
    ("v3_truncated_final_row", Raises(CUT), "as above"),
    ("v1_unknown_wedge_code", Raises("ValueError: The conversion lookup list"), "unknown codes stay numbers"),
    ("v3_unknown_items_in_middle", Raises("KeyError: '4004_1'"), "unknown items stay raw under their ids"),
    ("v4_without_mlc_status", Raises("KeyError: 'Mlc Status"), "no item is needed to decode the others"),
];

/// PyMedPhys reads headers by a pattern.
const PATTERN: &str = "ValueError: Unexpected header content found";
/// PyMedPhys needs a whole last row.
const CUT: &str = "ValueError: buffer size must be a multiple of element size";

/// Converts each file of the directory given, or writes NAME.error.
const SCRIPT: &str = "
import contextlib, io, pathlib, sys
from pymedphys._trf.decode.trf2csv import trf2csv
for path in sorted(pathlib.Path(sys.argv[1]).glob('*.trf')):
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            trf2csv(path)
    except Exception as error:
        path.with_suffix('.error').write_text(type(error).__name__ + ': ' + str(error)[:200], encoding='utf-8')
";

#[test]
fn tables_and_headers_are_those_of_pymedphys_but_for_listed_disagreements() {
    let Some(python) = pymedphys() else { return };
    let directory = tempfile::tempdir().unwrap();
    let names = collect(directory.path());
    let status = Command::new(python).args(["-c", SCRIPT]).arg(directory.path()).status().unwrap();
    assert!(status.success(), "PyMedPhys did not run");
    let mut unlisted = Vec::new();
    for name in &names {
        let listed = DISAGREEMENTS.iter().find(|(n, ..)| n == name).map_or(Agrees, |(_, kind, _)| *kind);
        let found = compare(directory.path(), name);
        let same = match (found, listed) {
            (Raises(message), Raises(start)) => message.starts_with(start),
            _ => found == listed,
        };
        if !same {
            unlisted.push((name, found));
        }
    }
    assert!(unlisted.is_empty(), "not as listed: {unlisted:#?}");
    let occurred = |name: &str| names.iter().any(|n| n == name);
    let unused: Vec<_> = DISAGREEMENTS.iter().filter(|(n, ..)| !occurred(n)).collect();
    assert!(unused.is_empty() || crate::common::trf_data().is_none(), "listed, but not met: {unused:?}");
}

/// The interpreter to compare with; says so where there is none, and fails where there must be one.
fn pymedphys() -> Option<PathBuf> {
    let python = std::env::var_os("PYMEDPHYS_PYTHON").map(PathBuf::from);
    assert!(
        python.is_some() || std::env::var_os("REQUIRE_PEERS").is_none(),
        "PYMEDPHYS_PYTHON is not set, but REQUIRE_PEERS is"
    );
    if python.is_none() {
        crate::common::say("skipped: PYMEDPHYS_PYTHON is not set");
    }
    python
}

/// Copies the edge cases and two real records, and adds records that any machine can make. Gives their names.
///
/// All real records are compared with what PyMedPhys made of them in `decode_real.rs`; running it again takes a minute.
fn collect(directory: &Path) -> Vec<String> {
    for version in [Version::V1, Version::V2, Version::V3, Version::V4] {
        let name = format!("written_v{}.trf", version.number());
        std::fs::write(directory.join(name), written(version).to_bytes().unwrap()).unwrap();
    }
    if let Some(data) = crate::common::trf_data() {
        let edge = std::fs::read_dir(data.join("edge")).unwrap().map(|entry| entry.unwrap().path());
        let real = ["v1_service_20170419_2118", "v3_int4_d_abut"].map(|n| data.join(format!("trf/{n}.trf")));
        for path in edge.chain(real).filter(|path| path.extension().is_some_and(|e| e == "trf")) {
            std::fs::copy(&path, directory.join(path.file_name().unwrap())).unwrap();
        }
    }
    let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let mut names: Vec<_> = std::fs::read_dir(directory).unwrap().map(|e| stem(e.unwrap().path())).collect();
    names.sort();
    names
}

/// Every item, values of all signs and sizes, known codes, couch angles that PyMedPhys keeps.
fn written(version: Version) -> NewRecord {
    let mut new = NewRecord::agility(version);
    new.total_dose_tenth_mu = 1005.0;
    let value = |row: i32, item| match item {
        items::LINAC_STATE => [39, 41, 42, 45].into_iter().cycle().nth(row.unsigned_abs() as usize).unwrap(),
        items::WEDGE => row % 3,
        items::TABLE_ISOCENTRIC => 10 * (row % 30),
        _ => (row * 7919 + i32::from(item.item) * 104_729 + i32::from(item.part)) % 60_000 - 30_000,
    };
    new.rows = (0..50)
        .map(|row| NewRow {
            timestamp_ms: 1_580_454_000_000 + 40 * i64::from(row),
            values: new.items.iter().map(|item| value(row, *item)).collect(),
        })
        .collect();
    new
}

fn compare(directory: &Path, name: &str) -> Pymedphys {
    let read = |suffix: &str| std::fs::read_to_string(directory.join(format!("{name}{suffix}"))).ok();
    match (Record::open(directory.join(format!("{name}.trf"))), read(".error")) {
        (Err(_), Some(_)) => Agrees,
        (Err(_), None) => Accepts,
        (Ok(_), Some(message)) => Raises(message.leak()),
        (Ok(record), None) => {
            assert_header(name, &record, &read("_header.csv").unwrap());
            let mut ours = Vec::new();
            write_table(&record, Dialect::PyMedPhys, &mut ours).unwrap();
            let (ours, theirs) = (String::from_utf8(ours).unwrap(), read("_table.csv").unwrap());
            if ours == theirs {
                return Agrees;
            }
            crate::common::assert_equal_but_couch_angle(name, &ours, &theirs);
            CutsCouchAngle
        }
    }
}

/// The header's text is PyMedPhys's but for the dose.
fn assert_header(name: &str, record: &Record, theirs: &str) {
    let mut ours = Vec::new();
    write_pymedphys_header(record.header(), &mut ours).unwrap();
    let ours = String::from_utf8(ours).unwrap();
    let (mu, tenths) = (record.header().total_mu().unwrap(), record.header().total_dose_tenth_mu);
    let version = record.header().version.number();
    let theirs = theirs.replacen(&format!(",{tenths:?},{version},"), &format!(",{mu:?},{version},"), 1);
    assert_eq!(ours, theirs, "{name}");
}
