//! The generated Winston-Lutz patient: plans, dates, MV and kV images, all invented.
//!
//! Output: one [`Instance`] per object, its header in memory, its pixels drawn when asked for. Which attributes there are and
//! what they hold follows PS3.3 C.8.8.2 and what Varian's portal images carry (inferred from their users' descriptions).

use std::sync::Arc;

use chrono::{Duration, NaiveDate, NaiveDateTime};
use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::InMemDicomObject;
use dicom_object::mem::InMemElement;
use sha2::{Digest, Sha256};

use super::phantom::{Phantom, SAD_MM};
use crate::error::{Error, Result};

/// What is generated.
#[derive(Debug, Clone)]
pub struct PatientOptions {
    /// Patient ID.
    pub patient_id: String,
    /// When the newest session's MV series began; the two others lie 7 and 14 days before.
    pub newest: NaiveDateTime,
    /// MV images per session, at most 16.
    pub images_per_session: usize,
    /// Rows and columns; 1280 is an aS1200.
    pub pixels: u16,
    /// Pixel spacing in the image plane, mm; 0.336 at 1280 pixels.
    pub pixel_mm: f64,
}

impl PatientOptions {
    /// The demo's patient: 16 images of an aS1200 a session, 52 MB.
    pub fn full_size(newest: NaiveDateTime) -> Self {
        Self { patient_id: "QA_TB_WL".into(), newest, images_per_session: 16, pixels: 1280, pixel_mm: 0.336 }
    }

    /// A patient for tests: 4 images of 64 by 64 a session, on 2026-03-16, 09 and 02.
    pub fn small() -> Self {
        let newest = NaiveDate::from_ymd_opt(2026, 3, 16).and_then(|d| d.and_hms_opt(6, 41, 10));
        let newest = newest.unwrap_or_default();
        Self { patient_id: "QA_TB_WL".into(), newest, images_per_session: 4, pixels: 64, pixel_mm: 6.72 }
    }
}

/// The patient, its plans, and every object.
#[derive(Debug, Clone)]
pub struct GeneratedPatient {
    /// Patient ID.
    pub patient_id: String,
    /// Plans, newest first. The label [`GeneratedPatient::LABEL_10MV`] stands twice: the clinical plan, and the one it replaced.
    pub plans: Vec<GeneratedPlan>,
    /// Every object, plans among them.
    pub instances: Vec<Instance>,
}

/// A generated plan.
#[derive(Debug, Clone)]
pub struct GeneratedPlan {
    /// RT Plan Label.
    pub label: &'static str,
    /// SOP Instance UID.
    pub uid: String,
    /// When it was made.
    pub date: NaiveDate,
    /// Dates of its sessions, newest first.
    pub sessions: Vec<NaiveDate>,
}

/// One object of the archive.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Everything but the pixels.
    pub header: InMemDicomObject,
    /// How the pixels are drawn; `None` when there are none.
    pub phantom: Option<Phantom>,
    /// The pixels, if they were drawn in advance.
    drawn: Option<Arc<[u8]>>,
}

impl Instance {
    /// An object that somebody else made, pixels and all.
    pub fn whole(object: InMemDicomObject) -> Self {
        Self { header: object, phantom: None, drawn: None }
    }

    /// Draws the pixels now, so that a move that is timed does not wait for them.
    pub fn draw(&mut self) {
        self.drawn = self.phantom.map(|p| p.pixels().into());
    }

    /// A text value, trimmed; empty when the attribute is absent.
    pub fn text(&self, tag: Tag) -> String {
        let value = self.header.get(tag).and_then(|e| e.to_str().ok());
        value.map(|v| v.trim_end_matches(['\0', ' ']).to_owned()).unwrap_or_default()
    }

    /// SOP Class UID.
    pub fn sop_class_uid(&self) -> String {
        self.text(tags::SOP_CLASS_UID)
    }

    /// SOP Instance UID.
    pub fn sop_instance_uid(&self) -> String {
        self.text(tags::SOP_INSTANCE_UID)
    }

    /// UID of the plan that an image refers to.
    pub fn plan_uid(&self) -> Option<String> {
        let items = self.header.get(tags::REFERENCED_RT_PLAN_SEQUENCE)?.items()?;
        let uid = items.first()?.get(tags::REFERENCED_SOP_INSTANCE_UID)?;
        Some(uid.to_str().ok()?.trim_end_matches(['\0', ' ']).to_owned())
    }

