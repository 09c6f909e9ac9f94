//! RT Images and RT Plans, written by the tests themselves: nobody's patient.

use std::path::{Path, PathBuf};

use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};

/// Root of the UIDs of test objects: the standard's own arc for UUID-derived ones, with a short number instead.
const ROOT: &str = "2.25.900";

/// A UID for tests: the same numbers give the same UID.
pub fn uid(parts: &[u32]) -> String {
    parts.iter().fold(ROOT.to_owned(), |uid, part| format!("{uid}.{part}"))
}

/// An RT Image; `None` leaves the attribute out.
#[derive(Debug, Clone)]
pub struct RtImage {
    /// (0010,0020)
    pub patient_id: String,
    /// (0020,000D)
    pub study_uid: String,
    /// (0020,000E)
    pub series_uid: String,
    /// (0008,0018)
    pub sop_instance_uid: String,
    /// Referenced SOP Instance UID in (300C,0002)
    pub plan_uid: Option<String>,
    /// (0008,0022), YYYYMMDD; also (0008,0023)
    pub date: Option<String>,
    /// (0008,0032), HHMMSS; also (0008,0033)
    pub time: Option<String>,
    /// (0008,0008), values separated by `\`
    pub image_type: Option<String>,
    /// (300A,00B3): `MU` or `MINUTE`
    pub primary_dosimeter_unit: Option<String>,
    /// (0018,0060) in (3002,0030)
    pub kvp: Option<f64>,
    /// (300A,011E)
    pub gantry_iec_deg: f64,
    /// (0020,0013)
    pub instance_number: u32,
    /// (0028,0010)
    pub rows: u16,
    /// (0028,0011)
    pub columns: u16,
}

impl Default for RtImage {
    fn default() -> Self {
        Self {
            patient_id: "QA_TB_WL".into(),
            study_uid: uid(&[1]),
            series_uid: uid(&[1, 1]),
            sop_instance_uid: uid(&[1, 1, 1]),
            plan_uid: Some(uid(&[9, 1])),
            date: Some("20260105".into()),
            time: Some("070000".into()),
            image_type: Some("ORIGINAL\\PRIMARY\\PORTAL".into()),
            primary_dosimeter_unit: Some("MU".into()),
            kvp: None,
            gantry_iec_deg: 0.0,
            instance_number: 1,
            rows: 16,
            columns: 16,
        }
    }
}

/// An RT Plan; `None` leaves the attribute out.
#[derive(Debug, Clone)]
pub struct RtPlan {
    /// (0010,0020)
    pub patient_id: String,
    /// (0020,000D)
    pub study_uid: String,
    /// (0020,000E)
    pub series_uid: String,
    /// (0008,0018)
    pub sop_instance_uid: String,
    /// (300A,0002)
    pub label: Option<String>,
    /// (300A,0006), YYYYMMDD
    pub date: Option<String>,
}

impl Default for RtPlan {
    fn default() -> Self {
        Self {
            patient_id: "QA_TB_WL".into(),
            study_uid: uid(&[1]),
            series_uid: uid(&[1, 900]),
            sop_instance_uid: uid(&[9, 1]),
            label: Some("WL_10MV".into()),
            date: Some("20260101".into()),
        }
    }
}

fn put(object: &mut InMemDicomObject, tag: Tag, vr: VR, value: impl Into<PrimitiveValue>) {
    object.put(DataElement::new(tag, vr, value.into()));
}

fn put_text(object: &mut InMemDicomObject, tag: Tag, vr: VR, value: Option<&String>) {
    if let Some(value) = value {
        let parts: Vec<String> = value.split('\\').map(str::to_owned).collect();
        object.put(DataElement::new(tag, vr, PrimitiveValue::Strs(parts.into())));
    }
}

fn put_sequence(object: &mut InMemDicomObject, tag: Tag, item: InMemDicomObject) {
    object.put(DataElement::new(tag, VR::SQ, DataSetSequence::from(vec![item])));
}

fn common(patient: &str, study: &str, series: &str, modality: &str) -> InMemDicomObject {
    let mut o = InMemDicomObject::new_empty();
    put(&mut o, tags::MODALITY, VR::CS, modality);
    put(&mut o, tags::PATIENT_NAME, VR::PN, "QA^Phantom");
    put(&mut o, tags::PATIENT_ID, VR::LO, patient);
    put(&mut o, tags::PATIENT_BIRTH_DATE, VR::DA, "");
    put(&mut o, tags::PATIENT_SEX, VR::CS, "O");
    put(&mut o, tags::STUDY_INSTANCE_UID, VR::UI, study);
    put(&mut o, tags::SERIES_INSTANCE_UID, VR::UI, series);
    put(&mut o, tags::STUDY_DATE, VR::DA, "20260101");
    put(&mut o, tags::STUDY_TIME, VR::TM, "060000");
    put(&mut o, tags::STUDY_ID, VR::SH, "1");
    put(&mut o, tags::ACCESSION_NUMBER, VR::SH, "");
    put(&mut o, tags::REFERRING_PHYSICIAN_NAME, VR::PN, "");
    put(&mut o, tags::SERIES_NUMBER, VR::IS, "1");
    o
}

fn reference(class: &str, instance: &str) -> InMemDicomObject {
    let mut item = InMemDicomObject::new_empty();
    put(&mut item, tags::REFERENCED_SOP_CLASS_UID, VR::UI, class);
    put(&mut item, tags::REFERENCED_SOP_INSTANCE_UID, VR::UI, instance);
    item
}

