//! The identifiers that are sent, and nothing else: which keys at which level, relational and hierarchical.
//!
//! Every query is narrow: it names the patient, and asks only for attributes that a decision needs. Source: PS3.4 §C.6.2.

use super::ListedSeries;
use super::listing::SERIES_INSTANCES;
use crate::dimse::Identifier;
use crate::names::Uid;

const LEVEL: u32 = 0x0008_0052;
const SOP_CLASS: u32 = 0x0008_0016;
const SOP_INSTANCE: u32 = 0x0008_0018;
const IMAGE_TYPE: u32 = 0x0008_0008;
const ACQUISITION_DATE: u32 = 0x0008_0022;
const ACQUISITION_DATE_TIME: u32 = 0x0008_002A;
const ACQUISITION_TIME: u32 = 0x0008_0032;
const CONTENT_DATE: u32 = 0x0008_0023;
const CONTENT_TIME: u32 = 0x0008_0033;
const MODALITY: u32 = 0x0008_0060;
const REFERENCED_INSTANCE: u32 = 0x0008_1155;
const PATIENT_ID: u32 = 0x0010_0020;
const KVP: u32 = 0x0018_0060;
const STUDY: u32 = 0x0020_000D;
const SERIES: u32 = 0x0020_000E;
const EXPOSURES: u32 = 0x3002_0030;
const PLAN_REFERENCE: u32 = 0x300C_0002;
const PLAN_LABEL: u32 = 0x300A_0002;
const PLAN_DATE: u32 = 0x300A_0006;
const PLAN_TIME: u32 = 0x300A_0007;
const DOSIMETER_UNIT: u32 = 0x300A_00B3;

/// Where in the hierarchy a query looks.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// Everything of the patient: relational, PS3.4 §C.4.1.2.2.2.
    Patient,
    /// One study.
    Study(&'a Uid),
    /// One series.
    Series(&'a ListedSeries),
}

/// A hierarchical query may hold only unique keys of the levels above its own, PS3.4 §C.4.1.2.1: patient ID and modality
/// belong to relational ones.
fn scoped(level: &str, patient_id: &str, modality: &str, scope: Scope<'_>) -> Identifier {
    let query = Identifier::new().text(LEVEL, level);
    match scope {
        Scope::Patient => {
            query.text(PATIENT_ID, patient_id).text(MODALITY, modality).returning(&[STUDY, SERIES])
        }
        Scope::Study(study) => {
            query.uids(STUDY, [study.as_str()]).text(MODALITY, modality).returning(&[SERIES])
        }
        Scope::Series(s) => query.uids(STUDY, [s.study_uid.as_str()]).uids(SERIES, [s.series_uid.as_str()]),
    }
}

/// The patient's studies.
pub fn studies(patient_id: &str) -> Identifier {
    Identifier::new().text(LEVEL, "STUDY").text(PATIENT_ID, patient_id).returning(&[STUDY])
}

/// Series with their counts, of all modalities: one query tells about plans and images.
pub fn series(patient_id: &str, scope: Scope<'_>) -> Identifier {
    scoped("SERIES", patient_id, "", scope).returning(&[SERIES_INSTANCES])
}

/// Plans with their labels.
pub fn plans(patient_id: &str, scope: Scope<'_>) -> Identifier {
    scoped("IMAGE", patient_id, "RTPLAN", scope).returning(&[
        SOP_CLASS,
        SOP_INSTANCE,
        PLAN_LABEL,
        PLAN_DATE,
        PLAN_TIME,
    ])
}

/// One plan of a patient by its UID: relational.
pub fn plan_by_uid(patient_id: &str, plan_uid: &Uid) -> Identifier {
    let query = scoped("IMAGE", patient_id, "RTPLAN", Scope::Patient).uids(SOP_INSTANCE, [plan_uid.as_str()]);
    query.returning(&[SOP_CLASS, PLAN_LABEL, PLAN_DATE, PLAN_TIME])
}

/// RT Images with what a choice among them needs.
pub fn images(patient_id: &str, scope: Scope<'_>) -> Identifier {
    let plan = Identifier::new().returning(&[REFERENCED_INSTANCE]);
    let exposure = Identifier::new().returning(&[KVP]);
    scoped("IMAGE", patient_id, "RTIMAGE", scope)
        .returning(&[
            SOP_INSTANCE,
            IMAGE_TYPE,
            ACQUISITION_DATE,
            ACQUISITION_DATE_TIME,
            ACQUISITION_TIME,
            CONTENT_DATE,
            CONTENT_TIME,
        ])
        .returning(&[DOSIMETER_UNIT])
        .sequence(PLAN_REFERENCE, &plan)
        .sequence(EXPOSURES, &exposure)
}

/// Which objects a series has, and nothing of what is in them: cheap also where an archive reads files to answer.
pub fn instances(series: &ListedSeries) -> Identifier {
    scoped("IMAGE", "", "", Scope::Series(series)).returning(&[SOP_INSTANCE])
}

/// Moves a whole series.
pub fn move_series(study: &Uid, series: &Uid) -> Identifier {
    Identifier::new().text(LEVEL, "SERIES").uids(STUDY, [study.as_str()]).uids(SERIES, [series.as_str()])
}

/// Moves some instances of one series. The unique key of the level may be a list: PS3.4 §C.4.2.1.4.2.
pub fn move_instances<'a>(
    study: &Uid,
    series: &Uid,
    instances: impl IntoIterator<Item = &'a Uid>,
) -> Identifier {
    Identifier::new()
        .text(LEVEL, "IMAGE")
        .uids(STUDY, [study.as_str()])
        .uids(SERIES, [series.as_str()])
        .uids(SOP_INSTANCE, instances.into_iter().map(Uid::as_str))
}
