//! Attributes of a data set or item, as the types that a plan needs.

use dicom_core::PrimitiveValue;
use dicom_core::header::Tag;
use dicom_object::InMemDicomObject;

use super::malformed;
use crate::Result;

/// Text without padding; `None` if it is absent or empty.
pub(super) fn text(item: &InMemDicomObject, tag: Tag) -> Option<String> {
    let text = item.get(tag)?.to_str().ok()?;
    let text = text.trim_matches([' ', '\0']);
    (!text.is_empty()).then(|| text.to_owned())
}

/// One integer; `None` if it is absent or not one.
pub(super) fn integer(item: &InMemDicomObject, tag: Tag) -> Option<i32> {
    item.get(tag)?.to_int().ok()
}

/// One finite number; `None` if it is absent, empty or not one.
pub(super) fn number(item: &InMemDicomObject, tag: Tag) -> Option<f64> {
    item.get(tag)?.to_float64().ok().filter(|number| number.is_finite())
}

/// All numbers of an attribute.
pub(super) fn numbers(item: &InMemDicomObject, tag: Tag, name: &str) -> Result<Vec<f64>> {
    let element = item.get(tag).ok_or_else(|| malformed(name, "none"))?;
    let numbers = match element.value().primitive() {
        // Values that we wrote and did not read again: one text.
        Some(PrimitiveValue::Str(text)) => {
            text.split('\\').map(|number| number.trim().parse()).collect::<Result<Vec<f64>, _>>().ok()
        }
        _ => element.to_multi_float64().ok(),
    };
    let numbers = numbers.ok_or_else(|| malformed(format!("numbers in {name}"), "other text"))?;
    if numbers.iter().all(|number| number.is_finite()) {
        Ok(numbers)
    } else {
        Err(malformed(format!("numbers in {name}"), "one that is not finite"))
    }
}

/// The items of a sequence, at least one.
pub(super) fn items<'a>(item: &'a InMemDicomObject, tag: Tag, name: &str) -> Result<&'a [InMemDicomObject]> {
    match item.get(tag).and_then(|element| element.items()) {
        Some([]) | None => Err(malformed(format!("items in the {name}"), "none")),
        Some(items) => Ok(items),
    }
}
