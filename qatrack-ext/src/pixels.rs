//! Stored pixels of an RT Image, as they are in the file: no rescaling, no windowing.
//!
//! Input: a DICOM file that the catalog knows; its contents are foreign and checked against its own header. Output: one
//! frame of 8, 16 or 32 bit integers. Unsupported: compressed pixels but for RLE and JPEG Lossless (`compressed`), colour,
//! and more than one frame, each with an error that says so. Source: PS3.5 §8 and PS3.3 §C.7.6.3.

mod compressed;

use std::path::Path;

use compressed::Shape;
use dicom_core::value::{PrimitiveValue, Value};
use dicom_dictionary_std::tags;
use dicom_object::FileDicomObject;
use dicom_object::mem::InMemDicomObject;

use crate::error::Failure;

/// Integers of one width; which one the file's header says.
#[derive(Debug)]
pub enum Samples {
    /// 8 bit, unsigned.
    U8(Vec<u8>),
    /// 16 bit, unsigned: what portal imagers write.
    U16(Vec<u16>),
    /// 16 bit, signed.
    I16(Vec<i16>),
    /// 32 bit, unsigned: some integrated dose images.
    U32(Vec<u32>),
    /// 32 bit, signed.
    I32(Vec<i32>),
}

/// One frame.
#[derive(Debug)]
pub struct Frame {
    /// (0028,0010)
    pub rows: usize,
    /// (0028,0011)
    pub columns: usize,
    /// Row by row, `rows * columns` of them.
    pub samples: Samples,
}

/// Reads the frame of a file.
///
/// # Errors
/// `malformed` when it cannot be read, or header and pixels disagree; `unsupported` for what this file's header lists.
pub fn read(file: &Path) -> Result<Frame, Failure> {
    let object = dicom_object::open_file(file)
        .map_err(|error| wrong("malformed", file, format!("cannot be read as DICOM: {error}")))?;
    let rows = word(&object, tags::ROWS, file)?;
    let columns = word(&object, tags::COLUMNS, file)?;
    let frames = number(&object, tags::NUMBER_OF_FRAMES).unwrap_or(1);
    if frames != 1 {
        return Err(wrong("unsupported", file, format!("has {frames} frames; one is supported")));
    }
    let samples_per_pixel = number(&object, tags::SAMPLES_PER_PIXEL).unwrap_or(1);
    if samples_per_pixel != 1 {
        return Err(wrong("unsupported", file, "is a colour image; grey images are supported".to_owned()));
    }
    let bits = word(&object, tags::BITS_ALLOCATED, file)?;
    let signed = number(&object, tags::PIXEL_REPRESENTATION) == Some(1);
    let element = object
        .element(tags::PIXEL_DATA)
        .map_err(|_| wrong("malformed", file, "has no pixel data (7FE0,0010)".to_owned()))?;
    let width = bits / 8;
    let bytes = match element.value() {
        Value::PixelSequence(sequence) => {
            let stored = number(&object, tags::BITS_STORED).unwrap_or(bits);
            let shape = Shape { rows, columns, width, sign_is_lost: signed && stored != bits };
            let syntax = object.meta().transfer_syntax().trim_end_matches('\0').to_owned();
            compressed::decode(&syntax, sequence.fragments(), shape)
                .ok_or_else(|| {
                    let what = format!("holds compressed pixels (transfer syntax {syntax})");
                    wrong("unsupported", file, what)
                        .hint(Some("have the archive send it uncompressed, or as RLE or JPEG Lossless"))
                })?
                .map_err(|what| wrong("malformed", file, what))?
        }
        value => little_endian(value.primitive()),
    };
    let wanted = rows.checked_mul(columns).and_then(|n| n.checked_mul(width)).unwrap_or(usize::MAX);
    // A frame of odd length is padded to an even one: PS3.5 §8.1.1.
    if width == 0 || bytes.len() < wanted || bytes.len() > wanted.saturating_add(1) {
        let what = format!(
            "holds {} bytes of pixels where {rows} x {columns} x {bits} bit need {wanted}",
            bytes.len()
        );
        return Err(wrong("malformed", file, what));
    }
    let bytes = bytes.get(..wanted).unwrap_or_default();
    let samples = match (bits, signed) {
        (8, false) => Samples::U8(bytes.to_vec()),
        (16, false) => Samples::U16(words(bytes, u16::from_le_bytes)),
        (16, true) => Samples::I16(words(bytes, i16::from_le_bytes)),
        (32, false) => Samples::U32(words(bytes, u32::from_le_bytes)),
        (32, true) => Samples::I32(words(bytes, i32::from_le_bytes)),
        _ => {
            return Err(wrong(
                "unsupported",
                file,
                format!("has {bits} bits allocated; 8, 16 and 32 are supported"),
            ));
        }
    };
    Ok(Frame { rows, columns, samples })
}

/// Pixel data comes as bytes or as 16 bit words in our own byte order, by its VR.
fn little_endian(value: Option<&PrimitiveValue>) -> Vec<u8> {
    match value {
        Some(PrimitiveValue::U8(bytes)) => bytes.to_vec(),
        Some(PrimitiveValue::U16(words)) => words.iter().flat_map(|word| word.to_le_bytes()).collect(),
        Some(PrimitiveValue::U32(words)) => words.iter().flat_map(|word| word.to_le_bytes()).collect(),
        _ => Vec::new(),
    }
}

fn words<T, const N: usize>(bytes: &[u8], from: fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| from(*chunk)).collect()
}

fn number(object: &FileDicomObject<InMemDicomObject>, tag: dicom_core::Tag) -> Option<usize> {
    object.element_opt(tag).ok().flatten()?.to_int().ok()
}

fn word(
    object: &FileDicomObject<InMemDicomObject>,
    tag: dicom_core::Tag,
    file: &Path,
) -> Result<usize, Failure> {
    number(object, tag).ok_or_else(|| wrong("malformed", file, format!("does not state {tag}")))
}

fn wrong(kind: &'static str, file: &Path, what: String) -> Failure {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Failure::new(kind, format!("{name} {what}")).path(file)
}
