//! RT Plans: what should be delivered, and what was, in DICOM's words.
//!
//! Input: an RT Plan, as a DICOM file or as a bare data set (as some planning systems write it). Output: a [`Delivery`] per
//! beam, or a plan made of a delivery. Trust: none; items are found by their type, beams by their number, never by place. Not supported: ion and brachy plans, MLCs that move along Y, wedges and compensators (they do
//! not change a delivery's positions).

pub(crate) mod angles;
mod beam;
mod field;
mod file;
mod matching;
mod read;
mod write;

use std::io::Read;
use std::path::Path;

use dicom_core::header::Tag;
use dicom_dictionary_std::{tags, uids};
use dicom_object::InMemDicomObject;

pub use beam::PlanBeam;
pub use matching::{DeliveredBeam, MatchedBeam, match_beams, match_planned};
pub use write::{Identity, WriteOptions};

use crate::{Delivery, Error, Result};

/// Largest plan read, in bytes: the largest clinical plans have some 10 MB.
const MAX_PLAN_BYTES: u64 = 256 << 20;
/// Where a DICOM file's magic stands.
const PREAMBLE_BYTES: usize = 128;
const MAGIC: &[u8] = b"DICM";

/// Which beam limiting devices are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Scope {
    /// Any X and Y jaws, asymmetric or symmetric or none, with an MLCX. X jaws narrow the leaf opening.
    #[default]
    Full,
    /// MLCX with ASYMY and nothing else, and no angle of 180° that could be −180°, as PyMedPhys.
    Compatible,
}

/// A parsed RT Plan.
#[derive(Debug, Clone)]
pub struct RtPlan {
    dataset: InMemDicomObject,
}

/// A fraction group and the beams it refers to, in its order.
#[derive(Debug, Clone, PartialEq)]
pub struct FractionGroup {
    /// Fraction Group Number (300A,0071).
    pub number: i32,
    /// Its beams.
    pub beams: Vec<ReferencedBeam>,
}

/// A beam as a fraction group refers to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReferencedBeam {
    /// Referenced Beam Number (300C,0006).
    pub number: i32,
    /// Beam Meterset (300A,0086), MU; `None` for setup beams and plans without calculated dose.
    pub meterset_mu: Option<f64>,
}