    /// The data set in implicit VR little endian, pixels included.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the header holds what cannot be written.
    pub fn data_set(&self) -> Result<Vec<u8>> {
        let failed =
            |e: &dyn std::fmt::Display| Error::Unsupported { what: format!("simulated object: {e}") };
        let mut bytes = Vec::new();
        let ts = dicom_transfer_syntax_registry::entries::IMPLICIT_VR_LITTLE_ENDIAN.erased();
        self.header.write_dataset_with_ts(&mut bytes, &ts).map_err(|e| failed(&e))?;
        if let Some(phantom) = &self.phantom {
            // (7FE0,0010) is the greatest tag of these objects, so it goes to the end.
            let pixels = self.drawn.clone().unwrap_or_else(|| phantom.pixels().into());
            bytes.extend_from_slice(&[0xE0, 0x7F, 0x10, 0x00]);
            bytes.extend_from_slice(&(pixels.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&pixels);
        }
        Ok(bytes)
    }

    /// A whole DICOM file, preamble and file meta included, as an export would write it.
    ///
    /// # Errors
    /// As [`Instance::data_set`].
    pub fn file(&self) -> Result<Vec<u8>> {
        let meta = dicom_object::FileMetaTableBuilder::new()
            .transfer_syntax(uids::IMPLICIT_VR_LITTLE_ENDIAN)
            .media_storage_sop_class_uid(self.sop_class_uid())
            .media_storage_sop_instance_uid(self.sop_instance_uid())
            .build();
        let failed =
            |e: &dyn std::fmt::Display| Error::Unsupported { what: format!("simulated object: {e}") };
        let mut bytes = vec![0; 128];
        bytes.extend_from_slice(b"DICM");
        meta.map_err(|e| failed(&e))?.write(&mut bytes).map_err(|e| failed(&e))?;
        bytes.extend_from_slice(&self.data_set()?);
        Ok(bytes)
    }
}

/// Gantry, collimator and couch of the exposures of a session, degrees, in the order they are taken.
const ANGLES: [[f64; 3]; 16] = [
    [0.0, 0.0, 0.0],
    [90.0, 0.0, 0.0],
    [180.0, 0.0, 0.0],
    [270.0, 0.0, 0.0],
    [45.0, 0.0, 0.0],
    [135.0, 0.0, 0.0],
    [225.0, 0.0, 0.0],
    [315.0, 0.0, 0.0],
    [0.0, 45.0, 0.0],
    [0.0, 90.0, 0.0],
    [0.0, 270.0, 0.0],
    [0.0, 315.0, 0.0],
    [0.0, 0.0, 45.0],
    [0.0, 0.0, 90.0],
    [0.0, 0.0, 270.0],
    [0.0, 0.0, 315.0],
];
const MACHINE: &str = "TrueBeam1";
const SID_MM: f64 = 1500.0;
const MV: &str = "MU";
const KV: &str = "MINUTE";

impl GeneratedPatient {
    /// The label that two plans share.
    pub const LABEL_10MV: &str = "WL_10MV";
    /// The label of the other plan.
    pub const LABEL_6FFF: &str = "WL_6FFF";

    /// Generates all objects; the same options give the same UIDs and bytes.
    pub fn winston_lutz(options: &PatientOptions) -> Self {
        let day = options.newest.date();
        let weeks = [0, 7, 14].map(|days| options.newest - Duration::days(days));
        let plan = |label, name: &str, age_days, sessions: &[NaiveDateTime]| GeneratedPlan {
            label,
            uid: uid(options, &format!("plan {name}")),
            date: day - Duration::days(age_days),
            sessions: sessions.iter().map(NaiveDateTime::date).collect(),
        };
        let [now, week, fortnight] = weeks;
        let plans = vec![
            plan(Self::LABEL_10MV, "10MV", 10, &[now, week]),
            plan(Self::LABEL_6FFF, "6FFF", 200, &weeks),
            // Replaced by the first one ten days ago, under the same label.
            plan(Self::LABEL_10MV, "10MV replaced", 400, &[fortnight]),
        ];
        let mut instances = Vec::new();
        for (n, plan) in plans.iter().enumerate() {
            let study = uid(options, &format!("plan study {}", plan.uid));
            instances.push(rt_plan(options, plan, &study));
            // The planning system's own picture of a beam: an RT Image that nobody measured.
            instances.push(drr(options, plan, &study));
            for begin in weeks.iter().filter(|w| plan.sessions.contains(&w.date())) {
                // Plans follow each other on the machine.
                instances.extend(session(options, plan, *begin + Duration::minutes(20 * n as i64)));
            }
        }
        Self { patient_id: options.patient_id.clone(), plans, instances }
    }

