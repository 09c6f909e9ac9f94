//! The simulated Aria as DCMTK's tools see it: what the fetch tests stand on must itself speak DICOM.

#![expect(clippy::unwrap_used, reason = "a set-up that fails fails its test")]

use std::path::Path;
use std::process::Command;

use chrono::NaiveDate;
use dicom_dictionary_std::tags;
use scp_node::demo::{AriaOptions, Faults, GeneratedPatient, PatientOptions, SimulatedAria};
use scp_node::dimse::Status;
use tests::peers::{free_port, require, run_tool, tool};

struct Set {
    aria: SimulatedAria,
    patient: GeneratedPatient,
    own_port: u16,
    directory: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

fn set() -> Option<Set> {
    require("DCMTK's movescu", tool("movescu"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let patient = GeneratedPatient::winston_lutz(&PatientOptions::small());
    let own_port = free_port();
    let options =
        AriaOptions::new(patient.instances.clone(), "MOVER", ([127, 0, 0, 1], own_port).into()).unwrap();
    let aria = runtime.block_on(SimulatedAria::start(options)).unwrap();
    Some(Set { aria, patient, own_port, directory: tempfile::tempdir().unwrap(), _runtime: runtime })
}

impl Set {
    fn run(&self, program: &str, options: &[&str], keys: &[&str]) -> std::process::Output {
        let port = self.aria.address().port().to_string();
        let mut args = vec!["-aet", "MOVER", "-aec", "ARIA_DB"];
        args.extend(options);
        args.extend(["127.0.0.1", &port]);
        args.extend(keys.iter().flat_map(|k| ["-k", k]));
        // In its own directory: with `+B`, movescu 3.6.7 ignores `-od`.
        let mut command = Command::new(tool(program).unwrap());
        command.args(&args).env("TCP_NODELAY", "1").current_dir(self.directory.path()).output().unwrap()
    }

    fn move_images(&self, options: &[&str], keys: &[&str]) -> std::process::Output {
        let port = self.own_port.to_string();
        let mut all = vec!["-S", "-v", "+P", &port, "+B"];
        all.extend(options);
        self.run("movescu", &all, keys)
    }
}

fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect()
}

fn text(output: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn echoscu_succeeds_and_an_untrusted_caller_is_rejected() {
    let Some(set) = set() else { return };
    assert!(set.run("echoscu", &[], &[]).status.success());
    let stranger = run_tool(
        "echoscu",
        &["-aet", "STRANGER", "-aec", "ARIA_DB", "127.0.0.1", &set.aria.address().port().to_string()],
    );
    assert!(!stranger.status.success());
    assert!(text(&stranger).contains("Calling AE Title Not Recognized"), "{}", text(&stranger));
}

#[test]
fn movescu_gets_the_mv_images_of_a_session_bit_for_bit() {
    let Some(set) = set() else { return };
    let plan = &set.patient.plans[0];
    let newest = NaiveDate::from_ymd_opt(2026, 3, 16).unwrap();
    let expected = set.patient.mv_session(plan, newest);
    assert_eq!(expected.len(), 4);
    let series = format!("SeriesInstanceUID={}", expected[0].text(tags::SERIES_INSTANCE_UID));
    let output = set.move_images(&["-aem", "MOVER"], &["QueryRetrieveLevel=SERIES", &series]);
    assert!(output.status.success(), "{}", text(&output));
    let received = files(set.directory.path());
    assert_eq!(received.len(), 4, "{}", text(&output));
    for instance in expected {
        let data_set = instance.data_set().unwrap();
        let uid = instance.sop_instance_uid();
        let path = received.iter().find(|p| p.to_string_lossy().contains(&uid)).expect(&uid);
        assert!(std::fs::read(path).unwrap().ends_with(&data_set), "{uid} changed on its way");
        // And a foreign reader finds in it what a fetch goes by.
        let dump = text(&run_tool("dcmdump", &[path.to_str().unwrap()]));
        for expected in ["ORIGINAL\\PRIMARY\\PORTAL", "[MU]", "20260316", plan.uid.as_str(), "(7fe0,0010)"] {
            assert!(dump.contains(expected), "{expected} is missing in\n{dump}");
        }
    }
}

#[test]
fn an_unknown_destination_and_a_failing_sub_operation_end_as_the_standard_says() {
    let Some(set) = set() else { return };
    let study = format!("StudyInstanceUID={}", set.patient.instances[0].text(tags::STUDY_INSTANCE_UID));
    let keys = ["QueryRetrieveLevel=STUDY", study.as_str()];
    let unknown = set.move_images(&["-aem", "NOBODY"], &keys);
    assert!(text(&unknown).contains("MoveDestinationUnknown"), "{}", text(&unknown));
    set.aria.set_faults(Faults { fail_next: 1, ..Faults::default() });
    let partial = set.move_images(&["-aem", "MOVER"], &keys);
    assert!(text(&partial).contains("Warning"), "{}", text(&partial));
    // The plan failed, its DRR came.
    assert_eq!(files(set.directory.path()).len(), 1);
    let ends: Vec<Status> = set.aria.asked().iter().map(|a| a.status).collect();
    assert_eq!(ends, [Status::MOVE_DESTINATION_UNKNOWN, Status::SUBOPERATIONS_WARNING]);
}
