//! Who may associate, and in which contexts: from an A-ASSOCIATE-RQ to the A-ASSOCIATE-AC or -RJ that answers it. No I/O.
//!
//! dicom-ul's own acceptor refuses transfer syntaxes that it cannot decode, sees no address and rejects only for good;
//! we keep bytes as they come and so take every syntax, so its PDUs are used and the decision is ours. Source: PS3.8 §7.1, §9.3.

use std::collections::HashSet;

use dicom_dictionary_std::{StandardSopClassDictionary, uids};
use dicom_ul::pdu::{
    AssociationAC, AssociationRJ, AssociationRJResult, AssociationRJServiceProviderASCEReason,
    AssociationRJServiceUserReason, AssociationRJSource, AssociationRQ, PresentationContextResult,
    PresentationContextResultReason, UserVariableItem,
};

use crate::dimse::identity::{APPLICATION_CONTEXT, IMPLEMENTATION_CLASS, IMPLEMENTATION_VERSION};
use crate::images::head::{RT_IMAGE, RT_PLAN, RT_PLAN_VARIAN};
use crate::names::{AeTitle, Uid, fits};
use crate::settings::{NodeSettings, StorageClasses};

/// Root of the standard's transfer syntaxes. PS3.6 annex A.
const STANDARD: &str = "1.2.840.10008.1.2";
/// Explicit VR big endian, retired.
const BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";
/// What an association uses when the requestor does not say. PS3.8 §D.1 has no default; dicom-ul's is 16 KiB.
const PDU_LENGTH_UNSAID: u32 = 16 * 1024;

/// An association that was admitted.
#[derive(Debug, Clone)]
pub(super) struct Accepted {
    /// The answer.
    pub reply: AssociationAC,
    /// Who called, trimmed and checked.
    pub calling_ae: AeTitle,
    /// Accepted contexts.
    pub contexts: Vec<Context>,
    /// Longest PDU that the requestor takes; 0 is no limit.
    pub pdu_length: u32,
}

/// An accepted presentation context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Context {
    /// Odd, 1 to 255.
    pub id: u8,
    /// SOP class.
    pub abstract_syntax: String,
    /// As chosen from the requestor's list.
    pub transfer_syntax: String,
}

/// Decides on a request whose contexts are legal ([`has_legal_contexts`]).
///
/// # Errors
/// The A-ASSOCIATE-RJ to send.
pub(super) fn admit(
    request: &AssociationRQ,
    node: &NodeSettings,
    classes: StorageClasses,
) -> Result<Accepted, AssociationRJ> {
    use AssociationRJServiceUserReason as User;
    if request.protocol_version & 1 == 0 {
        let reason = AssociationRJServiceProviderASCEReason::ProtocolVersionNotSupported;
        return Err(reject(AssociationRJSource::ServiceProviderASCE(reason)));
    }
    let for_good = |reason| Err(reject(AssociationRJSource::ServiceUser(reason)));
    if request.application_context_name.trim_end_matches(['\0', ' ']) != APPLICATION_CONTEXT {
        return for_good(User::ApplicationContextNameNotSupported);
    }
    if node.access.check_called_ae && request.called_ae_title.trim() != node.ae_title.as_str() {
        return for_good(User::CalledAETitleNotRecognized);
    }
    let Ok(calling_ae) = AeTitle::new(&request.calling_ae_title) else {
        return for_good(User::CallingAETitleNotRecognized);
    };
    if !node.access.calling_ae.iter().any(|pattern| fits(pattern, calling_ae.as_str())) {
        return for_good(User::CallingAETitleNotRecognized);
    }
    let mut contexts = Vec::new();
    let mut results = Vec::new();
    for proposed in &request.presentation_contexts {
        let abstract_syntax = trim(&proposed.abstract_syntax);
        let chosen = choose(&proposed.transfer_syntaxes);
        let (reason, transfer_syntax) = match (is_taken(abstract_syntax, classes), chosen) {
            (false, _) => {
                (PresentationContextResultReason::AbstractSyntaxNotSupported, uids::IMPLICIT_VR_LITTLE_ENDIAN)
            }
            (true, None) => (
                PresentationContextResultReason::TransferSyntaxesNotSupported,
                uids::IMPLICIT_VR_LITTLE_ENDIAN,
            ),
            (true, Some(syntax)) => (PresentationContextResultReason::Acceptance, syntax),
        };
        if reason == PresentationContextResultReason::Acceptance {
            contexts.push(Context {
                id: proposed.id,
                abstract_syntax: abstract_syntax.into(),
                transfer_syntax: transfer_syntax.into(),
            });
        }
        results.push(PresentationContextResult {
            id: proposed.id,
            reason,
            transfer_syntax: transfer_syntax.into(),
        });
    }
    let pdu_length = request.user_variables.iter().find_map(|v| match v {
        UserVariableItem::MaxLength(length) => Some(*length),
        _ => None,
    });
    let reply = AssociationAC {
        protocol_version: 1,
        calling_ae_title: request.calling_ae_title.clone(),
        called_ae_title: request.called_ae_title.clone(),
        application_context_name: APPLICATION_CONTEXT.into(),
        presentation_contexts: results,
        user_variables: vec![
            UserVariableItem::MaxLength(node.limits.pdu_length),
            UserVariableItem::ImplementationClassUID(IMPLEMENTATION_CLASS.into()),
            UserVariableItem::ImplementationVersionName(IMPLEMENTATION_VERSION.into()),
        ],
    };
    Ok(Accepted { reply, calling_ae, contexts, pdu_length: pdu_length.unwrap_or(PDU_LENGTH_UNSAID) })
}