    /// The images of one plan and date that were measured with the MV beam.
    pub fn mv_session(&self, plan: &GeneratedPlan, date: NaiveDate) -> Vec<&Instance> {
        let date = date.format("%Y%m%d").to_string();
        let of_plan = |i: &&Instance| i.plan_uid().as_deref() == Some(&plan.uid);
        let measured = |i: &&Instance| {
            i.text(tags::PRIMARY_DOSIMETER_UNIT) == MV && i.text(tags::ACQUISITION_DATE) == date
        };
        self.instances.iter().filter(of_plan).filter(measured).collect()
    }
}

/// Two kV set-up images in a series of their own, then the MV series.
fn session(options: &PatientOptions, plan: &GeneratedPlan, begin: NaiveDateTime) -> Vec<Instance> {
    let study = uid(options, &format!("study {}", begin.date()));
    let series = |kind: &str| uid(options, &format!("series {} {begin} {kind}", plan.uid));
    let (kv, mv) = (series("kV"), series("MV"));
    let angles = ANGLES.iter().take(options.images_per_session).enumerate();
    let images = angles.map(|(n, angles)| {
        let at = begin + Duration::seconds(22 * n as i64);
        rt_image(options, plan, &study, &mv, n, at, *angles, MV)
    });
    let set_up = [[0.0, 0.0, 0.0], [90.0, 0.0, 0.0]].into_iter().enumerate().map(|(n, angles)| {
        let at = begin - Duration::seconds(240 - 30 * n as i64);
        rt_image(options, plan, &study, &kv, n, at, angles, KV)
    });
    set_up.chain(images).collect()
}

#[expect(
    clippy::too_many_arguments,
    reason = "what tells one exposure from the next, all of different types"
)]
fn rt_image(
    options: &PatientOptions,
    plan: &GeneratedPlan,
    study: &str,
    series: &str,
    number: usize,
    at: NaiveDateTime,
    [gantry, collimator, couch]: [f64; 3],
    unit: &str,
) -> Instance {
    let sop_instance = uid(options, &format!("image {series} {number}"));
    // The kV source and panel hang at a right angle to the MV beam.
    let receptor_gantry = if unit == KV { (gantry + 270.0) % 360.0 } else { gantry };
    let phantom = Phantom {
        gantry_iec_deg: receptor_gantry,
        collimator_iec_deg: collimator,
        couch_iec_deg: couch,
        ball_mm: [0.3, -0.2, 0.4],
        ball_diameter_mm: 8.0,
        field_mm: if unit == KV { 100.0 } else { 20.0 },
        field_offset_mm: [0.1, -0.05],
        sid_mm: SID_MM,
        pixel_mm: options.pixel_mm,
        rows: options.pixels,
        columns: options.pixels,
        seed: seed(&sop_instance),
    };
    let half = f64::from(options.pixels.saturating_sub(1)) / 2.0 * options.pixel_mm;
    let name = if unit == KV { "kV" } else { "MV" };
    let mut o = common(options, uids::RT_IMAGE_STORAGE, &sop_instance, "RTIMAGE", study, series, at);
    put(&mut o, tags::IMAGE_TYPE, VR::CS, texts(["ORIGINAL", "PRIMARY", "PORTAL"]));
    put_text(&mut o, tags::INSTANCE_NUMBER, VR::IS, (number + 1).to_string());
    put_text(&mut o, tags::ACQUISITION_DATE, VR::DA, date(at));
    put_text(&mut o, tags::ACQUISITION_TIME, VR::TM, time(at));
    put_text(&mut o, tags::CONTENT_DATE, VR::DA, date(at));
    put_text(&mut o, tags::CONTENT_TIME, VR::TM, time(at));
    put_text(&mut o, tags::RT_IMAGE_LABEL, VR::SH, format!("{name}_{:03.0}_{}", gantry, number + 1));
    put_text(&mut o, tags::RT_IMAGE_PLANE, VR::CS, "NORMAL");
    put_text(&mut o, tags::X_RAY_IMAGE_RECEPTOR_ANGLE, VR::DS, "0");
    put(&mut o, tags::X_RAY_IMAGE_RECEPTOR_TRANSLATION, VR::DS, numbers(&[0.0, 0.0, SAD_MM - SID_MM]));
    put(&mut o, tags::IMAGE_PLANE_PIXEL_SPACING, VR::DS, numbers(&[options.pixel_mm; 2]));
    put(&mut o, tags::RT_IMAGE_POSITION, VR::DS, numbers(&[-half, half]));
    put_text(&mut o, tags::RADIATION_MACHINE_NAME, VR::SH, MACHINE);
    put_text(&mut o, tags::RADIATION_MACHINE_SAD, VR::DS, decimal(SAD_MM));
    put_text(&mut o, tags::RT_IMAGE_SID, VR::DS, decimal(SID_MM));
    put_text(&mut o, tags::PRIMARY_DOSIMETER_UNIT, VR::CS, unit);
    put_text(&mut o, tags::GANTRY_ANGLE, VR::DS, decimal(gantry));
    put_text(&mut o, tags::BEAM_LIMITING_DEVICE_ANGLE, VR::DS, decimal(collimator));
    put_text(&mut o, tags::PATIENT_SUPPORT_ANGLE, VR::DS, decimal(couch));
    put_text(&mut o, tags::TABLE_TOP_ECCENTRIC_ANGLE, VR::DS, "0");
    put(&mut o, tags::ISOCENTER_POSITION, VR::DS, numbers(&[0.0; 3]));
    put_text(&mut o, tags::REFERENCED_BEAM_NUMBER, VR::IS, (number + 1).to_string());
    put_items(&mut o, tags::REFERENCED_RT_PLAN_SEQUENCE, vec![reference(uids::RT_PLAN_STORAGE, &plan.uid)]);
    put_items(&mut o, tags::EXPOSURE_SEQUENCE, vec![exposure(unit)]);
    put_pixel_description(&mut o, options);
    Instance { header: o, phantom: Some(phantom), drawn: None }
}

