//! Identifiers: the data set of a C-FIND or C-MOVE request, implicit VR little endian. Source: PS3.4 §C.4.1.1.3.
//!
//! Output only; answers are read by [`crate::images::walk`]. Unsupported: values longer than 4 GiB.

use std::collections::BTreeMap;

/// (0008,0005): said only when a value needs it, since some archives match text byte by byte.
const CHARACTER_SET: u32 = 0x0008_0005;
const ITEM: u32 = 0xFFFE_E000;

/// Keys of one request, written in ascending order as PS3.5 §7.1 demands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identifier {
    elements: BTreeMap<u32, Vec<u8>>,
    needs_utf8: bool,
}

impl Identifier {
    /// Without any key.
    pub fn new() -> Self {
        Self::default()
    }

    /// A key with a text value; empty asks for the attribute (universal matching).
    #[must_use]
    pub fn text(mut self, tag: u32, value: &str) -> Self {
        self.needs_utf8 |= !value.is_ascii();
        self.elements.insert(tag, padded(value, b' '));
        self
    }

    /// Keys without a value: the attributes that the answers shall carry.
    #[must_use]
    pub fn returning(self, tags: &[u32]) -> Self {
        tags.iter().fold(self, |identifier, tag| identifier.text(*tag, ""))
    }

    /// A key with one UID or, as PS3.4 §C.2.2.2.2 allows, a list of them.
    #[must_use]
    pub fn uids<'a>(mut self, tag: u32, uids: impl IntoIterator<Item = &'a str>) -> Self {
        let list = uids.into_iter().collect::<Vec<_>>().join("\\");
        self.elements.insert(tag, padded(&list, 0));
        self
    }

    /// A sequence key with one item. PS3.4 §C.2.2.2.6.
    #[must_use]
    pub fn sequence(mut self, tag: u32, item: &Self) -> Self {
        let content = item.body();
        let mut value = Vec::with_capacity(content.len() + 8);
        element(&mut value, ITEM, &content);
        self.needs_utf8 |= item.needs_utf8;
        self.elements.insert(tag, value);
        self
    }

    /// The bytes that follow the command set.
    pub fn to_bytes(&self) -> Vec<u8> {
        if self.needs_utf8 {
            let announced = self.clone().text(CHARACTER_SET, "ISO_IR 192");
            return announced.body();
        }
        self.body()
    }

    fn body(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256);
        for (tag, value) in &self.elements {
            element(&mut bytes, *tag, value);
        }
        bytes
    }
}

fn padded(value: &str, pad: u8) -> Vec<u8> {
    let mut bytes = value.as_bytes().to_vec();
    if bytes.len() % 2 == 1 {
        bytes.push(pad);
    }
    bytes
}

fn element(bytes: &mut Vec<u8>, tag: u32, value: &[u8]) {
    bytes.extend_from_slice(&((tag >> 16) as u16).to_le_bytes());
    bytes.extend_from_slice(&(tag as u16).to_le_bytes());
    bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
    bytes.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_in_order_and_padded_to_even_length() {
        let plan = Identifier::new().uids(0x0008_1155, ["1.2"]);
        let query = Identifier::new()
            .sequence(0x300C_0002, &plan)
            .text(0x0010_0020, "A")
            .uids(0x0008_0018, ["1.2", "1.3.4"]);
        let expected: &[u8] = b"\x08\0\x18\0\x0a\0\0\x001.2\\1.3.4\0\
            \x10\0\x20\0\x02\0\0\0A \
            \x0c\x30\x02\0\x14\0\0\0\xfe\xff\0\xe0\x0c\0\0\0\x08\0\x55\x11\x04\0\0\x001.2\0";
        assert_eq!(query.to_bytes(), expected);
    }

    #[test]
    fn only_a_value_that_needs_it_announces_utf8() {
        let plain = Identifier::new().text(0x0010_0020, "QA").to_bytes();
        assert!(!plain.windows(10).any(|w| w == b"ISO_IR 192"));
        let umlaut = Identifier::new().text(0x0010_0020, "QÄ").to_bytes();
        assert!(umlaut.starts_with(b"\x08\0\x05\0\x0a\0\0\0ISO_IR 192"));
    }
}
