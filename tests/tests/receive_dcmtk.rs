//! DCMTK's tools against the node: every transfer syntax, bit for bit, and a foreign archive that moves to us.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a set-up that fails fails its test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dicom_dictionary_std::uids;
use scp_node::dimse::identity;
use scp_node::images::{Catalog, SessionFilter};
use sha2::Digest;
use tests::node::{NODE_AE, Node, data_set_of, files_below};
use tests::peers::objects::{RtImage, RtPlan, uid};
use tests::peers::{Destination, PeerArchive, Storescp, require, run_tool, tool};

/// Images of one session.
fn write_images(directory: &Path, count: u32) -> Vec<PathBuf> {
    write_images_of(directory, count, 80)
}

fn write_images_of(directory: &Path, count: u32, columns: u16) -> Vec<PathBuf> {
    let image = |n: u32| RtImage {
        sop_instance_uid: uid(&[1, 1, n]),
        instance_number: n,
        rows: 96.max(columns),
        columns,
        ..RtImage::default()
    };
    (1..=count).map(|n| image(n).write(directory)).collect()
}

fn store(port: &str, called_ae: &str, options: &[&str], files: &[PathBuf]) -> String {
    let mut args = vec!["-v", "-aec", called_ae];
    args.extend(options);
    args.extend(["127.0.0.1", port]);
    args.extend(files.iter().map(|f| f.to_str().unwrap()));
    let output = run_tool("storescu", &args);
    let text =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "storescu: {text}");
    text
}

/// SOP Instance UID to the digest of the data set's bytes, of DICOM files.
fn data_sets(files: &[PathBuf]) -> BTreeMap<String, String> {
    let read = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap();
        let data_set = data_set_of(&bytes).unwrap_or_else(|| panic!("{} is no DICOM file", path.display()));
        // The meta information alone: the data set may be deflated.
        let meta = dicom_object::FileMetaTable::from_reader(&bytes[128..]).unwrap();
        (meta.media_storage_sop_instance_uid().to_owned(), digest(data_set))
    };
    files.iter().map(read).collect()
}

fn digest(data_set: &[u8]) -> String {
    format!("{} bytes, {:x?}", data_set.len(), sha2::Sha256::digest(data_set))
}

#[test]
fn echoscu_is_answered_and_a_wrong_called_ae_is_rejected() {
    if require("DCMTK's echoscu", tool("echoscu")).is_none() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let node = Node::start(root.path(), &[]);
    let port = node.port();
    assert!(run_tool("echoscu", &["-aec", NODE_AE, "127.0.0.1", &port]).status.success());
    let wrong = run_tool("echoscu", &["-aec", "SOMEBODY", "127.0.0.1", &port]);
    assert!(!wrong.status.success());
    let text = String::from_utf8_lossy(&wrong.stderr);
    assert!(text.contains("Called AE Title Not Recognized"), "{text}");
}

/// What DCMTK's own bit-preserving receiver got from the same sender is what must lie on our disk.
fn same_bytes_as_storescp(prefer: &str, options: &[&str], files: &[PathBuf], transfer_syntax: &str) {
    let Some(reference) = Storescp::start_preferring(prefer) else { return };
    let root = tempfile::tempdir().unwrap();
    let node = Node::start(root.path(), &[]);
    store(&reference.port.to_string(), "STORESCP", options, files);
    store(&node.port(), NODE_AE, options, files);
    let expected = data_sets(&reference.files());
    let received = files_below(&root.path().join("images"), ".dcm");
    assert_eq!(expected.len(), files.len());
    assert_eq!(data_sets(&received), expected, "{transfer_syntax}");
    for path in &received {
        let dump = run_tool("dcmdump", &["-Un", "+P", "0002,0010", path.to_str().unwrap()]);
        let dump = String::from_utf8_lossy(&dump.stdout).into_owned();
        assert!(dump.contains(&format!("[{transfer_syntax}]")), "{transfer_syntax} expected: {dump}");
    }
    // And each is in the catalog, in one session.
    let catalog = Catalog::open_readonly(&root.path().join("images")).unwrap();
    let sessions = catalog.sessions(&SessionFilter::default()).unwrap();
    assert_eq!(sessions.iter().map(|s| s.images).collect::<Vec<_>>(), [files.len() as u64]);
}

/// The same instances in another transfer syntax, by one of DCMTK's converters.
fn convert(files: &[PathBuf], tool: &str, options: &[&str]) -> Vec<PathBuf> {
    let convert = |file: &PathBuf| {
        let to = file.with_extension(format!("{tool}{}", options.concat()));
        let mut args = options.to_vec();
        args.extend([file.to_str().unwrap(), to.to_str().unwrap()]);
        let output = run_tool(tool, &args);
        assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
        to
    };
    files.iter().map(convert).collect()
}

