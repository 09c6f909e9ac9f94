//! Every command in README.md's ```console blocks is run here, or is known to be run elsewhere.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a set-up that fails fails its test")]

#[path = "../../trf-core/tests/physics/made.rs"]
mod made;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use chrono::NaiveDate;
use scp_node::demo::{AriaOptions, GeneratedPatient, PatientOptions, SimulatedAria};
use tests::node::{files_below, node_binary};
use tests::peers::{free_port, peer_python, require, until};
use tests::site::Guarded;

/// Commands that other programs of the project run, and which.
const ELSEWHERE: &[(&str, &str)] = &[
    ("tests/run", "this test is part of it"),
    ("pip install ./qatrack-ext", "tests/run builds the wheel from these sources and installs it"),
];
/// What a README command runs the node with.
const NODE: [&str; 2] = ["scp-node ", "cargo run --release -p scp-node -- "];

fn commands(readme: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut console = false;
    for line in readme.lines() {
        if line.trim_start().starts_with("```") {
            console = line.trim() == "```console";
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| console) {
            commands.push(command.to_owned());
        }
    }
    commands
}

/// One line of `scp-node`, in a directory, against the archive that `config.toml` there names.
fn run(directory: &Path, config: &Path, arguments: &str) {
    let mut command = Command::new(node_binary());
    command.args(words(arguments)).current_dir(directory).env("SCP_NODE_CONFIG", config);
    if arguments == "serve" {
        return serves(command);
    }
    if arguments.starts_with("icom listen") {
        return listens(command, directory);
    }
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "scp-node {arguments}\n{out}\n{err}");
    assert!(!out.trim().is_empty(), "scp-node {arguments} said nothing");
    let expected: &[&str] = match arguments {
        "demo --once" => &["C-FIND", "C-MOVE", "16 images in"],
        "find plans --patient QA_TB_WL" => &["WL_10MV", "WL_6FFF"],
        "fetch --patient QA_TB_WL --plan WL_6FFF" => &["WL_6", "2026-03-16"],
        "trf fetch" => &["4299: 1 zips on the share, 1 fetched"],
        "trf extract" => &["4299: 1 records out of 1 zips"],
        "trf sync" => &["4299", "1 records in the index"],
        "trf find --machine 4299" => &["RECORD", "4299"],
        "trf review" => &["nothing to decide"],
        "trf index --export-pymedphys" => &["0 entries in"],
        "config import pymedphys.toml --output from-pymedphys.toml" => &["wrote from-pymedphys.toml"],
        "sessions --patient QA_TB_WL" => &["WL_6FFF", "2026-03-16"],
        "trf check --plan RP.dcm --png page.png \"logs/*.trf\"" => &["plan SLIDING", "100.0 %"],
        "trf to-dicom --plan RP.dcm --out delivered \"logs/*.trf\"" => &["25_01_02_031415_RP.dcm"],
        "icom reindex --out icom" => &["2 records were right"],
        text if text.starts_with("icom info") => &["delivered 207.50 MU", "PyMedPhys yes"],
        _ => &[],
    };
    for text in expected {
        assert!(out.contains(text), "scp-node {arguments} does not tell {text}:\n{out}");
    }
}

/// A shell's words; quotes keep a pattern from the shell, which is not here.
fn words(arguments: &str) -> impl Iterator<Item = &str> {
    arguments.split_whitespace().map(|word| word.trim_matches('"'))
}

/// The Python that has the extension, which `tests/run` builds and installs.
fn python_with_extension() -> Option<PathBuf> {
    let has = |python: &PathBuf| {
        let import = Command::new(python).args(["-c", "import qatrack_ext"]).stderr(Stdio::null()).status();
        import.is_ok_and(|status| status.success())
    };
    require("PEER_PYTHON with qatrack_ext", peer_python().filter(has))
}

/// Comes up, says where, and ends in order.
fn serves(mut command: Command) {
    use std::io::BufRead;
    let mut child = Guarded(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut line = String::new();
    std::io::BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("receives on"), "{line:?}");
    ends_in_order(child);
}

