//! Real records against Elekta's own decodes and PyMedPhys's, all columns and rows, tolerance 0.

use crate::common::{gunzip, json_members, trf_data};
use trf_core::csv::{Dialect, write_pymedphys_header, write_table};
use trf_core::{Header, Record};

fn table(record: &Record, dialect: Dialect) -> String {
    let mut out = Vec::new();
    write_table(record, dialect, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn elekta_dialect_is_elektas_text_byte_for_byte() {
    let Some(data) = trf_data() else { return };
    let mut n = 0;
    for entry in std::fs::read_dir(data.join("elekta_csv")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().trim_end_matches(".csv.gz").to_owned();
        let record = Record::open(data.join("trf").join(format!("{name}.trf"))).unwrap();
        assert!(table(&record, Dialect::Elekta) == gunzip(&path), "{name}");
        n += 1;
    }
    assert!(n >= 2, "only {n} decodes of Elekta's tool");
}

#[test]
fn pymedphys_dialect_is_its_table_byte_for_byte_but_for_the_couch_angle() {
    let Some(data) = trf_data() else { return };
    let mut n = 0;
    for entry in std::fs::read_dir(data.join("golden/table")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().trim_end_matches(".csv.gz").to_owned();
        let record = Record::open(data.join("trf").join(format!("{name}.trf"))).unwrap();
        crate::common::assert_equal_but_couch_angle(
            &name,
            &table(&record, Dialect::PyMedPhys),
            &gunzip(&path),
        );
        n += 1;
    }
    assert!(n >= 10, "only {n} tables");
}

#[test]
fn headers_times_and_sizes_are_as_listed() {
    let Some(data) = trf_data() else { return };
    for (name, expected) in json_members(&data.join("headers.json")) {
        let path = data.join(format!("{name}.trf"));
        let header = Header::read(&path).unwrap();
        let record = Record::open(&path).unwrap();
        assert_eq!(record.header(), &header, "{name}");
        assert_eq!(header.n_bytes as u64, expected["header_bytes"], "{name}");
        assert_eq!(header.total_dose_tenth_mu, expected["mu_stored"].as_f64().unwrap(), "{name}");
        assert_eq!(header.row_bytes() as u64, expected["row_bytes"], "{name}");
        assert_eq!(record.left_over_bytes() as u64, expected["trailing_bytes"], "{name}");
        crate::common::assert_header(&name, &record, &expected);
        let stamps: Option<Vec<i64>> = record.timestamps_ms().map(Iterator::collect);
        assert_eq!(
            stamps.as_deref().and_then(<[i64]>::first).copied(),
            expected["first_timestamp_ms"].as_i64(),
            "{name}"
        );
        assert_eq!(
            stamps.as_deref().and_then(<[i64]>::last).copied(),
            expected["last_timestamp_ms"].as_i64(),
            "{name}"
        );
    }
}

#[test]
fn mapped_read_and_streamed_records_are_the_same() {
    let Some(data) = trf_data() else { return };
    let path = data.join("trf/v3_int4_d_abut.trf");
    let opened = Record::open(&path).unwrap();
    let mapped = Record::map(&path).unwrap();
    let streamed = Record::from_reader(std::fs::File::open(&path).unwrap(), &path).unwrap();
    assert_eq!(opened.bytes(), mapped.bytes());
    assert_eq!(opened.bytes(), streamed.bytes());
    assert_eq!(opened.table(), mapped.table());
}

#[test]
fn the_table_the_columns_and_single_values_agree() {
    let Some(data) = trf_data() else { return };
    for name in ["trf/v1_service_20170419_2118", "trf/v3_int4_pf_g0", "edge/v4_values_over_int16"] {
        let record = Record::open(data.join(format!("{name}.trf"))).unwrap();
        let table = record.table();
        for column in record.columns() {
            let values = column.values();
            assert_eq!(table.column(column.index()), Some(values.as_slice()), "{name} {}", column.name());
            let middle = record.n_rows() / 2;
            assert_eq!(column.value(middle), Some(values[middle]));
            assert_eq!(record.column_named(column.name()).unwrap().index(), column.index());
            assert_eq!(record.column_of(column.item()).unwrap().index(), column.index());
        }
    }
}

#[test]
fn the_two_clocks_of_a_real_record_are_told_apart() {
    let Some(data) = trf_data() else { return };
    let record = Record::open(data.join("trf/v3_int4_d_abut.trf")).unwrap();
    assert_eq!(record.end_utc().to_rfc3339(), "2018-12-12T08:21:44+00:00");
    assert_eq!(record.header().end_local().unwrap().to_rfc3339(), "2018-12-12T19:21:44+11:00");
    assert_eq!(record.start_utc().timestamp_millis(), record.end_utc().timestamp_millis() - 476 * 40);
    assert_eq!(record.controller_start_utc().unwrap().timestamp_millis(), 1_544_603_352_338);
    assert_eq!(record.controller_minus_host_s(), Some(467.338));
}

#[test]
fn the_raw_counter_gives_the_dose_of_the_header() {
    let Some(data) = trf_data() else { return };
    // Service mode has 0 in its header; its dose is known from Elekta's decode. The others differ by the counter's overrun.
    for (name, mu) in
        [("v1_electron_scalp_couch", 227.4), ("v1_vmat_1arc", 773.9), ("v1_imrt_3field_pair", 475.6)]
    {
        let record = Record::open(data.join(format!("trf/{name}.trf"))).unwrap();
        let delivered = record.meterset().unwrap().meterset_mu;
        let total = *delivered.last().unwrap();
        assert!((total - mu).abs() < 0.2, "{name}: {total} MU counted, {mu} MU in the header");
        assert!(delivered.windows(2).all(|pair| pair[0] <= pair[1]), "{name}");
    }
}

#[test]
fn pymedphys_header_has_its_layout_and_the_right_dose() {
    let Some(data) = trf_data() else { return };
    let header = Header::read(data.join("edge/v1_plain.trf")).unwrap();
    let mut out = Vec::new();
    write_pymedphys_header(&header, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let start = ",machine,date,timezone,field_label,field_name,mu,version,item_parts_number,item_parts_length,item_parts\n\
                 0,2694,17/04/19 21:59:24 Z,+10:00,1-1,AP OPEN,227.4,1,350,700,\"[2240  111 2177  100 2543  111 2542  111 \
                 2238  111 2162  101 2200  111\n 2541  111 ";
    assert_eq!(text.get(..start.len()), Some(start));
    assert!(text.ends_with("2539  220]\"\n"));
}