impl RtPlan {
    /// Reads a plan from a file.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, else as [`RtPlan::from_bytes`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = std::fs::File::open(path).map_err(|source| Error::io(path, source))?;
        let mut bytes = Vec::new();
        file.take(MAX_PLAN_BYTES + 1).read_to_end(&mut bytes).map_err(|source| Error::io(path, source))?;
        Self::from_bytes(&bytes)
    }

    /// Reads a plan: a DICOM file, one without its preamble, or a bare data set in little endian.
    ///
    /// # Errors
    /// [`Error::Malformed`] if it is no DICOM or ends too early, [`Error::Unsupported`] if it is no RT Plan or compressed,
    /// [`Error::Limit`] beyond 256 MB.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        if bytes.len() as u64 > MAX_PLAN_BYTES {
            return Err(Error::Limit {
                what: "size of the RT Plan in bytes",
                found: bytes.len() as u64,
                limit: MAX_PLAN_BYTES,
            });
        }
        let plan = Self { dataset: read::dataset(bytes)? };
        match plan.text(tags::SOP_CLASS_UID).as_deref() {
            Some(uids::RT_PLAN_STORAGE) => Ok(plan),
            Some(other) => Err(Error::unsupported(format!("SOP class {other} where an RT Plan is expected"))
                .with_hint("choose the RT Plan of the treatment (its name often begins with RP)")),
            None => Err(Error::malformed("RT Plan", 0, "a SOP Class UID", "none")),
        }
    }

    /// The data set.
    pub fn dataset(&self) -> &InMemDicomObject {
        &self.dataset
    }

    /// RT Plan Label (300A,0002).
    pub fn label(&self) -> Option<String> {
        self.text(tags::RT_PLAN_LABEL)
    }

    /// SOP Instance UID (0008,0018).
    pub fn sop_instance_uid(&self) -> Option<String> {
        self.text(tags::SOP_INSTANCE_UID)
    }

    /// All fraction groups.
    ///
    /// # Errors
    /// [`Error::Malformed`] if there is none, or a number is missing.
    pub fn fraction_groups(&self) -> Result<Vec<FractionGroup>> {
        let groups = field::items(&self.dataset, tags::FRACTION_GROUP_SEQUENCE, "Fraction Group Sequence")?;
        groups.iter().map(fraction_group).collect()
    }

    /// The fraction group with a number, or the only one.
    ///
    /// # Errors
    /// [`Error::Misuse`] naming the choices if there are several or none has the number.
    pub fn fraction_group(&self, number: Option<i32>) -> Result<FractionGroup> {
        let mut groups = self.fraction_groups()?;
        let numbers: Vec<i32> = groups.iter().map(|group| group.number).collect();
        match number {
            Some(number) => groups.retain(|group| group.number == number),
            None if groups.len() > 1 => {
                return Err(Error::misuse(format!("the plan has fraction groups {numbers:?}"))
                    .with_hint("say which fraction group is meant"));
            }
            None => {}
        }
        groups.into_iter().next().ok_or_else(|| {
            Error::misuse(format!(
                "the plan has no fraction group {}, but {numbers:?}",
                number.unwrap_or_default()
            ))
            .with_hint("choose one of the fraction groups that the plan has")
        })
    }

    /// The treatment beams of a fraction group, in its order. Setup beams are left out.
    ///
    /// # Errors
    /// [`Error::Malformed`] for missing or inconsistent attributes, [`Error::Unsupported`] for devices beyond `scope` or a
    /// treatment beam without meterset.
    pub fn beams(&self, group: &FractionGroup, scope: Scope) -> Result<Vec<PlanBeam>> {
        let mut beams = Vec::with_capacity(group.beams.len());
        for referenced in &group.beams {
            let item = self.beam_item(referenced.number)?;
            if !(scope == Scope::Full && beam::is_setup(item)) {
                beams.push(PlanBeam::read(item, *referenced, scope)?);
            }
        }
        Ok(beams)
    }

    /// The delivery that a fraction group (the only one by default) plans, its beams one after the other.
    ///
    /// # Errors
    /// As [`RtPlan::fraction_group`] and [`RtPlan::beams`].
    ///
    /// # Source
    /// PyMedPhys's `Delivery.from_dicom`; equal to 1e-9 on its goldens.
    pub fn delivery(&self, group: Option<i32>, scope: Scope) -> Result<Delivery> {
        let beams = self.beams(&self.fraction_group(group)?, scope)?;
        Delivery::merge(beams.iter().map(|beam| &beam.delivery))
    }

    /// The plan as a DICOM file: preamble, file meta group, Explicit VR Little Endian (Implicit, if a value is too long for it).
    ///
    /// # Errors
    /// [`Error::Malformed`] if the data set cannot be encoded.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        file::bytes(&self.dataset)
    }

    fn beam_item(&self, number: i32) -> Result<&InMemDicomObject> {
        let beams = field::items(&self.dataset, tags::BEAM_SEQUENCE, "Beam Sequence")?;
        let mut found = beams.iter().filter(|item| field::integer(item, tags::BEAM_NUMBER) == Some(number));
        match (found.next(), found.next()) {
            (Some(item), None) => Ok(item),
            (None, _) => Err(malformed(
                format!("a beam with number {number}, to which a fraction group refers"),
                "none",
            )),
            (Some(_), Some(_)) => Err(malformed(format!("one beam with number {number}"), "several")),
        }
    }

    fn text(&self, tag: Tag) -> Option<String> {
        field::text(&self.dataset, tag)
    }
}

fn fraction_group(item: &InMemDicomObject) -> Result<FractionGroup> {
    let number = field::integer(item, tags::FRACTION_GROUP_NUMBER)
        .ok_or_else(|| malformed("a Fraction Group Number", "none"))?;
    let beams = field::items(item, tags::REFERENCED_BEAM_SEQUENCE, "Referenced Beam Sequence")?
        .iter()
        .map(|beam| {
            let number = field::integer(beam, tags::REFERENCED_BEAM_NUMBER)
                .ok_or_else(|| malformed("a Referenced Beam Number", "none"))?;
            Ok(ReferencedBeam { number, meterset_mu: field::number(beam, tags::BEAM_METERSET) })
        })
        .collect::<Result<_>>()?;
    Ok(FractionGroup { number, beams })
}

fn malformed(expected: impl Into<String>, found: impl Into<String>) -> Error {
    Error::malformed("RT Plan", 0, expected, found)
}

fn cannot_decode(error: impl std::error::Error) -> Error {
    malformed("a readable DICOM data set", chain(&error))
}

fn cannot_encode(error: impl std::error::Error) -> Error {
    malformed("values that DICOM can hold", chain(&error))
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}
