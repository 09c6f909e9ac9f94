//! Why an object was not taken, as the status that the sender gets: one exhaustive place.

use crate::dimse::{Reply, Status};
use crate::images::Refusal;

/// The reply to a C-STORE that was not taken. Source: PS3.4 §B.2.3, PS3.7 §C.5.
///
/// The comment never holds patient identity.
pub(super) fn status_of(refusal: &Refusal) -> Reply {
    let (status, comment) = match refusal {
        Refusal::OutOfResources(_) => (Status::OUT_OF_RESOURCES, "out of resources"),
        Refusal::Mismatch(_) => (Status::DATA_SET_MISMATCH, "data set does not match SOP class or instance"),
        Refusal::CannotUnderstand(_) => (Status::CANNOT_UNDERSTAND, "data set is damaged or cut"),
        Refusal::InvalidInstance => (Status::INVALID_INSTANCE, "invalid SOP Instance UID"),
        Refusal::PatientNotAdmitted(_) => (Status::NOT_AUTHORIZED, "patient not admitted here"),
        Refusal::ClassNotTaken(_) => (Status::CLASS_NOT_SUPPORTED, "SOP class not taken"),
        Refusal::Fault(_) => (Status::PROCESSING_FAILURE, "storage fault, see the receiver's log"),
    };
    Reply { status, comment: Some(comment.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use proptest::prelude::*;

    fn refusals(text: &str) -> Vec<Refusal> {
        vec![
            Refusal::OutOfResources(text.into()),
            Refusal::Mismatch(text.into()),
            Refusal::CannotUnderstand(Error::Unsupported { what: text.into() }),
            Refusal::InvalidInstance,
            Refusal::PatientNotAdmitted(text.into()),
            Refusal::ClassNotTaken(text.into()),
            Refusal::Fault(Error::Unsupported { what: text.into() }),
        ]
    }

    #[test]
    fn every_refusal_has_its_own_failure_status() {
        let codes: Vec<u16> = refusals("x").iter().map(|r| status_of(r).status.0).collect();
        assert_eq!(codes, [0xA700, 0xA900, 0xC000, 0x0117, 0x0124, 0x0122, 0x0110]);
    }

    proptest! {
        #[test]
        fn no_refusal_is_ever_a_success_or_tells_what_it_holds(text in "[A-Za-z^]{6,20}", n in 0usize..7) {
            let reply = status_of(&refusals(&text)[n]);
            prop_assert_eq!(reply.status.class(), crate::dimse::status::Class::Failure);
            let comment = reply.comment.unwrap();
            prop_assert!(comment.len() <= 64 && !comment.contains(&text));
        }
    }
}
