//! RT Plans read and written: goldens, what PyMedPhys refuses, and the rules of the RT Beams module.

use std::collections::BTreeMap;
use std::path::Path;

use dicom_core::header::Tag;
use dicom_core::{DataElement, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::InMemDicomObject;
use trf_core::rtplan::{Identity, RtPlan, Scope, WriteOptions};
use trf_core::{Delivery, MetersetMap, MetersetSource};

use crate::{data, npz, peer, rt_beams};

fn keep() -> WriteOptions {
    WriteOptions { identity: Identity::Keep, ..WriteOptions::default() }
}

/// A plan as another program reads it.
fn reread(plan: &RtPlan) -> RtPlan {
    RtPlan::from_bytes(&plan.to_bytes().unwrap()).unwrap()
}

fn largest_difference(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn assert_close(found: &Delivery, expected: &Delivery, tolerance: f64, name: &str) {
    let columns: [fn(&Delivery) -> &[f64]; 5] = [
        Delivery::meterset_mu,
        Delivery::gantry_bipolar_deg,
        Delivery::collimator_bipolar_deg,
        Delivery::mlc_mm,
        Delivery::jaw_mm,
    ];
    for (index, column) in columns.into_iter().enumerate() {
        let worst = largest_difference(column(found), column(expected));
        assert!(worst <= tolerance, "{name}: column {index} differs by {worst}");
    }
}

#[test]
fn deliveries_of_plans_equal_the_goldens() {
    let Some(root) = data::root() else { return };
    for golden in data::files(&root.join("golden/from_dicom"), ".npz") {
        let name = golden.file_name().unwrap().to_string_lossy().into_owned();
        let group = name.split(".fg").nth(1).unwrap().trim_end_matches(".npz").parse().unwrap();
        let plan = RtPlan::open(root.join("plans").join(format!("{}.dcm", data::stem(&golden)))).unwrap();
        for scope in [Scope::Compatible, Scope::Full] {
            assert_close(&plan.delivery(Some(group), scope).unwrap(), &npz::delivery(&golden), 1e-9, &name);
        }
    }
}

#[test]
fn several_fraction_groups_need_a_number() {
    let Some(root) = data::root() else { return };
    let plan = RtPlan::open(root.join("plans/ltbreast_2groups_pair.dcm")).unwrap();
    let error = plan.delivery(None, Scope::Full).unwrap_err();
    assert!(error.to_string().contains("[1, 2]"), "{error}");
    assert!(plan.delivery(Some(3), Scope::Full).unwrap_err().to_string().contains("no fraction group 3"));
}

#[test]
fn x_and_y_jaws_narrow_the_field_of_a_plan_that_compatible_scope_refuses() {
    let Some(root) = data::root() else { return };
    let plan = RtPlan::open(root.join("plans/unsupported_varian_asymx.dcm")).unwrap();
    assert!(plan.delivery(None, Scope::Compatible).unwrap_err().to_string().contains("ASYMX"));
    let delivery = plan.delivery(None, Scope::Full).unwrap();
    assert_eq!(delivery.n_pairs(), 60);
    assert!((delivery.total_mu() - 393.0).abs() < 1e-9);
    // ASYMX is −59 to 71 throughout.
    for tips in delivery.mlc_mm().chunks_exact(2) {
        assert!(tips[0] <= 71.0 && tips[1] <= 59.0, "{tips:?}");
        assert!(tips[0] >= -59.0 && tips[1] >= -71.0, "{tips:?}");
    }
    let beams = plan.beams(&plan.fraction_group(None).unwrap(), Scope::Full).unwrap();
    assert!(beams[0].is_arc());
    assert_eq!(
        (beams[0].leaf_widths_mm[13], beams[0].leaf_widths_mm[14]),
        (5.0, 2.5),
        "a high-definition MLC"
    );
}

/// Values of one attribute over all control points of a beam.
fn per_control_point(beam: &InMemDicomObject, tag: Tag) -> Vec<f64> {
    let control_points = beam.element(tags::CONTROL_POINT_SEQUENCE).unwrap().items().unwrap();
    control_points.iter().map(|item| item.element(tag).unwrap().to_float64().unwrap()).collect()
}

fn positions(beam: &InMemDicomObject, kind: &str) -> Vec<f64> {
    let control_points = beam.element(tags::CONTROL_POINT_SEQUENCE).unwrap().items().unwrap();
    control_points
        .iter()
        .flat_map(|item| {
            let devices =
                item.element(tags::BEAM_LIMITING_DEVICE_POSITION_SEQUENCE).unwrap().items().unwrap();
            let is_kind = |device: &&InMemDicomObject| {
                device.element(tags::RT_BEAM_LIMITING_DEVICE_TYPE).unwrap().to_str().unwrap() == kind
            };
            let device = devices.iter().find(is_kind).unwrap();
            device.element(tags::LEAF_JAW_POSITIONS).unwrap().to_multi_float64().unwrap()
        })
        .collect()
}

fn assert_equals_golden(plan: &RtPlan, golden: &BTreeMap<String, npz::Array>, name: &str) {
    let numbers = &golden["beam_numbers"].values;
    let beams = plan.dataset().element(tags::BEAM_SEQUENCE).unwrap().items().unwrap();
    let groups = plan.fraction_groups().unwrap();
    assert_eq!(groups.len(), 1, "{name}");
    assert_eq!(f64::from(groups[0].number), golden["fraction_group"].values[0], "{name}");
    assert_eq!(beams.len(), numbers.len(), "{name}");
    for ((beam, number), referenced) in beams.iter().zip(numbers).zip(&groups[0].beams) {
        let expected = |column: &str| &golden[&format!("beam{number}_{column}")].values;
        assert_eq!(f64::from(beam.element(tags::BEAM_NUMBER).unwrap().to_int::<i32>().unwrap()), *number);
        assert_eq!(f64::from(referenced.number), *number);
        assert_eq!(referenced.meterset_mu.unwrap(), expected("meterset")[0], "{name} {number}");
        assert_eq!(
            &per_control_point(beam, tags::CUMULATIVE_METERSET_WEIGHT),
            expected("weight"),
            "{name} {number}"
        );
        assert_eq!(&per_control_point(beam, tags::GANTRY_ANGLE), expected("gantry_iec"), "{name} {number}");
        assert_eq!(
            &per_control_point(beam, tags::BEAM_LIMITING_DEVICE_ANGLE),
            expected("collimator_iec"),
            "{name}"
        );
        assert_eq!(&positions(beam, "ASYMY"), expected("asymy"), "{name} {number}");
        assert_eq!(&positions(beam, "MLCX"), expected("mlcx"), "{name} {number}");
        let turns =
            beam.element(tags::CONTROL_POINT_SEQUENCE).unwrap().items().unwrap().iter().map(
                |item| match item.element(tags::GANTRY_ROTATION_DIRECTION).unwrap().to_str().unwrap().trim() {
                    "CW" => 1.0,
                    "CC" => -1.0,
                    _ => 0.0,
                },
            );
        assert_eq!(&turns.collect::<Vec<f64>>(), expected("gantry_direction"), "{name} {number}");
    }
}

/// Name, record and template of each case in to_dicom.json.
fn cases(root: &Path) -> Vec<(String, Delivery, RtPlan)> {
    let text = std::fs::read_to_string(root.join("to_dicom.json")).unwrap();
    let cases: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert!(!cases.is_empty());
    cases
        .into_iter()
        .map(|(name, case)| {
            let path = |key: &str| root.join(case[key].as_str().unwrap());
            let record = trf_core::Record::open(path("trf")).unwrap();
            let delivery = Delivery::from_record(&record, MetersetSource::StepDose).unwrap();
            (name, delivery, RtPlan::open(path("template")).unwrap())
        })
        .collect()
}

#[test]
fn written_plans_equal_the_goldens_exactly() {
    let Some(root) = data::root() else { return };
    for (name, delivery, template) in cases(&root) {
        let golden = npz::read(&root.join("golden/to_dicom").join(format!("{name}.npz")));
        let plan = template.with_delivery(&delivery, None, &keep()).unwrap();
        let kept = reread(&plan);
        assert_equals_golden(&kept, &golden, &name);
        assert_eq!(kept.sop_instance_uid(), template.sop_instance_uid());
        assert_eq!(kept.label(), template.label());
        assert_eq!(kept.delivery(None, Scope::Full).unwrap(), plan.delivery(None, Scope::Full).unwrap());
        // With a name of its own the plan's beams are the same.
        let own = reread(&template.with_delivery(&delivery, None, &WriteOptions::default()).unwrap());
        assert_equals_golden(&own, &golden, &name);
        rt_beams::assert_valid(own.dataset(), &name);
    }
}

#[test]
fn items_of_the_template_may_stand_in_any_order() {
    let Some(root) = data::root() else { return };
    for (name, delivery, template) in cases(&root) {
        let golden = npz::read(&root.join("golden/to_dicom").join(format!("{name}.npz")));
        let mut shuffled = template.dataset().clone();
        reverse_items(&mut shuffled, tags::BEAM_SEQUENCE);
        update_items(&mut shuffled, tags::BEAM_SEQUENCE, |beam| {
            reverse_items(beam, tags::BEAM_LIMITING_DEVICE_SEQUENCE);
            update_items(beam, tags::CONTROL_POINT_SEQUENCE, |item| {
                reverse_items(item, tags::BEAM_LIMITING_DEVICE_POSITION_SEQUENCE);
            });
        });
        let template = as_plan(shuffled);
        let plan = template.with_delivery(&delivery, None, &keep()).unwrap();
        assert_equals_golden(&reread(&plan), &golden, &name);
    }
}

fn update_items(item: &mut InMemDicomObject, tag: Tag, mut update: impl FnMut(&mut InMemDicomObject)) {
    item.update_value(tag, |value| {
        value.items_mut().into_iter().flatten().for_each(&mut update);
    });
}

fn reverse_items(item: &mut InMemDicomObject, tag: Tag) {
    item.update_value(tag, |value| {
        if let Some(items) = value.items_mut() {
            items.reverse();
        }
    });
}

/// A data set as a plan, through its bytes.
fn as_plan(dataset: InMemDicomObject) -> RtPlan {
    let syntax = dicom_transfer_syntax_registry::entries::IMPLICIT_VR_LITTLE_ENDIAN.erased();
    let mut bytes = Vec::new();
    dataset.write_dataset_with_ts(&mut bytes, &syntax).unwrap();
    RtPlan::from_bytes(&bytes).unwrap()
}

#[test]
fn an_arc_is_written_and_reads_back_as_delivered() {
    let Some(root) = data::root() else { return };
    let template = RtPlan::open(root.join("plans/tiny_vmat.dcm")).unwrap();
    let record = data::record(&root, "sim_tinyvmat_v1");
    let delivery = Delivery::from_record(&record, MetersetSource::RawCounter).unwrap();
    let plan = reread(&template.with_delivery(&delivery, None, &WriteOptions::default()).unwrap());
    rt_beams::assert_valid(plan.dataset(), "tiny_vmat");
    let written = plan.delivery(None, Scope::Full).unwrap();
    let delivered = delivery.filter();
    assert_eq!(written.n_cp(), delivered.n_cp());
    assert_close(&written, &delivered.slice_from_zero(0..delivered.n_cp()), 1e-3, "tiny_vmat");
    let options = trf_core::metersetmap::Options::with_resolution(5.0);
    let (found, expected) =
        (MetersetMap::new(&written, &options).unwrap(), MetersetMap::new(&delivery, &options).unwrap());
    assert!(largest_difference(found.mu(), expected.mu()) < 1e-2);
}

#[test]
fn two_arcs_on_one_record_are_told_apart_by_the_dose_counter() {
    let Some(root) = data::root() else { return };
    let template = RtPlan::open(root.join("plans/arc_06mv.dcm")).unwrap();
    let planned = template.delivery(None, Scope::Full).unwrap();
    let plan = reread(&template.with_delivery(&planned, None, &WriteOptions::default()).unwrap());
    rt_beams::assert_valid(plan.dataset(), "arc_06mv");
    assert_close(&plan.delivery(None, Scope::Full).unwrap(), &planned, 1e-3, "arc_06mv");
    // Ten static beams at one angle.
    let template = RtPlan::open(root.join("plans/static_10beam.dcm")).unwrap();
    let planned = template.delivery(None, Scope::Full).unwrap();
    let plan = reread(&template.with_delivery(&planned, None, &WriteOptions::default()).unwrap());
    rt_beams::assert_valid(plan.dataset(), "static_10beam");
    assert_close(&plan.delivery(None, Scope::Full).unwrap(), &planned, 1e-3, "static_10beam");
}

#[test]
fn a_record_of_another_plan_is_refused() {
    let Some(root) = data::root() else { return };
    let template = RtPlan::open(root.join("plans/tiny_vmat.dcm")).unwrap();
    let record = data::record(&root, "v1_imrt_3field_pair");
    let delivery = Delivery::from_record(&record, MetersetSource::RawCounter).unwrap();
    let error = template.with_delivery(&delivery, None, &keep()).unwrap_err();
    assert!(error.to_string().contains("no beam of the plan"), "{error}");
    let template = RtPlan::open(root.join("plans/ltbreast_2groups_pair.dcm")).unwrap();
    let record = data::record(&root, "sim_single_beam_v1");
    let delivery = Delivery::from_record(&record, MetersetSource::RawCounter).unwrap();
    let error = template.with_delivery(&delivery, None, &keep()).unwrap_err();
    assert!(error.to_string().contains("no fraction group"), "{error}");
}

#[test]
fn a_plan_of_its_own_has_its_own_identity_and_names_its_predecessor() {
    let Some(root) = data::root() else { return };
    let (_, delivery, template) = cases(&root).swap_remove(0);
    let plan = template.with_delivery(&delivery, None, &WriteOptions::default()).unwrap();
    let uid = plan.sop_instance_uid().unwrap();
    assert_ne!(Some(&uid), template.sop_instance_uid().as_ref());
    assert_eq!(plan.label().unwrap(), "LTBREAST_LOG");
    let again = template.with_delivery(&delivery, None, &WriteOptions::default()).unwrap();
    assert_eq!(again.sop_instance_uid().unwrap(), uid, "the same content is the same plan");
    let text = |tag| plan.dataset().get(tag).map(|element| element.to_str().unwrap().trim().to_owned());
    assert_eq!(text(tags::APPROVAL_STATUS).as_deref(), Some("UNAPPROVED"));
    assert_eq!(text(tags::REVIEWER_NAME), None);
    let predecessor = &plan.dataset().element(tags::REFERENCED_RT_PLAN_SEQUENCE).unwrap().items().unwrap()[0];
    let referenced = predecessor.element(tags::REFERENCED_SOP_INSTANCE_UID).unwrap().to_str().unwrap();
    assert_eq!(Some(referenced.trim_end_matches('\0')), template.sop_instance_uid().as_deref());
}

#[test]
fn what_is_not_an_rt_plan_is_refused_with_a_hint() {
    let error = RtPlan::from_bytes(b"no DICOM at all").unwrap_err();
    assert!(error.to_string().contains("expected a DICOM file"), "{error}");
    assert!(RtPlan::from_bytes(&[]).is_err());
    let image = InMemDicomObject::from_element_iter([
        DataElement::new(tags::SOP_CLASS_UID, VR::UI, uids::RT_IMAGE_STORAGE),
        DataElement::new(tags::SOP_INSTANCE_UID, VR::UI, "1.2.3"),
    ]);
    let syntax = dicom_transfer_syntax_registry::entries::EXPLICIT_VR_LITTLE_ENDIAN.erased();
    let mut bytes = Vec::new();
    image.write_dataset_with_ts(&mut bytes, &syntax).unwrap();
    let error = RtPlan::from_bytes(&bytes).unwrap_err();
    assert!(error.to_string().contains(uids::RT_IMAGE_STORAGE), "{error}");
    assert!(error.hint().contains("RT Plan"));
    let file = crate::made::plan(&[(1, &crate::made::sliding_window(4, 0.0, 0.0, 1.0))], &["ASYMY"]);
    let explicit = file.windows(20).position(|bytes| bytes == b"1.2.840.10008.1.2.1\0").unwrap();
    let mut deflated = file.clone();
    deflated[explicit..explicit + 20].copy_from_slice(b"1.2.840.10008.1.2.9\0");
    let error = RtPlan::from_bytes(&deflated).unwrap_err();
    assert!(matches!(error, trf_core::Error::Unsupported { .. }), "{error}");
    assert!(error.hint().contains("Little Endian"), "{}", error.hint());
}

#[test]
fn a_plan_is_read_with_and_without_preamble_meta_group_and_group_length() {
    let beam = crate::made::sliding_window(4, 0.0, 0.0, 1.0);
    let file = crate::made::plan(&[(1, &beam)], &["ASYMY"]);
    let expected = RtPlan::from_bytes(&file).unwrap().delivery(None, Scope::Full).unwrap();
    let meta_length = u32::from_le_bytes(file[140..144].try_into().unwrap()) as usize;
    let variants = [
        ("with preamble", &file[..]),
        ("without preamble", &file[128..]),
        ("without magic", &file[132..]),
        ("without group length", &file[144..]),
        ("bare", &file[144 + meta_length..]),
    ];
    for (name, bytes) in variants {
        assert_eq!(
            RtPlan::from_bytes(bytes).unwrap().delivery(None, Scope::Full).unwrap(),
            expected,
            "{name}"
        );
    }
    assert!(RtPlan::from_bytes(&file[144..170]).is_err(), "cut within the meta group");
}

#[test]
fn values_too_long_for_explicit_vr_and_group_lengths_do_no_harm() {
    let beam = crate::made::sliding_window(4, 0.0, 0.0, 1.0);
    let template = RtPlan::from_bytes(&crate::made::plan(&[(1, &beam)], &["ASYMY"])).unwrap();
    let mut dataset = template.dataset().clone();
    // A compensator of 20 000 pixels has 80 kB of text; an explicit DS has at most 64 KiB.
    let thickness: Vec<String> = (0..20_000).map(|i| format!("1.{}", i % 10)).collect();
    update_items(&mut dataset, tags::BEAM_SEQUENCE, |beam| {
        let values = dicom_core::PrimitiveValue::Strs(thickness.clone().into());
        beam.put(DataElement::new(tags::COMPENSATOR_THICKNESS_DATA, VR::DS, values));
    });
    dataset.put(DataElement::new(Tag(0x0008, 0x0000), VR::UL, dicom_core::PrimitiveValue::from(1_u32)));
    let written = as_plan(dataset).with_delivery(&beam, None, &keep()).unwrap();
    let bytes = written.to_bytes().unwrap();
    assert_eq!(
        RtPlan::from_bytes(&bytes).unwrap().delivery(None, Scope::Full).unwrap().mlc_mm(),
        beam.mlc_mm()
    );
    let file = dicom_object::from_reader(bytes.as_slice()).unwrap();
    assert_eq!(file.meta().transfer_syntax(), uids::IMPLICIT_VR_LITTLE_ENDIAN);
    assert!(file.get(Tag(0x0008, 0x0000)).is_none(), "a group length would no longer be right");
    let kept = file.element(tags::BEAM_SEQUENCE).unwrap().items().unwrap()[0]
        .element(tags::COMPENSATOR_THICKNESS_DATA)
        .unwrap()
        .to_multi_float64()
        .unwrap();
    assert_eq!((kept.len(), kept[19_999]), (20_000, 1.9));
}

/// Opens each file with all of pydicom's validation and prints what it sees; any warning is an error.
const PYDICOM: &str = "
import sys, warnings, pydicom
warnings.simplefilter('error')
pydicom.config.settings.reading_validation_mode = pydicom.config.RAISE
for path in sys.argv[1:]:
    plan = pydicom.dcmread(path)
    n = 0
    for element in plan.iterall():
        element.value
        n += 1
    for beam in plan.BeamSequence:
        assert len(beam.ControlPointSequence) == beam.NumberOfControlPoints
        assert float(beam.ControlPointSequence[-1].CumulativeMetersetWeight) == float(beam.FinalCumulativeMetersetWeight)
    assert plan.file_meta.MediaStorageSOPInstanceUID == plan.SOPInstanceUID
    print('read', n, 'elements')
";

#[test]
fn pydicom_reads_written_plans_without_a_warning() {
    let Some(python) = peer::python("PEER_PYTHON") else { return };
    let Some(root) = data::root() else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for (name, delivery, template) in cases(&root) {
        let plan = template.with_delivery(&delivery, None, &WriteOptions::default()).unwrap();
        let path = directory.path().join(format!("{name}.dcm"));
        std::fs::write(&path, plan.to_bytes().unwrap()).unwrap();
        paths.push(path);
    }
    let seen = peer::run(&python, PYDICOM, &paths);
    assert_eq!(seen.lines().filter(|line| line.starts_with("read")).count(), paths.len(), "{seen}");
}

#[test]
fn dciodvfy_has_nothing_against_written_plans_that_it_has_not_against_their_templates() {
    let Some(root) = data::root() else { return };
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, plan: &RtPlan| {
        let path = directory.path().join(name);
        std::fs::write(&path, plan.to_bytes().unwrap()).unwrap();
        path
    };
    let arc = RtPlan::open(root.join("plans/tiny_vmat.dcm")).unwrap();
    let record = data::record(&root, "sim_tinyvmat_v1");
    let arc = ("arc".to_owned(), Delivery::from_record(&record, MetersetSource::RawCounter).unwrap(), arc);
    for (name, delivery, template) in cases(&root).into_iter().chain([arc]) {
        let plan = template.with_delivery(&delivery, None, &WriteOptions::default()).unwrap();
        let Some(before) = peer::dciodvfy(&file("template.dcm", &template)) else { return };
        let Some(after) = peer::dciodvfy(&file("written.dcm", &plan)) else { return };
        assert!(after.is_subset(&before), "{name}: {:#?}", after.difference(&before));
    }
}
