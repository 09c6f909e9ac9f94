//! Data sets cut anywhere, in each syntax, whole and damaged.

use super::*;
use proptest::prelude::*;

const IMPLICIT: &str = uids::IMPLICIT_VR_LITTLE_ENDIAN;
const EXPLICIT: &str = "1.2.840.10008.1.2.1";
const BIG: &str = "1.2.840.10008.1.2.2";
const JPEG: &str = "1.2.840.10008.1.2.4.50";
const DEFLATED: &str = "1.2.840.10008.1.2.1.99";

fn all(path: Path) -> bool {
    path.tag != 0 || path.parent == 0x300C_0002
}

fn walk(syntax: &str, bytes: &[u8], piece: usize) -> Result<BTreeMap<Path, Vec<u8>>> {
    let mut walker = Walker::new(Syntax::from_uid(syntax), all);
    for piece in bytes.chunks(piece) {
        walker.push(piece)?;
    }
    walker.finish()
}

/// An element of implicit VR little endian, as it is written.
pub(in crate::images) fn implicit(tag: u32, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(((tag >> 16) as u16).to_le_bytes());
    bytes.extend((tag as u16).to_le_bytes());
    bytes.extend((value.len() as u32).to_le_bytes());
    bytes.extend(value);
    bytes
}

fn undefined(tag: u32, content: &[u8], end: u32) -> Vec<u8> {
    let mut bytes = implicit(tag, &[]);
    bytes.truncate(4);
    bytes.extend(UNDEFINED.to_le_bytes());
    bytes.extend(content);
    bytes.extend(implicit(end, &[]));
    bytes
}

/// Both lengths that a sequence and its item may have, each on its own. Source: PS3.5 §7.5.
const LENGTHS: [(bool, bool); 4] = [(true, true), (true, false), (false, true), (false, false)];

fn nested(tag: u32, content: &[u8], (sequence, item): (bool, bool)) -> Vec<u8> {
    let item = if item { implicit(ITEM, content) } else { undefined(ITEM, content, ITEM_END) };
    if sequence { implicit(tag, &item) } else { undefined(tag, &item, SEQUENCE_END) }
}

fn plan_reference(item: &[u8], lengths: (bool, bool)) -> Vec<u8> {
    nested(0x300C_0002, item, lengths)
}

#[test]
fn values_are_the_same_however_the_bytes_are_cut() {
    for (outer, inner) in LENGTHS.iter().flat_map(|a| LENGTHS.map(|b| (*a, b))) {
        let mut bytes = implicit(0x0010_0020, b"QA_1");
        let mut item = nested(0x0040_A170, &implicit(0x0008_0104, b"QA"), inner);
        item.extend(implicit(0x0008_1155, b"1.2.3\0"));
        item.extend(nested(0x300C_0020, &[], inner));
        bytes.extend(plan_reference(&item, outer));
        bytes.extend(implicit(PIXEL_DATA, &[7; 1000]));
        let whole = walk(IMPLICIT, &bytes, bytes.len()).unwrap();
        assert_eq!(whole[&Path { parent: 0, tag: 0x0010_0020 }], b"QA_1");
        assert_eq!(whole[&Path { parent: 0x300C_0002, tag: 0x0008_1155 }], b"1.2.3\0");
        for piece in 1..20 {
            assert_eq!(walk(IMPLICIT, &bytes, piece).unwrap(), whole);
        }
    }
}

#[test]
fn only_the_first_item_of_a_sequence_is_kept() {
    let items =
        [implicit(ITEM, &implicit(0x0008_1155, b"1.1\0")), implicit(ITEM, &implicit(0x0008_1155, b"2.2\0"))]
            .concat();
    let values = walk(IMPLICIT, &implicit(0x300C_0002, &items), 3).unwrap();
    assert_eq!(values[&Path { parent: 0x300C_0002, tag: 0x0008_1155 }], b"1.1\0");
}

#[test]
fn explicit_headers_of_both_lengths_and_both_byte_orders_are_read() {
    let little = [b"\x08\x00\x60\x00CS\x02\x00RT".as_slice(), b"\x08\x00\x05\x00UT\0\0\x02\0\0\0ab"].concat();
    let big = [b"\x00\x08\x00\x60CS\x00\x02RT".as_slice(), b"\x00\x08\x00\x05UT\0\0\0\0\0\x02ab"].concat();
    for (syntax, bytes) in [(EXPLICIT, little), (BIG, big)] {
        let values = walk(syntax, &bytes, 1).unwrap();
        assert_eq!(values[&Path { parent: 0, tag: 0x0008_0060 }], b"RT", "{syntax}");
        assert_eq!(values[&Path { parent: 0, tag: 0x0008_0005 }], b"ab", "{syntax}");
    }
}

#[test]
fn a_sequence_of_unknown_vr_holds_implicit_little_endian_in_big_endian_too() {
    let big = |tag: u32, vr: &[u8], length: &[u8]| {
        [&(tag >> 16).to_be_bytes()[2..], &(tag & 0xFFFF).to_be_bytes()[2..], vr, length].concat()
    };
    for lengths in [(false, true), (false, false)] {
        let mut bytes = big(0x300C_0002, b"UN\0\0", &[0xFF; 4]);
        bytes.extend(&nested(0x300C_0002, &implicit(0x0008_1155, b"1.2.3\0"), lengths)[8..]);
        bytes.extend(big(0x300C_0006, b"IS", &[0, 2, b'1', b' ']));
        let values = walk(BIG, &bytes, 3).unwrap();
        assert_eq!(values[&Path { parent: 0x300C_0002, tag: 0x0008_1155 }], b"1.2.3\0");
        assert_eq!(values[&Path { parent: 0, tag: 0x300C_0006 }], b"1 ");
    }
}