impl RtImage {
    /// The data set; pixels are a gradient that depends on the instance number.
    pub fn data_set(&self) -> InMemDicomObject {
        let mut o = common(&self.patient_id, &self.study_uid, &self.series_uid, "RTIMAGE");
        put(&mut o, tags::SOP_CLASS_UID, VR::UI, uids::RT_IMAGE_STORAGE);
        put(&mut o, tags::SOP_INSTANCE_UID, VR::UI, self.sop_instance_uid.as_str());
        put_text(&mut o, tags::IMAGE_TYPE, VR::CS, self.image_type.as_ref());
        for tag in [tags::ACQUISITION_DATE, tags::CONTENT_DATE] {
            put_text(&mut o, tag, VR::DA, self.date.as_ref());
        }
        for tag in [tags::ACQUISITION_TIME, tags::CONTENT_TIME] {
            put_text(&mut o, tag, VR::TM, self.time.as_ref());
        }
        put(&mut o, tags::INSTANCE_NUMBER, VR::IS, self.instance_number.to_string());
        put_text(&mut o, tags::PRIMARY_DOSIMETER_UNIT, VR::CS, self.primary_dosimeter_unit.as_ref());
        put(&mut o, tags::RT_IMAGE_LABEL, VR::SH, format!("G{}", self.gantry_iec_deg));
        put(&mut o, tags::GANTRY_ANGLE, VR::DS, self.gantry_iec_deg.to_string());
        put(&mut o, tags::RADIATION_MACHINE_SAD, VR::DS, "1000");
        put(&mut o, tags::RT_IMAGE_SID, VR::DS, "1500");
        if let Some(kvp) = self.kvp {
            let mut exposure = InMemDicomObject::new_empty();
            put(&mut exposure, tags::KVP, VR::DS, kvp.to_string());
            put_sequence(&mut o, tags::EXPOSURE_SEQUENCE, exposure);
        }
        if let Some(plan) = &self.plan_uid {
            put_sequence(&mut o, tags::REFERENCED_RT_PLAN_SEQUENCE, reference(uids::RT_PLAN_STORAGE, plan));
        }
        put(&mut o, tags::SAMPLES_PER_PIXEL, VR::US, 1_u16);
        put(&mut o, tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2");
        put(&mut o, tags::ROWS, VR::US, self.rows);
        put(&mut o, tags::COLUMNS, VR::US, self.columns);
        for (tag, value) in [
            (tags::BITS_ALLOCATED, 16),
            (tags::BITS_STORED, 16),
            (tags::HIGH_BIT, 15),
            (tags::PIXEL_REPRESENTATION, 0),
        ] {
            put(&mut o, tag, VR::US, value as u16);
        }
        let n = u32::from(self.rows) * u32::from(self.columns);
        let pixels: Vec<u16> =
            (0..n).map(|i| (i.wrapping_mul(self.instance_number) % 65_521) as u16).collect();
        o.put(DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(pixels.into())));
        o
    }

    /// Writes it below the directory as a DICOM file, implicit VR little endian.
    pub fn write(&self, directory: &Path) -> PathBuf {
        write(self.data_set(), uids::RT_IMAGE_STORAGE, &self.sop_instance_uid, directory)
    }
}

impl RtPlan {
    /// The data set: one beam, no control points.
    pub fn data_set(&self) -> InMemDicomObject {
        let mut o = common(&self.patient_id, &self.study_uid, &self.series_uid, "RTPLAN");
        put(&mut o, tags::SOP_CLASS_UID, VR::UI, uids::RT_PLAN_STORAGE);
        put(&mut o, tags::SOP_INSTANCE_UID, VR::UI, self.sop_instance_uid.as_str());
        put_text(&mut o, tags::RT_PLAN_LABEL, VR::SH, self.label.as_ref());
        put_text(&mut o, tags::RT_PLAN_DATE, VR::DA, self.date.as_ref());
        put(&mut o, tags::RT_PLAN_TIME, VR::TM, "120000");
        put(&mut o, tags::RT_PLAN_GEOMETRY, VR::CS, "TREATMENT_DEVICE");
        let mut beam = InMemDicomObject::new_empty();
        put(&mut beam, tags::BEAM_NUMBER, VR::IS, "1");
        put(&mut beam, tags::BEAM_NAME, VR::LO, "G0");
        put_sequence(&mut o, tags::BEAM_SEQUENCE, beam);
        o
    }

    /// Writes it below the directory as a DICOM file, implicit VR little endian.
    pub fn write(&self, directory: &Path) -> PathBuf {
        write(self.data_set(), uids::RT_PLAN_STORAGE, &self.sop_instance_uid, directory)
    }
}

fn write(data_set: InMemDicomObject, class: &str, instance: &str, directory: &Path) -> PathBuf {
    std::fs::create_dir_all(directory).unwrap();
    let path = directory.join(format!("{instance}.dcm"));
    let meta = FileMetaTableBuilder::new()
        .transfer_syntax(uids::IMPLICIT_VR_LITTLE_ENDIAN)
        .media_storage_sop_class_uid(class)
        .media_storage_sop_instance_uid(instance);
    data_set.with_meta(meta).unwrap().write_to_file(&path).unwrap();
    path
}