#[test]
fn uncompressed_data_sets_are_kept_bit_for_bit() {
    if require("DCMTK's dcmconv", tool("dcmconv")).is_none() {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    let plain = write_images(source.path(), 3);
    same_bytes_as_storescp("+xi", &["-xi"], &plain, "1.2.840.10008.1.2");
    for (prefer, propose, to, transfer_syntax) in [
        ("+xe", "-xe", "+te", "1.2.840.10008.1.2.1"),
        ("+xb", "-xb", "+tb", "1.2.840.10008.1.2.2"),
        ("+xd", "-xd", "+td", "1.2.840.10008.1.2.1.99"),
    ] {
        same_bytes_as_storescp(prefer, &[propose], &convert(&plain, "dcmconv", &[to]), transfer_syntax);
    }
}

#[test]
fn compressed_transfer_syntaxes_are_kept_as_they_are() {
    if require("DCMTK's dcmcjpeg", tool("dcmcjpeg")).is_none() {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    let plain = write_images(source.path(), 3);
    // `+un`: the instance keeps its UID.
    for (tool, options, propose, transfer_syntax) in [
        ("dcmcjpeg", &["+e1", "+un"][..], "-xs", "1.2.840.10008.1.2.4.70"),
        ("dcmcrle", &["-v"], "-xr", "1.2.840.10008.1.2.5"),
        ("dcmcjpls", &["+el", "+un"], "-xt", "1.2.840.10008.1.2.4.80"),
    ] {
        same_bytes_as_storescp("+xa", &[propose], &convert(&plain, tool, options), transfer_syntax);
    }
}

/// What a file that is written anew, or replaced by another, does not keep: when it was written, and its inode where it has one.
fn written(path: &Path) -> (std::time::SystemTime, u64) {
    let file = path.metadata().unwrap();
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&file);
    #[cfg(not(unix))]
    let inode = 0;
    (file.modified().unwrap(), inode)
}

#[test]
fn the_same_image_again_is_success_and_another_under_its_uid_is_kept_beside() {
    if require("DCMTK's storescu", tool("storescu")).is_none() {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    let first = write_images(source.path(), 1);
    let root = tempfile::tempdir().unwrap();
    let node = Node::start(root.path(), &[]);
    let images = root.path().join("images");
    store(&node.port(), NODE_AE, &[], &first);
    let filed = files_below(&images, ".dcm");
    let before = data_sets(&filed);
    let before_again = written(&filed[0]);
    store(&node.port(), NODE_AE, &[], &first);
    assert_eq!(files_below(&images, ".dcm"), filed);
    assert_eq!(written(&filed[0]), before_again, "rewritten");
    let other = tempfile::tempdir().unwrap();
    let changed = RtImage {
        sop_instance_uid: uid(&[1, 1, 1]),
        gantry_iec_deg: 123.0,
        rows: 96,
        columns: 80,
        ..RtImage::default()
    };
    let changed_patient = changed.patient_id.clone();
    let changed = vec![changed.write(other.path())];
    store(&node.port(), NODE_AE, &[], &changed);
    let catalog = Catalog::open_readonly(&images).unwrap();
    let kept = catalog.kept().unwrap();
    assert_eq!(kept.len(), 1);
    // Both are there: the first in its place, the second beside.
    assert_eq!(data_sets(&filed), before);
    assert_eq!(written(&filed[0]), before_again, "rewritten");
    let second = dicom_object::open_file(&kept[0].1).unwrap();
    let gantry = second.element(dicom_dictionary_std::tags::GANTRY_ANGLE).unwrap().to_str().unwrap();
    assert_eq!(gantry.trim(), "123");
    // Told once, with the instance and the file beside, and without the patient.
    let log = node.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("came again with other bytes")).collect();
    assert_eq!(told.len(), 1, "{log}");
    let name = kept[0].1.file_name().unwrap().to_str().unwrap();
    assert!(
        told[0].contains("WARN") && told[0].contains(&kept[0].0) && told[0].contains(name),
        "{}",
        told[0]
    );
    assert!(!log.contains(&changed_patient), "{log}");
}

#[test]
fn the_file_meta_information_is_what_dcmtk_expects_of_a_part_10_file() {
    if require("DCMTK's dcmftest", tool("dcmftest")).is_none() {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    let (image, plan) = (RtImage::default(), RtPlan::default());
    let root = tempfile::tempdir().unwrap();
    let node = Node::start(root.path(), &[]);
    let explicit = convert(&[plan.write(source.path())], "dcmconv", &["+te"]);
    store(&node.port(), NODE_AE, &["-aet", "LINAC 7", "-xi"], &[image.write(source.path())]);
    store(&node.port(), NODE_AE, &["-aet", "LINAC 7", "-xe"], &explicit);
    let images = root.path().join("images");
    for (prefix, class, instance, transfer_syntax) in [
        ("RI", uids::RT_IMAGE_STORAGE, &image.sop_instance_uid, uids::IMPLICIT_VR_LITTLE_ENDIAN),
        ("RP", uids::RT_PLAN_STORAGE, &plan.sop_instance_uid, uids::EXPLICIT_VR_LITTLE_ENDIAN),
    ] {
        let file = files_below(&images, &format!("{prefix}.{instance}.dcm")).remove(0);
        let file = file.to_str().unwrap();
        let found = run_tool("dcmftest", &[file]);
        assert_eq!(String::from_utf8_lossy(&found.stdout).trim(), format!("yes: {file}"));
        let dump = run_tool("dcmdump", &["-Un", file]);
        let dump = String::from_utf8_lossy(&dump.stdout).into_owned();
        let value = |tag: &str| {
            let line = dump.lines().find(|line| line.starts_with(&format!("({tag})")));
            line.unwrap_or_else(|| panic!("no ({tag}):\n{dump}")).to_owned()
        };
        for (tag, expected) in [
            ("0002,0001", "OB 00\\01".to_owned()),
            ("0002,0002", format!("UI [{class}]")),
            ("0002,0003", format!("UI [{instance}]")),
            ("0002,0010", format!("UI [{transfer_syntax}]")),
            ("0002,0012", format!("UI [{}]", identity::IMPLEMENTATION_CLASS)),
            ("0002,0013", format!("SH [{}]", identity::IMPLEMENTATION_VERSION)),
            ("0002,0016", "AE [LINAC 7]".to_owned()),
            ("0008,0016", format!("UI [{class}]")),
            ("0008,0018", format!("UI [{instance}]")),
        ] {
            assert!(value(tag).contains(&expected), "{expected} expected: {}", value(tag));
        }
    }
}

#[test]
fn movescu_makes_dcmqrscp_store_at_the_node() {
    if require("DCMTK's movescu", tool("movescu")).is_none() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let node = Node::start(root.path(), &[]);
    let mover = Destination::new("MOVER", node.address().port());
    let Some(archive) = PeerArchive::dcmqrscp(&[Destination::new(NODE_AE, node.address().port()), mover])
    else {
        return;
    };
    let source = tempfile::tempdir().unwrap();
    let mut files = write_images(source.path(), 6);
    files.push(RtPlan::default().write(source.path()));
    archive.store(source.path());
    let study = format!("StudyInstanceUID={}", uid(&[1]));
    let args = [
        "-S",
        "-aet",
        "MOVER",
        "-aec",
        archive.ae_title,
        "-aem",
        NODE_AE,
        "127.0.0.1",
        &archive.port.to_string(),
    ];
    let mut args: Vec<&str> = args.to_vec();
    args.extend(["-k", "QueryRetrieveLevel=STUDY", "-k", &study]);
    let output = run_tool("movescu", &args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let received = data_sets(&files_below(&root.path().join("images"), ".dcm"));
    assert_eq!(received.keys().collect::<Vec<_>>(), data_sets(&files).keys().collect::<Vec<_>>());
}

/// The most that a process ever had in memory, in bytes. Source: proc(5), `VmHWM`.
#[cfg(target_os = "linux")]
fn peak_memory(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn eight_senders_at_once_lose_nothing() {
    if require("DCMTK's storescu", tool("storescu")).is_none() {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    let files = write_images_of(source.path(), 80, 512);
    let root = tempfile::tempdir().unwrap();
    let node = Node::start(root.path(), &[]);
    let port = node.port();
    std::thread::scope(|scope| {
        for share in files.chunks(10) {
            let port = &port;
            scope.spawn(move || store(port, NODE_AE, &["-xi"], share));
        }
    });
    assert_eq!(data_sets(&files_below(&root.path().join("images"), ".dcm")).len(), 80);
    let catalog = Catalog::open_readonly(&root.path().join("images")).unwrap();
    assert_eq!(catalog.sessions(&SessionFilter::default()).unwrap()[0].images, 80);
    #[cfg(target_os = "linux")]
    {
        let peak = peak_memory(node.id());
        assert!(peak < 64 << 20, "{peak} bytes at most were resident");
    }
    assert!(node.terminate().success(), "a stop in order is no failure");
}