#[test]
fn private_syntaxes_that_are_known_to_be_implicit_are_read_so() {
    for syntax in ["1.2.840.113619.5.2", "1.2.840.10008.1.20"] {
        let values = walk(syntax, &implicit(0x0010_0020, b"QA_1"), 5).unwrap();
        assert_eq!(values[&Path { parent: 0, tag: 0x0010_0020 }], b"QA_1");
    }
}

#[test]
fn encapsulated_pixel_data_is_walked_to_its_end() {
    let mut bytes = b"\x08\x00\x60\x00CS\x02\x00RT\xE0\x7F\x10\x00OB\0\0\xFF\xFF\xFF\xFF".to_vec();
    bytes.extend(implicit(ITEM, &[]));
    bytes.extend(implicit(ITEM, &[1, 2, 3, 4]));
    bytes.extend(implicit(SEQUENCE_END, &[]));
    assert_eq!(walk(JPEG, &bytes, 5).unwrap().len(), 1);
    assert!(walk(JPEG, &bytes[..bytes.len() - 8], 5).is_err(), "without the end of the pixel data");
}

#[test]
fn what_follows_the_pixel_data_is_not_kept_and_what_came_before_is_known_when_it_begins() {
    let mut bytes = implicit(0x0010_0020, b"QA_1");
    bytes.extend(nested(0x0088_0200, &implicit(PIXEL_DATA, &[7; 4]), (true, true)));
    let icon = bytes.len();
    bytes.extend(implicit(PIXEL_DATA, &[7; 100]));
    bytes.extend(implicit(0x0010_0020, b"QA_2"));
    bytes.extend(plan_reference(&implicit(0x0008_1155, b"1.2.3\0"), (true, false)));
    let id = Path { parent: 0, tag: 0x0010_0020 };
    let mut walker = Walker::new(Syntax::from_uid(IMPLICIT), all);
    walker.push(&bytes[..icon]).unwrap();
    assert!(walker.before_pixel_data().is_none(), "an icon's pixel data are others");
    walker.push(&bytes[icon..icon + 8]).unwrap();
    assert_eq!(walker.before_pixel_data().unwrap()[&id], b"QA_1");
    let known = walker.before_pixel_data().unwrap().clone();
    walker.push(&bytes[icon + 8..]).unwrap();
    assert_eq!(walker.finish().unwrap(), known);
}

#[test]
fn a_deflated_data_set_is_inflated_on_the_way() {
    use std::io::Write;
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(b"\x08\x00\x60\x00CS\x02\x00RT").unwrap();
    let mut bytes = encoder.finish().unwrap();
    assert!(walk(DEFLATED, &bytes[..bytes.len() - 1], 2).is_err());
    bytes.push(0);
    for piece in [1, 3, 100] {
        assert_eq!(walk(DEFLATED, &bytes, piece).unwrap()[&Path { parent: 0, tag: 0x0008_0060 }], b"RT");
    }
    bytes.push(0);
    for piece in [1, 3, 100] {
        assert!(walk(DEFLATED, &bytes, piece).is_err(), "more than one byte of padding");
    }
}

#[test]
fn a_data_set_that_is_cut_anywhere_is_an_error() {
    let mut bytes = implicit(0x0010_0020, b"QA_1");
    let first = bytes.len();
    bytes.extend(plan_reference(&implicit(0x0008_1155, b"1.2.3\0"), (false, false)));
    let second = bytes.len();
    bytes.extend(implicit(PIXEL_DATA, &[7; 64]));
    for end in 1..bytes.len() {
        if end != first && end != second {
            assert!(walk(IMPLICIT, &bytes[..end], 7).is_err(), "cut at {end}");
        }
    }
}

#[test]
fn an_item_that_claims_more_than_its_sequence_is_an_error() {
    let mut item = implicit(ITEM, &implicit(0x0008_1155, b"1.2\0"));
    item[4] += 2;
    let bytes = implicit(0x300C_0002, &item);
    assert!(matches!(walk(IMPLICIT, &bytes, 100), Err(Error::Malformed { .. })));
}

#[test]
fn endless_nesting_is_refused() {
    let bytes: Vec<u8> = (0..DEPTH_MAX + 1)
        .flat_map(|n| {
            let mut open = implicit(if n % 2 == 0 { 0x0040_A730 } else { ITEM }, &[]);
            open.truncate(4);
            open.extend(UNDEFINED.to_le_bytes());
            open
        })
        .collect();
    assert!(matches!(walk(IMPLICIT, &bytes, 9), Err(Error::Limit { .. })));
}

proptest! {
    #[test]
    fn any_bytes_end_in_values_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400), n in 0usize..5, piece in 1usize..50) {
        let syntax = [IMPLICIT, EXPLICIT, BIG, JPEG, DEFLATED][n];
        let _ = walk(syntax, &bytes, piece);
    }
}