fn drr(options: &PatientOptions, plan: &GeneratedPlan, study: &str) -> Instance {
    let series = uid(options, &format!("drr series {}", plan.uid));
    let at = plan.date.and_hms_opt(15, 30, 0).unwrap_or_default();
    let mut drr = rt_image(options, plan, study, &series, 0, at, [0.0; 3], MV);
    put(&mut drr.header, tags::IMAGE_TYPE, VR::CS, texts(["DERIVED", "SECONDARY", "DRR"]));
    // Nobody acquired it, and no dosimeter ran.
    for tag in [
        tags::ACQUISITION_DATE,
        tags::ACQUISITION_TIME,
        tags::PRIMARY_DOSIMETER_UNIT,
        tags::EXPOSURE_SEQUENCE,
    ] {
        drr.header.remove_element(tag);
    }
    put_text(&mut drr.header, tags::RT_IMAGE_LABEL, VR::SH, "DRR_1");
    drr
}

fn rt_plan(options: &PatientOptions, plan: &GeneratedPlan, study: &str) -> Instance {
    let series = uid(options, &format!("plan series {}", plan.uid));
    let at = plan.date.and_hms_opt(15, 0, 0).unwrap_or_default();
    let mut o = common(options, uids::RT_PLAN_STORAGE, &plan.uid, "RTPLAN", study, &series, at);
    put_text(&mut o, tags::RT_PLAN_LABEL, VR::SH, plan.label);
    put_text(&mut o, tags::RT_PLAN_NAME, VR::LO, plan.label);
    put_text(&mut o, tags::RT_PLAN_DATE, VR::DA, date(at));
    put_text(&mut o, tags::RT_PLAN_TIME, VR::TM, time(at));
    put_text(&mut o, tags::RT_PLAN_GEOMETRY, VR::CS, "TREATMENT_DEVICE");
    put_text(&mut o, tags::PLAN_INTENT, VR::CS, "SERVICE");
    put_text(&mut o, tags::APPROVAL_STATUS, VR::CS, "APPROVED");
    let beams = ANGLES.iter().take(options.images_per_session).enumerate();
    put_items(&mut o, tags::BEAM_SEQUENCE, beams.map(|(n, angles)| beam(n, angles)).collect());
    Instance { header: o, phantom: None, drawn: None }
}

