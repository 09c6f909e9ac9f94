//! Any bytes as a TRF record: no panic, every complete row decoded, all ways of decoding agree, memory in proportion.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trf_core::csv::{Dialect, write_pymedphys_header, write_table};
use trf_core::writer::{NewRecord, NewRow};
use trf_core::{Delivery, MetersetMap, MetersetSource, Record, metersetmap};

fuzz_target!(|bytes: &[u8]| {
    let Ok(record) = Record::from_bytes(bytes.to_vec()) else { return };
    let header = record.header();
    assert_eq!(header.n_bytes + record.n_rows() * header.row_bytes() + record.left_over_bytes(), bytes.len());
    let table = record.table();
    for column in record.columns() {
        assert_eq!(table.column(column.index()), Some(column.values().as_slice()));
    }
    for dialect in [Dialect::PyMedPhys, Dialect::Elekta, Dialect::Clean] {
        write_table(&record, dialect, &mut std::io::sink()).expect("a sink takes all");
    }
    write_pymedphys_header(header, &mut std::io::sink()).expect("a sink takes all");
    assert_eq!(record.summary().rows, record.n_rows());
    if let Ok(meterset) = record.meterset() {
        assert!(meterset.meterset_mu.windows(2).all(|pair| pair[0] <= pair[1]));
    }
    delivered(&record);
    if header.not_utf8.is_empty() {
        written_again(&record);
    }
});

/// Deliveries and maps of whatever was read.
fn delivered(record: &Record) {
    for source in [MetersetSource::RawCounter, MetersetSource::StepDose] {
        let Ok(delivery) = Delivery::from_record(record, source) else { continue };
        assert_eq!(delivery.n_cp(), record.n_rows());
        let beams: f64 = delivery.beams().iter().map(Delivery::total_mu).sum();
        assert!(beams <= delivery.total_mu() + 1e-6 * delivery.n_cp() as f64);
        if let Ok(map) = MetersetMap::new(&delivery, &metersetmap::Options::with_resolution(5.0)) {
            assert!(map.mu().iter().all(|mu| mu.is_finite()));
        }
    }
}

/// The writer's bytes give the same record.
fn written_again(record: &Record) {
    let header = record.header();
    let columns: Vec<Vec<i32>> = record.columns().map(|column| column.raw()).collect();
    let stamps: Option<Vec<i64>> = record.timestamps_ms().map(Iterator::collect);
    let row = |row: usize| NewRow {
        timestamp_ms: stamps.as_ref().map_or(0, |stamps| stamps[row]),
        values: columns.iter().map(|column| column[row]).collect(),
    };
    let new = NewRecord {
        utc_text: header.utc_text.clone(),
        utc_offset_text: header.utc_offset_text.clone(),
        field: header.field.clone(),
        machine_id: header.machine_id.clone(),
        total_dose_tenth_mu: header.total_dose_tenth_mu,
        version: header.version,
        items: header.items.clone(),
        rows: (0..record.n_rows()).map(row).collect(),
    };
    let again =
        Record::from_bytes(new.to_bytes().expect("what was read fits")).expect("what we write we can read");
    assert_eq!(again.table().into_values(), record.table().into_values());
    assert_eq!(again.header().items, header.items);
}