/// Whether the ids of the proposed contexts are odd and different, and so at most 128; else it cannot be said which one an answer or a
/// message means. Source: PS3.8 §9.3.2.2.
pub(super) fn has_legal_contexts(request: &AssociationRQ) -> bool {
    let mut seen = HashSet::new();
    request.presentation_contexts.iter().all(|context| context.id % 2 == 1 && seen.insert(context.id))
}

fn reject(source: AssociationRJSource) -> AssociationRJ {
    AssociationRJ { result: AssociationRJResult::Permanent, source }
}

fn trim(uid: &str) -> &str {
    uid.trim_end_matches(['\0', ' '])
}

/// The first syntax that the sender offers, its own preference; big endian, deflated and private ones, which few can read, only
/// where nothing else is offered.
fn choose(offered: &[String]) -> Option<&str> {
    let offered = || offered.iter().map(|s| trim(s)).filter(|s| Uid::new(s).is_some());
    let awkward = |s: &&str| {
        [BIG_ENDIAN, uids::DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN].contains(s) || !s.starts_with(STANDARD)
    };
    offered().find(|s| !awkward(s)).or_else(|| offered().next())
}

/// Whether a SOP class is taken.
fn is_taken(class: &str, classes: StorageClasses) -> bool {
    if class == uids::VERIFICATION || matches!(class, RT_IMAGE | RT_PLAN | RT_PLAN_VARIAN) {
        return true;
    }
    match classes {
        StorageClasses::Rt => false,
        StorageClasses::Qa => matches!(
            class,
            uids::RT_DOSE_STORAGE
                | uids::RT_STRUCTURE_SET_STORAGE
                | uids::CT_IMAGE_STORAGE
                | uids::ENHANCED_CT_IMAGE_STORAGE
                | uids::COMPUTED_RADIOGRAPHY_IMAGE_STORAGE
                | uids::SECONDARY_CAPTURE_IMAGE_STORAGE
        ),
        StorageClasses::All => is_storage(class),
    }
}

