//! Records that the writer made, read back: any version, any content.

use proptest::prelude::*;
use trf_core::csv::{Dialect, write_table};
use trf_core::writer::{NewRecord, NewRow};
use trf_core::{Error, Header, ItemPart, Record, Version, Warning, items};

fn versions() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V1), Just(Version::V2), Just(Version::V3), Just(Version::V4)]
}

prop_compose! {
    fn rows(version: Version, n_items: usize)(
        rows in proptest::collection::vec(
            (any::<i64>(), proptest::collection::vec(any::<i32>(), n_items)),
            0..20,
        )
    ) -> Vec<NewRow> {
        rows.into_iter().map(|(stamp, values)| NewRow {
            timestamp_ms: if version.has_timestamps() { stamp } else { 0 },
            values: values.into_iter().map(|v| if version == Version::V4 { v } else { i32::from(v as i16) }).collect(),
        }).collect()
    }
}

fn records() -> impl Strategy<Value = NewRecord> {
    let items = proptest::collection::vec((any::<i16>(), any::<i16>()), 1..40);
    (versions(), items, ".{0,400}", "[ -~]{0,60}", any::<f64>()).prop_flat_map(
        |(version, items, field, machine_id, total_dose_tenth_mu)| {
            let items: Vec<ItemPart> = items.into_iter().map(|(i, p)| ItemPart::new(i, p)).collect();
            rows(version, items.len()).prop_map(move |rows| NewRecord {
                field: field.clone(),
                machine_id: machine_id.clone(),
                total_dose_tenth_mu,
                items: items.clone(),
                rows,
                ..NewRecord::agility(version)
            })
        },
    )
}