/// Told to end, it ends as one that is done. Elsewhere than on Unix nobody can tell it.
fn ends_in_order(mut child: Guarded) {
    if cfg!(unix) {
        assert!(Command::new("kill").arg(child.0.id().to_string()).status().unwrap().success());
        assert!(child.0.wait().unwrap().success());
    }
}

/// Runs in a terminal of its own.
fn emulates(config: &Path, arguments: &str) -> Guarded {
    let mut command = Command::new(node_binary());
    command.args(words(arguments)).env("SCP_NODE_CONFIG", config);
    Guarded(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// Records what the emulated linac does, and ends in order.
fn listens(mut command: Command, directory: &Path) {
    let child = Guarded(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    until("two patients are recorded", Duration::from_secs(60), || {
        files_below(&directory.join("icom/patients"), ".xz").len() >= 2
    });
    ends_in_order(child);
}

#[test]
fn every_command_of_the_readme_works_as_it_stands_there() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let port = free_port();
    let patient = GeneratedPatient::winston_lutz(&PatientOptions::small());
    assert_eq!(patient.plans[1].sessions[0], NaiveDate::from_ymd_opt(2026, 3, 16).unwrap());
    let options = AriaOptions::new(patient.instances, "SCP_NODE", ([127, 0, 0, 1], port).into()).unwrap();
    let aria = runtime.block_on(SimulatedAria::start(options)).unwrap();
    let config = directory.path().join("site.toml");
    let root = directory.path().join("images");
    let text = format!(
        "[node]\nbind = '127.0.0.1'\nport = {port}\n[web]\nbind = ''\n[images]\nroot = '{}'\nkeep_free_bytes = 0\n\
         [[archive]]\nname = 'aria'\nae_title = 'ARIA_DB'\nhost = '127.0.0.1'\nport = {}\n\
         [trf]\nroot = '{}'\nkeep_free_bytes = 0\nsync_at = []\n\
         [[site]]\nname = 'main'\n[[site.linac]]\nname = '4299'\nnss_path = '{}'\n",
        root.display(),
        aria.address().port(),
        directory.path().join("trf").display(),
        directory.path().join("nss").display(),
    );
    std::fs::write(&config, text).unwrap();

    let beam = made::sliding_window(30, -100.0, 2.0, 2.0);
    std::fs::write(directory.path().join("RP.dcm"), made::plan(&[(1, &beam)], &["ASYMY"])).unwrap();
    std::fs::create_dir(directory.path().join("logs")).unwrap();
    let record = made::record(&[&beam], trf_core::Version::V4);
    std::fs::write(directory.path().join("logs/25_01_02_031415.trf"), &record).unwrap();
    let share = directory.path().join("nss");
    std::fs::create_dir(&share).unwrap();
    let zip = tests::zips::zip_of(1000, std::iter::once(("25_01_02.trf".to_owned(), record)));
    std::fs::write(share.join("SDD+2025-01-02.zip"), zip).unwrap();
    let pymedphys = "[[site]]\nname = 'rccc'\n[trf_logfiles]\nroot_directory = '/srv/trf'\n";
    std::fs::write(directory.path().join("pymedphys.toml"), pymedphys).unwrap();

    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let commands = commands(&readme);
    assert!(commands.len() > 10, "README.md has no commands");
    let linac_port = free_port().to_string();
    let mut emulators = Vec::new();
    for command in commands {
        // A port that is free here, too.
        let command = command.replace("17060", &linac_port);
        if let Some(arguments) = command.strip_prefix("scp-node icom emulate") {
            emulators.push(emulates(&config, &format!("icom emulate{arguments}")));
        } else if let Some(arguments) = NODE.iter().find_map(|prefix| command.strip_prefix(prefix)) {
            run(directory.path(), &config, arguments);
        } else if let Some(arguments) = command.strip_prefix("python ") {
            let Some(python) = python_with_extension() else { continue };
            let status =
                Command::new(python).args(words(arguments)).current_dir(directory.path()).status().unwrap();
            assert!(status.success(), "{command}");
        } else {
            let elsewhere = ELSEWHERE.iter().any(|(start, _)| command.starts_with(start));
            assert!(elsewhere, "README.md says `{command}`, and nothing runs it");
        }
    }
    // They may have ended with their client, or wait for another one with what they have not sent.
    emulators.into_iter().for_each(ends_in_order);
}