/// Every standard storage class, and every private one: a private class that is offered here is meant to be stored.
fn is_storage(class: &str) -> bool {
    use dicom_core::dictionary::UidDictionary;
    match StandardSopClassDictionary.by_uid(class) {
        Some(entry) => entry.name.contains("Storage") && !entry.name.contains("Commitment"),
        None => Uid::new(class).is_some() && !class.starts_with("1.2.840.10008."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dicom_ul::pdu::PresentationContextProposed;

    fn request(contexts: &[(&str, &[&str])]) -> AssociationRQ {
        AssociationRQ {
            protocol_version: 1,
            calling_ae_title: "ARIA            ".into(),
            called_ae_title: "SCP_NODE        ".into(),
            application_context_name: APPLICATION_CONTEXT.into(),
            presentation_contexts: contexts
                .iter()
                .enumerate()
                .map(|(n, (class, syntaxes))| PresentationContextProposed {
                    id: n as u8 * 2 + 1,
                    abstract_syntax: (*class).into(),
                    transfer_syntaxes: syntaxes.iter().map(|s| (*s).to_owned()).collect(),
                })
                .collect(),
            user_variables: vec![UserVariableItem::MaxLength(32_768)],
        }
    }

    fn ids(contexts: &[(&str, &[&str])], classes: StorageClasses) -> Vec<(u8, String)> {
        let accepted = admit(&request(contexts), &NodeSettings::default(), classes).unwrap();
        accepted.contexts.into_iter().map(|c| (c.id, c.transfer_syntax)).collect()
    }

    #[test]
    fn compressed_and_unknown_syntaxes_are_taken_in_the_senders_order() {
        let jpeg_ls = "1.2.840.10008.1.2.4.80";
        let contexts: &[(&str, &[&str])] = &[
            (RT_IMAGE, &[jpeg_ls, uids::IMPLICIT_VR_LITTLE_ENDIAN]),
            (RT_IMAGE, &["1.2.3.4.5"]),
            (RT_IMAGE, &[BIG_ENDIAN, uids::IMPLICIT_VR_LITTLE_ENDIAN]),
            (RT_IMAGE, &[BIG_ENDIAN]),
            (RT_IMAGE, &["1.2.840.113619.5.2", jpeg_ls]),
            (RT_IMAGE, &[]),
        ];
        let chosen = ids(contexts, StorageClasses::Rt);
        let expected = [
            (1, jpeg_ls),
            (3, "1.2.3.4.5"),
            (5, uids::IMPLICIT_VR_LITTLE_ENDIAN),
            (7, BIG_ENDIAN),
            (9, jpeg_ls),
        ];
        assert_eq!(chosen, expected.map(|(id, s)| (id, s.to_owned())));
    }

    #[test]
    fn classes_are_taken_as_the_setting_says() {
        let i: &[&str] = &[uids::IMPLICIT_VR_LITTLE_ENDIAN];
        let contexts = [
            (uids::VERIFICATION, i),
            (RT_PLAN, i),
            (RT_PLAN_VARIAN, i),
            (uids::CT_IMAGE_STORAGE, i),
            (uids::MR_IMAGE_STORAGE, i),
            (uids::STUDY_ROOT_QUERY_RETRIEVE_INFORMATION_MODEL_FIND, i),
            ("1.2.3 no UID", i),
            ("1.2.3.4", i),
        ];
        let accepted = |classes| ids(&contexts, classes).iter().map(|(id, _)| *id).collect::<Vec<_>>();
        assert_eq!(accepted(StorageClasses::Rt), [1, 3, 5]);
        assert_eq!(accepted(StorageClasses::Qa), [1, 3, 5, 7]);
        assert_eq!(accepted(StorageClasses::All), [1, 3, 5, 7, 9, 15]);
    }

    #[test]
    fn who_may_not_associate_is_rejected_with_the_reason() {
        use AssociationRJServiceUserReason as User;
        let node = NodeSettings::default();
        let with = |change: &dyn Fn(&mut AssociationRQ, &mut NodeSettings)| {
            let (mut r, mut n) = (request(&[]), node.clone());
            change(&mut r, &mut n);
            admit(&r, &n, StorageClasses::Rt).map(|_| ()).map_err(|rj| rj.source)
        };
        assert_eq!(with(&|_, _| {}), Ok(()));
        let user = |reason| Err(AssociationRJSource::ServiceUser(reason));
        assert_eq!(with(&|r, _| r.called_ae_title = "OTHER".into()), user(User::CalledAETitleNotRecognized));
        assert_eq!(
            with(&|r, n| {
                r.called_ae_title = "OTHER".into();
                n.access.check_called_ae = false;
            }),
            Ok(())
        );
        assert_eq!(
            with(&|_, n| n.access.calling_ae = vec!["LINAC*".into()]),
            user(User::CallingAETitleNotRecognized)
        );
        assert_eq!(with(&|_, n| n.access.calling_ae = vec!["AR?A".into()]), Ok(()));
        assert_eq!(with(&|r, _| r.calling_ae_title = " ".into()), user(User::CallingAETitleNotRecognized));
        assert_eq!(
            with(&|r, _| r.application_context_name = "1.2".into()),
            user(User::ApplicationContextNameNotSupported)
        );
        assert!(matches!(
            with(&|r, _| r.protocol_version = 2),
            Err(AssociationRJSource::ServiceProviderASCE(_))
        ));
    }
}