proptest! {
    #[test]
    fn what_was_written_is_read(new in records()) {
        let record = Record::from_bytes(new.to_bytes().unwrap()).unwrap();
        let header = record.header();
        prop_assert_eq!(&header.field, &new.field);
        prop_assert_eq!(&header.machine_id, &new.machine_id);
        prop_assert_eq!(header.total_dose_tenth_mu.to_bits(), new.total_dose_tenth_mu.to_bits());
        prop_assert_eq!(header.version, new.version);
        prop_assert_eq!(&header.items, &new.items);
        prop_assert_eq!(record.n_rows(), new.rows.len());
        prop_assert_eq!(record.left_over_bytes(), 0);
        for (index, column) in record.columns().enumerate() {
            let written: Vec<i32> = new.rows.iter().map(|row| row.values[index]).collect();
            prop_assert_eq!(column.raw(), written);
        }
        let stamps: Option<Vec<i64>> = record.timestamps_ms().map(Iterator::collect);
        let written = new.rows.iter().map(|row| row.timestamp_ms).collect();
        prop_assert_eq!(stamps, new.version.has_timestamps().then_some(written));
    }

    #[test]
    fn the_headers_dose_is_a_tenth_of_what_is_stored_to_the_last_bit(whole: i32, any: f64) {
        for tenths in [f64::from(whole), f64::from(whole) / 8.0, any] {
            let new = NewRecord { total_dose_tenth_mu: tenths, ..NewRecord::agility(Version::V1) };
            let header = Header::parse(&new.to_bytes().unwrap()).unwrap();
            let moved: f64 = format!("{tenths}e-1").parse().unwrap();
            prop_assert_eq!(header.total_mu().map(f64::to_bits), Some(moved.to_bits()));
        }
    }

    #[test]
    fn any_cut_is_an_error_or_a_counted_rest(new in records(), cut in any::<prop::sample::Index>()) {
        let mut bytes = new.to_bytes().unwrap();
        let header_bytes = Header::parse(&bytes).unwrap().n_bytes;
        bytes.truncate(cut.index(bytes.len()));
        let length = bytes.len();
        match Record::from_bytes(bytes) {
            Ok(record) => {
                prop_assert!(length >= header_bytes);
                let row_bytes = record.header().row_bytes();
                prop_assert_eq!(header_bytes + record.n_rows() * row_bytes + record.left_over_bytes(), length);
                let warned = record.warnings().iter().any(|w| matches!(w, Warning::CutRow { .. }));
                prop_assert_eq!(warned, record.left_over_bytes() > 0);
            }
            Err(Error::Malformed { offset, .. }) => prop_assert!(length < header_bytes && offset <= length as u64),
            Err(error) => prop_assert!(false, "{}", error),
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(record) = Record::from_bytes(bytes) {
            exercise(&record);
        }
    }

    #[test]
    fn no_damage_makes_it_panic(new in records(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = new.to_bytes().unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(record) = Record::from_bytes(bytes) {
            exercise(&record);
        }
    }
}

/// Everything that reads values.
fn exercise(record: &Record) {
    let table = record.table();
    let mut values = vec![f64::NAN; record.n_rows() * record.n_columns()];
    record.table_into(&mut values).unwrap();
    assert_eq!(values, table.clone().into_values());
    values.push(0.0);
    assert!(matches!(record.table_into(&mut values), Err(Error::Misuse { .. })));
    for column in record.columns() {
        assert_eq!(table.column(column.index()), Some(column.values().as_slice()));
        assert_eq!(column.labels().len(), record.n_rows());
    }
    for dialect in [Dialect::PyMedPhys, Dialect::Elekta, Dialect::Clean] {
        write_table(record, dialect, &mut Vec::new()).unwrap();
    }
    if let Ok(delivered) = record.meterset() {
        assert!(delivered.meterset_mu.windows(2).all(|pair| pair[0] <= pair[1]));
    }
    assert_eq!(record.time_s().len(), record.n_rows());
    assert_eq!(record.summary().rows, record.n_rows());
}

fn agility(version: Version, n_rows: i32) -> NewRecord {
    let mut new = NewRecord::agility(version);
    let values = |row| (0..new.items.len()).map(|i| (i as i32 * 7 + row) % 2000 - 500).collect();
    new.rows = (0..n_rows)
        .map(|row| NewRow { timestamp_ms: 1_580_454_000_000 + 40 * i64::from(row), values: values(row) })
        .collect();
    new
}

fn text(record: &Record, dialect: Dialect) -> String {
    let mut out = Vec::new();
    write_table(record, dialect, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn rows_are_in_order_in_a_file_longer_than_one_batch_of_tasks() {
    let record = Record::from_bytes(agility(Version::V1, 9000).to_bytes().unwrap()).unwrap();
    let text = text(&record, Dialect::Elekta);
    let times: Vec<&str> = text.lines().skip(10).map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!(times.len(), 9000);
    assert_eq!((times[0], times[1], times[25], times[8999]), ("0", "0.04", "1", "359.96"));
}

#[test]
fn clean_dialect_has_units_time_and_running_meterset() {
    let mut new = NewRecord::agility(Version::V3);
    new.items = vec![
        items::CONTROL_POINT,
        items::LINAC_STATE,
        items::DOSE_RAW,
        ItemPart::new(2228, 129),
        ItemPart::new(2419, 129),
        ItemPart::new(2460, 220),
        ItemPart::new(4004, 1),
        ItemPart::new(4004, 1),
    ];
    let row = |timestamp_ms, values: [i32; 8]| NewRow { timestamp_ms, values: values.to_vec() };
    new.rows = vec![
        row(1_580_454_000_000, [1, 42, -32, -61, 35, 1, 5, 6]),
        row(1_580_454_000_041, [-32767, 99, 32, -61, 0, 1, 5, 6]),
    ];
    let record = Record::from_bytes(new.to_bytes().unwrap()).unwrap();
    assert_eq!(
        text(&record, Dialect::Clean),
        "time_s,utc,meterset_mu,control_point,linac_state,dose_counter_64th_mu,table_lateral_mm,y2_leaf_40_mm,\
         y1_leaf_1_positional_error_mm,item_4004_1,item_4004_1_2\n\
         0.000,2020-01-31T07:00:00.000Z,0,1,Radiation On,65504,-6.1,-3.5,0.1,5,6\n\
         0.041,2020-01-31T07:00:00.041Z,1,,99,32,-6.1,0,0.1,5,6\n"
    );
}

#[test]
fn clean_names_of_an_agility_record_are_distinct() {
    let record = Record::from_bytes(agility(Version::V4, 1).to_bytes().unwrap()).unwrap();
    let text = text(&record, Dialect::Clean);
    let names: std::collections::BTreeSet<&str> = text.lines().next().unwrap().split(',').collect();
    assert_eq!(names.len(), 351 + 3);
}

#[test]
fn a_long_header_is_read_without_its_rows() {
    let mut new = agility(Version::V3, 3);
    new.field = "F".repeat(3000);
    let bytes = new.to_bytes().unwrap();
    let header = Header::read_from(bytes.as_slice(), "memory").unwrap();
    assert_eq!(header.field.len(), 3000);
    // Hours of rows behind it are not asked for.
    let mut endless =
        Counted { inner: std::io::Read::chain(bytes.as_slice(), std::io::repeat(7)), n_bytes: 0 };
    assert_eq!(Header::read_from(&mut endless, "memory").unwrap(), header);
    assert!(endless.n_bytes <= trf_core::header::MAX_HEADER_BYTES, "{} bytes read", endless.n_bytes);
    assert_eq!(header.n_bytes + 3 * header.row_bytes(), bytes.len());
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    n_bytes: usize,
}

impl<R: std::io::Read> std::io::Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.n_bytes += n;
        Ok(n)
    }
}

#[test]
fn names_that_are_not_utf8_are_kept_byte_by_byte() {
    let mut new = agility(Version::V1, 1);
    new.field = "Gr\u{f6}\u{df}e".to_owned();
    let bytes = new.to_bytes().unwrap();
    let position = bytes.windows(4).position(|w| w == "öß".as_bytes()).unwrap();
    let mut latin = bytes.clone();
    latin.splice(position..position + 4, [0xf6, 0xdf]);
    latin[position - 3] -= 2; // the string's length
    let record = Record::from_bytes(latin).unwrap();
    assert_eq!(record.header().field, "Größe");
    assert_eq!(record.warnings(), [Warning::NotUtf8 { section: "field name" }]);
}

#[test]
fn dates_of_other_cultures_and_offsets_are_understood() {
    for text in ["17/04/19 21:59:24 Z", "17.04.19 21.59.24 Z", "17. 04. 19 21:59:24 Z", "17-04-19 21:59:24"] {
        let mut new = agility(Version::V1, 0);
        new.utc_text = text.to_owned();
        let record = Record::from_bytes(new.to_bytes().unwrap()).unwrap();
        assert_eq!(record.end_utc().to_rfc3339(), "2017-04-19T21:59:24+00:00", "{text}");
    }
    for (text, seconds) in
        [("+10:00", Some(36_000)), ("-03:30", Some(-12_600)), ("+5.45", Some(20_700)), ("10", None)]
    {
        let mut new = agility(Version::V1, 0);
        new.utc_offset_text = text.to_owned();
        let record = Record::from_bytes(new.to_bytes().unwrap()).unwrap();
        assert_eq!(record.header().utc_offset.map(|o| o.local_minus_utc()), seconds, "{text}");
        assert_eq!(record.warnings().contains(&Warning::NoUtcOffset), seconds.is_none(), "{text}");
    }
}

#[test]
fn impossible_dates_are_refused_without_showing_other_text() {
    for text in ["17/13/19 21:59:24 Z", "17/04/19", "Doe^John", "2017/04/19 21:59:24 Z"] {
        let mut new = agility(Version::V1, 0);
        new.utc_text = text.to_owned();
        let error = Record::from_bytes(new.to_bytes().unwrap()).unwrap_err().to_string();
        assert!(error.contains("UTC date-time"), "{error}");
        assert!(!error.contains("Doe"), "{error}");
    }
}

#[test]
fn the_writer_refuses_what_does_not_fit() {
    let mut new = agility(Version::V3, 1);
    new.rows[0].values[0] = 40_000;
    assert!(matches!(new.to_bytes(), Err(Error::Misuse { .. })));
    new.rows[0].values.pop();
    assert!(matches!(new.to_bytes(), Err(Error::Misuse { .. })));
}

#[test]
fn large_files_are_read_as_small_ones_are() {
    let bytes = agility(Version::V3, 7000).to_bytes().unwrap();
    assert!(bytes.len() > 4 << 20);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("large.trf");
    std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
    let record = Record::open(&path).unwrap();
    assert_eq!(record.bytes(), &bytes[..bytes.len() - 5]);
    assert_eq!((record.n_rows(), record.left_over_bytes()), (6999, 703));
    exercise(&record);
}

#[test]
fn a_missing_file_is_named() {
    let error = Record::open("no/such.trf").unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if path.ends_with("such.trf")), "{error:?}");
    assert!(error.hint().contains("share"));
}
