//! The objects that are sent: RT Images of an aS1200 (3.28 MB) and an aS1000 (1.57 MB), in turn.

use std::ops::Range;
use std::path::Path;

use dicom_transfer_syntax_registry::entries::IMPLICIT_VR_LITTLE_ENDIAN;
use serde_json::{Value, json};
use tests::peers::objects::{RtImage, uid};

/// Object number `n`; its SOP Instance UID has the same length for every `n` below a million.
pub(crate) fn image(n: usize) -> RtImage {
    let (rows, columns) = if n.is_multiple_of(2) { (1280, 1280) } else { (768, 1024) };
    RtImage {
        sop_instance_uid: sop_instance_uid(n),
        // Sessions of 16, as a Winston-Lutz series has.
        series_uid: uid(&[4, (n / 16) as u32]),
        image_type: Some("ORIGINAL\\PRIMARY\\PORTAL".into()),
        primary_dosimeter_unit: Some("MU".into()),
        instance_number: n as u32 % 16 + 1,
        rows,
        columns,
        ..RtImage::default()
    }
}

pub(crate) fn sop_instance_uid(n: usize) -> String {
    uid(&[4, 1_000_000 + n as u32])
}

/// Object number `n` as a data set in implicit VR little endian.
pub(crate) fn data_set(n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    image(n).data_set().write_dataset_with_ts(&mut bytes, &IMPLICIT_VR_LITTLE_ENDIAN.erased()).unwrap();
    bytes
}

/// Writes those with these numbers as files.
pub(crate) fn write(directory: &Path, numbers: Range<usize>) -> Value {
    std::fs::create_dir_all(directory).unwrap();
    let images = numbers.len();
    let bytes: u64 = numbers.map(|n| image(n).write(directory).metadata().unwrap().len()).sum();
    json!({"images": images, "bytes": bytes})
}