fn beam(number: usize, [gantry, collimator, couch]: &[f64; 3]) -> InMemDicomObject {
    let mut beam = InMemDicomObject::new_empty();
    put_text(&mut beam, tags::BEAM_NUMBER, VR::IS, (number + 1).to_string());
    put_text(&mut beam, tags::BEAM_NAME, VR::LO, format!("G{gantry:03.0} C{collimator:03.0} T{couch:03.0}"));
    put_text(&mut beam, tags::BEAM_TYPE, VR::CS, "STATIC");
    put_text(&mut beam, tags::RADIATION_TYPE, VR::CS, "PHOTON");
    put_text(&mut beam, tags::TREATMENT_MACHINE_NAME, VR::SH, MACHINE);
    put_text(&mut beam, tags::PRIMARY_DOSIMETER_UNIT, VR::CS, MV);
    put_text(&mut beam, tags::SOURCE_AXIS_DISTANCE, VR::DS, decimal(SAD_MM));
    put_text(&mut beam, tags::NUMBER_OF_CONTROL_POINTS, VR::IS, "2");
    let control_point = |index: usize| {
        let mut cp = InMemDicomObject::new_empty();
        put_text(&mut cp, tags::CONTROL_POINT_INDEX, VR::IS, index.to_string());
        put_text(&mut cp, tags::CUMULATIVE_METERSET_WEIGHT, VR::DS, index.to_string());
        put_text(&mut cp, tags::GANTRY_ANGLE, VR::DS, decimal(*gantry));
        put_text(&mut cp, tags::BEAM_LIMITING_DEVICE_ANGLE, VR::DS, decimal(*collimator));
        put_text(&mut cp, tags::PATIENT_SUPPORT_ANGLE, VR::DS, decimal(*couch));
        cp
    };
    put_items(&mut beam, tags::CONTROL_POINT_SEQUENCE, vec![control_point(0), control_point(1)]);
    beam
}

fn exposure(unit: &str) -> InMemDicomObject {
    let mut item = InMemDicomObject::new_empty();
    put_text(&mut item, tags::KVP, VR::DS, if unit == KV { "100" } else { "10000" });
    put_text(&mut item, tags::EXPOSURE_TIME, VR::IS, if unit == KV { "32" } else { "600" });
    if unit == MV {
        put_text(&mut item, tags::METERSET_EXPOSURE, VR::DS, "10");
    }
    let jaws = ["ASYMX", "ASYMY"].map(|kind| {
        let mut jaw = InMemDicomObject::new_empty();
        put_text(&mut jaw, tags::RT_BEAM_LIMITING_DEVICE_TYPE, VR::CS, kind);
        put_text(&mut jaw, tags::NUMBER_OF_LEAF_JAW_PAIRS, VR::IS, "1");
        put(&mut jaw, tags::LEAF_JAW_POSITIONS, VR::DS, numbers(&[-10.0, 10.0]));
        jaw
    });
    put_items(&mut item, tags::BEAM_LIMITING_DEVICE_SEQUENCE, jaws.to_vec());
    item
}

