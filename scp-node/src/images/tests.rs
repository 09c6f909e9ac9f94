//! The store, the catalog and the reindex together, on real files.

mod arriving;
mod labelling;
mod reading;
mod reindexing;
mod starting;

use std::path::Path;

use super::store::Incoming;
use super::walk::tests::implicit;
use super::*;
use crate::names::{AeTitle, Uid};
use crate::settings::{Durability, ImageSettings};

const IMPLICIT: &str = dicom_dictionary_std::uids::IMPLICIT_VR_LITTLE_ENDIAN;

fn element(tag: u32, value: &str) -> Vec<u8> {
    let mut value = value.as_bytes().to_vec();
    if value.len() % 2 == 1 {
        value.push(b' ');
    }
    implicit(tag, &value)
}

fn sequence(tag: u32, item: &[u8]) -> Vec<u8> {
    implicit(tag, &implicit(0xFFFE_E000, item))
}

struct Image {
    uid: &'static str,
    patient: &'static str,
    plan: Option<&'static str>,
    series: &'static str,
    date: &'static str,
    time: &'static str,
    unit: &'static str,
    pixels: &'static str,
}

const IMAGE: Image = Image {
    uid: "1.2.3.1",
    patient: "QA_WL",
    plan: Some("1.2.9.1"),
    series: "1.2.5.1",
    date: "20261120",
    time: "070203",
    unit: "MU",
    pixels: "pixels",
};

impl Image {
    fn data_set(&self) -> Vec<u8> {
        let mut d = element(0x0008_0008, "ORIGINAL\\PRIMARY\\PORTAL");
        d.extend(element(0x0008_0016, head::RT_IMAGE));
        d.extend(element(0x0008_0018, self.uid));
        d.extend(element(0x0008_0022, self.date));
        d.extend(element(0x0008_0032, self.time));
        d.extend(element(0x0008_0060, "RTIMAGE"));
        d.extend(element(0x0010_0020, self.patient));
        d.extend(element(0x0020_000E, self.series));
        d.extend(element(0x300A_00B3, self.unit));
        d.extend(element(0x300A_011E, "90.0"));
        if let Some(plan) = self.plan {
            d.extend(sequence(0x300C_0002, &element(0x0008_1155, plan)));
        }
        d.extend(element(0x7FE0_0010, self.pixels));
        d
    }
}

fn plan(uid: &str, label: &str) -> Vec<u8> {
    let mut d = element(0x0008_0005, "ISO_IR 192");
    d.extend(element(0x0008_0016, head::RT_PLAN));
    d.extend(element(0x0008_0018, uid));
    d.extend(element(0x0008_0060, "RTPLAN"));
    d.extend(element(0x0010_0020, "QA_WL"));
    d.extend(element(0x0020_000E, "1.2.5.9"));
    d.extend(element(0x300A_0002, label));
    d.extend(element(0x300A_0006, "20260101"));
    d
}

fn settings(root: &Path) -> ImageSettings {
    ImageSettings {
        root: root.into(),
        durability: Durability::Rename,
        keep_free_bytes: 0,
        ..ImageSettings::default()
    }
}

fn open(root: &Path) -> Store {
    Store::open(&settings(root), &["QA*".into()], 1 << 30).unwrap()
}

fn begin<'s>(store: &'s Store, class: &str, uid: &str) -> Result<Incoming<'s>, Refusal> {
    store.begin(Announced {
        sop_class_uid: class.into(),
        sop_instance_uid: uid.into(),
        transfer_syntax_uid: IMPLICIT.into(),
        calling_ae: AeTitle::new("SENDER").unwrap(),
    })
}

fn store(store: &Store, class: &str, uid: &str, data_set: &[u8]) -> Result<Filed, Refusal> {
    let mut incoming = begin(store, class, uid)?;
    incoming.write(data_set)?;
    incoming.finish()
}

fn store_image(s: &Store, image: &Image) -> Result<Filed, Refusal> {
    store(s, head::RT_IMAGE, image.uid, &image.data_set())
}

fn incoming_files(root: &Path) -> Vec<String> {
    let names = std::fs::read_dir(root.join(layout::INCOMING)).unwrap();
    names
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|n| n.ends_with(".part"))
        .collect()
}

fn everything(catalog: &Catalog) -> Vec<(Session, Vec<Instance>)> {
    let sessions = catalog.sessions(&SessionFilter::default()).unwrap();
    let mut all: Vec<_> = sessions
        .into_iter()
        .map(|s| {
            let instances = catalog.instances(&s).unwrap();
            (Session { id: 0, ..s }, instances)
        })
        .collect();
    all.sort_by(|a, b| a.0.directory.cmp(&b.0.directory));
    all
}

fn every_row_has_its_file(root: &Path) -> usize {
    let all = everything(&Catalog::open_readonly(root).unwrap());
    for (_, instances) in &all {
        assert!(!instances.is_empty(), "a session without images");
        for instance in instances {
            assert!(instance.path.exists(), "{}", instance.path.display());
        }
    }
    all.iter().map(|(_, instances)| instances.len()).sum()
}
