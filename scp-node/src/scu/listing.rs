//! What an archive's answers say, typed: series, images and plans.

use chrono::{NaiveDate, NaiveDateTime, NaiveTime};

use super::archive::Answer;
use crate::images::head::{self, Beam, Head};
use crate::images::walk::{Path, Syntax};
use crate::names::Uid;

/// Number of Series Related Instances, PS3.4 §C.6.1.1.4: an optional key.
pub(super) const SERIES_INSTANCES: u32 = 0x0020_1209;

/// A series, as a SERIES-level answer tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedSeries {
    /// (0020,000D)
    pub study_uid: Uid,
    /// (0020,000E)
    pub series_uid: Uid,
    /// (0008,0060)
    pub modality: String,
    /// (0020,1209), when the archive counts.
    pub instances: Option<u32>,
}

/// An image, as an IMAGE-level answer tells; what the answer lacks is `None`.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedImage {
    /// (0008,0018)
    pub sop_instance_uid: Uid,
    /// (0020,000D)
    pub study_uid: Uid,
    /// (0020,000E)
    pub series_uid: Uid,
    /// Referenced SOP Instance UID of the plan, (300C,0002).
    pub plan_uid: Option<Uid>,
    /// Acquisition date and time; midnight when no time is told. Content's date is none: only the object says whether it
    /// has another one.
    pub acquired: Option<NaiveDateTime>,
    /// (0008,0008)
    pub image_type: Option<String>,
    /// MV or kV.
    pub beam: Option<Beam>,
}

/// A plan, as an IMAGE-level answer tells.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ListedPlan {
    /// (0008,0018)
    pub plan_uid: Uid,
    /// (0020,000D)
    #[serde(skip)]
    pub study_uid: Uid,
    /// (0020,000E)
    #[serde(skip)]
    pub series_uid: Uid,
    /// (300A,0002)
    pub label: Option<String>,
    /// (300A,0006), (300A,0007)
    pub dated: Option<NaiveDateTime>,
}

/// The elements of an answer that are read.
pub(super) fn wanted(path: Path) -> bool {
    head::wanted(path) || path == Path { parent: 0, tag: SERIES_INSTANCES }
}

fn typed(answer: &Answer) -> Head {
    Head::new(answer, Syntax::from_uid("1.2.840.10008.1.2"))
}

fn uid(text: Option<&String>) -> Option<Uid> {
    text.and_then(|t| Uid::new(t))
}

/// Whether the answer is about this patient. An archive may match without regard to case, take `*` in a patient ID as a
/// wildcard, or ignore the key: an answer about another patient must never be used. Only a hierarchical query, which
/// names a study or series of the patient, may be answered without the ID.
fn is_about(head: &Head, patient_id: &str, hierarchical: bool) -> bool {
    head.patient_id == patient_id || (hierarchical && head.patient_id.is_empty())
}

/// The study of a STUDY-level answer about this patient.
pub(super) fn study_of(answer: &Answer, patient_id: &str) -> Option<Uid> {
    let head = typed(answer);
    is_about(&head, patient_id, false).then(|| uid(head.study_uid.as_ref()))?
}

impl ListedSeries {
    /// From a SERIES-level answer; `study_uid` is the one that was asked for, when it was.
    pub(super) fn read(answer: &Answer, patient_id: &str, study_uid: Option<&Uid>) -> Option<Self> {
        let head = typed(answer);
        let count = answer.get(&Path { parent: 0, tag: SERIES_INSTANCES });
        let count = count
            .and_then(|v| std::str::from_utf8(v).ok())
            .and_then(|t| t.trim_matches([' ', '\0']).parse().ok());
        is_about(&head, patient_id, study_uid.is_some()).then_some(())?;
        Some(Self {
            study_uid: uid(head.study_uid.as_ref()).or_else(|| study_uid.cloned())?,
            series_uid: uid(head.series_uid.as_ref())?,
            modality: head.modality.unwrap_or_default(),
            instances: count,
        })
    }

    /// Whether it holds plans.
    pub fn has_plans(&self) -> bool {
        self.modality == "RTPLAN"
    }

    /// Whether it holds RT Images.
    pub fn has_images(&self) -> bool {
        self.modality == "RTIMAGE"
    }
}

impl ListedImage {
    /// From an IMAGE-level answer; `series` is the one that was asked for, when it was.
    pub(super) fn read(answer: &Answer, patient_id: &str, series: Option<&ListedSeries>) -> Option<Self> {
        let head = typed(answer);
        is_about(&head, patient_id, series.is_some()).then_some(())?;
        Some(Self {
            sop_instance_uid: uid(head.sop_instance_uid.as_ref())?,
            study_uid: uid(head.study_uid.as_ref()).or_else(|| series.map(|s| s.study_uid.clone()))?,
            series_uid: uid(head.series_uid.as_ref()).or_else(|| series.map(|s| s.series_uid.clone()))?,
            acquired: head.acquisition,
            beam: head.beam(),
            plan_uid: head.plan_uid,
            image_type: head.image_type,
        })
    }

    /// Acquisition date.
    pub fn date(&self) -> Option<NaiveDate> {
        self.acquired.map(|a| a.date())
    }

    /// Whether more than a date is known. Midnight to the microsecond is what a time becomes that nobody told.
    pub fn is_timed(&self) -> bool {
        self.acquired.is_some_and(|a| a.time() != NaiveTime::MIN)
    }
}

impl ListedPlan {
    /// From an IMAGE-level answer; `series` is the one that was asked for, when it was.
    pub(super) fn read(answer: &Answer, patient_id: &str, series: Option<&ListedSeries>) -> Option<Self> {
        let head = typed(answer);
        is_about(&head, patient_id, series.is_some()).then_some(())?;
        Some(Self {
            plan_uid: uid(head.sop_instance_uid.as_ref())?,
            study_uid: uid(head.study_uid.as_ref()).or_else(|| series.map(|s| s.study_uid.clone()))?,
            series_uid: uid(head.series_uid.as_ref()).or_else(|| series.map(|s| s.series_uid.clone()))?,
            label: head.plan_label,
            dated: head.plan_date,
        })
    }
}