fn common(
    options: &PatientOptions,
    sop_class: &str,
    sop_instance: &str,
    modality: &str,
    study: &str,
    series: &str,
    at: NaiveDateTime,
) -> InMemDicomObject {
    let mut o = InMemDicomObject::new_empty();
    put_text(&mut o, tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 192");
    put_text(&mut o, tags::SOP_CLASS_UID, VR::UI, sop_class);
    put_text(&mut o, tags::SOP_INSTANCE_UID, VR::UI, sop_instance);
    put_text(&mut o, tags::STUDY_DATE, VR::DA, date(at));
    put_text(&mut o, tags::STUDY_TIME, VR::TM, "060000");
    put_text(&mut o, tags::ACCESSION_NUMBER, VR::SH, "");
    put_text(&mut o, tags::MODALITY, VR::CS, modality);
    put_text(&mut o, tags::MANUFACTURER, VR::LO, "Simulated");
    put_text(&mut o, tags::MANUFACTURER_MODEL_NAME, VR::LO, "aS1200");
    put_text(&mut o, tags::STATION_NAME, VR::SH, MACHINE);
    put_text(&mut o, tags::PATIENT_NAME, VR::PN, "Winston^Lutz");
    put_text(&mut o, tags::PATIENT_ID, VR::LO, &options.patient_id);
    put_text(&mut o, tags::PATIENT_BIRTH_DATE, VR::DA, "");
    put_text(&mut o, tags::PATIENT_SEX, VR::CS, "O");
    put_text(&mut o, tags::STUDY_INSTANCE_UID, VR::UI, study);
    put_text(&mut o, tags::SERIES_INSTANCE_UID, VR::UI, series);
    put_text(&mut o, tags::STUDY_ID, VR::SH, "WL");
    put_text(&mut o, tags::SERIES_NUMBER, VR::IS, "1");
    put_text(&mut o, tags::FRAME_OF_REFERENCE_UID, VR::UI, uid(options, "frame of reference"));
    o
}

fn put_pixel_description(o: &mut InMemDicomObject, options: &PatientOptions) {
    let word = |n: u16| PrimitiveValue::from(n);
    put(o, tags::SAMPLES_PER_PIXEL, VR::US, word(1));
    put_text(o, tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2");
    put(o, tags::ROWS, VR::US, word(options.pixels));
    put(o, tags::COLUMNS, VR::US, word(options.pixels));
    put(o, tags::BITS_ALLOCATED, VR::US, word(16));
    put(o, tags::BITS_STORED, VR::US, word(16));
    put(o, tags::HIGH_BIT, VR::US, word(15));
    put(o, tags::PIXEL_REPRESENTATION, VR::US, word(0));
    put_text(o, tags::PIXEL_INTENSITY_RELATIONSHIP, VR::CS, "LIN");
    put(o, tags::PIXEL_INTENSITY_RELATIONSHIP_SIGN, VR::SS, PrimitiveValue::from(1i16));
    put_text(o, tags::RESCALE_INTERCEPT, VR::DS, "0");
    put_text(o, tags::RESCALE_SLOPE, VR::DS, "1");
    put_text(o, tags::RESCALE_TYPE, VR::LO, "US");
}

fn reference(sop_class: &str, sop_instance: &str) -> InMemDicomObject {
    let mut item = InMemDicomObject::new_empty();
    put_text(&mut item, tags::REFERENCED_SOP_CLASS_UID, VR::UI, sop_class);
    put_text(&mut item, tags::REFERENCED_SOP_INSTANCE_UID, VR::UI, sop_instance);
    item
}

fn put(o: &mut InMemDicomObject, tag: Tag, vr: VR, value: PrimitiveValue) {
    o.put(InMemElement::new(tag, vr, value));
}

fn put_text(o: &mut InMemDicomObject, tag: Tag, vr: VR, text: impl Into<String>) {
    put(o, tag, vr, PrimitiveValue::from(text.into()));
}

fn put_items(o: &mut InMemDicomObject, tag: Tag, items: Vec<InMemDicomObject>) {
    o.put(DataElement::new(tag, VR::SQ, DataSetSequence::from(items)));
}

fn texts<const N: usize>(values: [&str; N]) -> PrimitiveValue {
    PrimitiveValue::Strs(values.into_iter().map(String::from).collect())
}

fn numbers(values: &[f64]) -> PrimitiveValue {
    PrimitiveValue::Strs(values.iter().map(|v| decimal(*v)).collect())
}

fn decimal(value: f64) -> String {
    // At most 4 decimals: a DS has 16 characters.
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn date(at: NaiveDateTime) -> String {
    at.format("%Y%m%d").to_string()
}

fn time(at: NaiveDateTime) -> String {
    at.format("%H%M%S").to_string()
}

/// A UID below 2.25 (PS3.5 §B.2) that depends on the options and the name only.
fn uid(options: &PatientOptions, name: &str) -> String {
    let text = format!("scp-node demo/{}/{}/{}/{name}", options.patient_id, options.newest, options.pixels);
    let [mut bytes, _] = *Sha256::digest(text.as_bytes()).as_chunks::<16>().0 else { return "2.25.0".into() };
    // Version and variant of a UUID, so that it is one.
    bytes[6] = (bytes[6] & 0x0F) | 0x50;
    bytes[8] = (bytes[8] & 0x3F) | 0x80;
    format!("2.25.{}", u128::from_be_bytes(bytes))
}

fn seed(text: &str) -> u64 {
    text.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}
