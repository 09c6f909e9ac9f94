//! Parquet files, read back with the parquet crate.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type, TimestampMillisecondType};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use trf_core::writer::{NewRecord, NewRow};
use trf_core::{Record, Version, items};

#[test]
fn a_parquet_file_has_all_columns_rows_units_and_the_header() {
    let mut new = NewRecord::agility(Version::V3);
    let state = new.items.iter().position(|i| *i == items::LINAC_STATE).unwrap();
    new.rows = (0..5000)
        .map(|row| {
            let mut values = vec![row; new.items.len()];
            values[state] = if row == 0 { 42 } else { 99 };
            NewRow { timestamp_ms: 1_580_454_000_000 + 40 * i64::from(row), values }
        })
        .collect();
    let record = Record::from_bytes(new.to_bytes().unwrap()).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    trf_core::parquet::write(&record, &mut file, "memory".as_ref()).unwrap();

    let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().with_batch_size(10_000);
    let metadata = builder.metadata().file_metadata().key_value_metadata().unwrap().clone();
    let json = metadata.iter().find(|kv| kv.key == "trf").unwrap().value.clone().unwrap();
    let summary: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(summary["machine_id"], "1234");
    assert_eq!(summary["rows"], 5000);
    let batch = builder.build().unwrap().next().unwrap().unwrap();
    assert_eq!((batch.num_rows(), batch.num_columns()), (5000, 353));
    let column = |name: &str| batch.column_by_name(name).unwrap();
    let leaf = column("Y2 Leaf 7/Scaled Actual (mm)").as_primitive::<Float64Type>();
    let ours = record.column_named("Y2 Leaf 7/Scaled Actual (mm)").unwrap().values();
    assert_eq!(leaf.values(), ours.as_slice());
    assert_eq!(column("Control point/Actual Value (None)").as_primitive::<Int32Type>().value(4999), 4999);
    let states = column("Linac State/Actual Value (None)").as_string::<i32>();
    assert_eq!((states.value(0), states.value(1)), ("Radiation On", "99"));
    let stamps = column("timestamp_utc").as_primitive::<TimestampMillisecondType>();
    assert_eq!(stamps.value(1), 1_580_454_000_040);
    let schema = batch.schema();
    let lateral = schema.field_with_name("Table Lateral/Scaled Actual (deg)").unwrap();
    assert_eq!(lateral.metadata().get("unit").map(String::as_str), Some("mm"));
}
