//! A data set as the bytes of a DICOM file.
//!
//! Input: a data set, by reference. Output: preamble, file meta group and data set in Explicit VR Little Endian; in Implicit VR
//! where a value is longer than the 64 KiB that explicit lengths of its VR can say (compensators). Not supported:
//! encapsulated pixel data, which no plan has.
//!
//! dicom-object's writer copies each value twice and holds all tokens of a top-level sequence at once: most of the time of
//! writing a plan of a thousand control points. The encoding of each element is dicom-parser's all the same.

use dicom_core::header::{DataElementHeader, Header, Tag};
use dicom_core::value::Value;
use dicom_core::{Length, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_encoding::encode::explicit_le::ExplicitVRLittleEndianEncoder;
use dicom_encoding::encode::implicit_le::ImplicitVRLittleEndianEncoder;
use dicom_encoding::encode::{Encode, EncodeTo, EncoderFor};
use dicom_encoding::text::SpecificCharacterSet;
use dicom_object::InMemDicomObject;
use dicom_object::meta::FileMetaTableBuilder;
use dicom_parser::StatefulEncoder;

use super::{MAGIC, PREAMBLE_BYTES, cannot_encode, field};
use crate::{Error, Result};

/// The file of `dataset`.
///
/// # Errors
/// [`Error::Malformed`] if the data set cannot be encoded.
pub(super) fn bytes(dataset: &InMemDicomObject) -> Result<Vec<u8>> {
    let explicit = file(dataset, uids::EXPLICIT_VR_LITTLE_ENDIAN, ExplicitVRLittleEndianEncoder::default());
    explicit
        .or_else(|_| file(dataset, uids::IMPLICIT_VR_LITTLE_ENDIAN, ImplicitVRLittleEndianEncoder::default()))
}

fn file(dataset: &InMemDicomObject, syntax: &str, encoder: impl Encode) -> Result<Vec<u8>> {
    let uid = |tag| field::text(dataset, tag).unwrap_or_default();
    let meta = FileMetaTableBuilder::new()
        .transfer_syntax(syntax)
        .media_storage_sop_class_uid(uid(tags::SOP_CLASS_UID))
        .media_storage_sop_instance_uid(uid(tags::SOP_INSTANCE_UID))
        .build()
        .map_err(cannot_encode)?;
    let mut bytes = vec![0; PREAMBLE_BYTES];
    bytes.extend_from_slice(MAGIC);
    meta.write(&mut bytes).map_err(cannot_encode)?;
    let encoder = EncoderFor::new(encoder);
    encode(dataset, &mut StatefulEncoder::new(&mut bytes, encoder, SpecificCharacterSet::default()))?;
    Ok(bytes)
}

fn encode<'a, E: EncodeTo<&'a mut Vec<u8>>>(
    dataset: &InMemDicomObject,
    out: &mut StatefulEncoder<&'a mut Vec<u8>, E>,
) -> Result<()> {
    // Group lengths are retired, and those that were read are no longer right.
    for element in dataset.iter().filter(|element| element.tag().element() != 0) {
        match element.value() {
            Value::Primitive(value) => {
                out.encode_primitive_element(element.header(), value).map_err(cannot_encode)?;
            }
            Value::Sequence(sequence) => encode_sequence(element.tag(), sequence.items(), out)?,
            Value::PixelSequence(_) => return Err(Error::unsupported("compressed pixel data in an RT Plan")),
        }
    }
    Ok(())
}

/// Lengths are undefined: they are not known before the items are encoded.
fn encode_sequence<'a, E: EncodeTo<&'a mut Vec<u8>>>(
    tag: Tag,
    items: &[InMemDicomObject],
    out: &mut StatefulEncoder<&'a mut Vec<u8>, E>,
) -> Result<()> {
    let header = DataElementHeader::new(tag, VR::SQ, Length::UNDEFINED);
    out.encode_element_header(header).map_err(cannot_encode)?;
    for item in items {
        out.encode_item_header(Length::UNDEFINED.0).map_err(cannot_encode)?;
        encode(item, out)?;
        out.encode_item_delimiter().map_err(cannot_encode)?;
    }
    out.encode_sequence_delimiter().map_err(cannot_encode)
}
