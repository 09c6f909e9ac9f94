//! What is on the disk before a sender is told so: the calls of the real program, in their order.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a set-up that fails fails its test")]

use std::path::{Path, PathBuf};

use dicom_dictionary_std::uids;
use dicom_transfer_syntax_registry::entries::IMPLICIT_VR_LITTLE_ENDIAN;
use scp_node::dimse::Status;
use tests::disk::preloaded;
use tests::node::{NODE_AE, Node};
use tests::peers::objects::{RtImage, RtPlan, uid};
use tests::sender::Sender;

#[derive(Debug, PartialEq, Eq)]
enum Call {
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    Send,
}

/// A node whose calls are noted.
struct Watched {
    root: tempfile::TempDir,
    node: Node,
    seen: usize,
}

impl Watched {
    /// `None` without a C compiler.
    fn start(durability: &str) -> Option<Self> {
        let root = tempfile::tempdir().unwrap();
        // A first run makes catalog and directories: what is watched is the everyday.
        assert!(Node::start(root.path(), &[]).terminate().success());
        let library = preloaded(root.path(), concat!(env!("CARGO_MANIFEST_DIR"), "/src/disk-calls.c"))?;
        let (file, images) = (root.path().join("calls"), root.path().join("images"));
        let variables = [("LD_PRELOAD", &*library), ("CALLS_FILE", &*file), ("CALLS_DIR", &*images)];
        let setting = format!("images.durability={durability}");
        let node = Node::start_with(root.path(), &[&setting], "", &variables);
        Some(Self { root, node, seen: 0 })
    }

    /// Ends, and starts again without a catalog.
    fn lose_catalog(self, durability: &str) -> Self {
        let Self { root, node, seen } = self;
        assert!(node.terminate().success());
        std::fs::remove_dir_all(root.path().join("images/_catalog")).unwrap();
        let library = root.path().join("disk-calls.so");
        let (file, images) = (root.path().join("calls"), root.path().join("images"));
        let variables = [("LD_PRELOAD", &*library), ("CALLS_FILE", &*file), ("CALLS_DIR", &*images)];
        let node =
            Node::start_with(root.path(), &[&format!("images.durability={durability}")], "", &variables);
        Self { root, node, seen }
    }

    fn images(&self) -> PathBuf {
        self.root.path().join("images")
    }

    /// What was called since the last look.
    fn calls(&mut self) -> Vec<Call> {
        let text = std::fs::read_to_string(self.root.path().join("calls")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let new = lines[self.seen..].iter().map(|line| match line.split('\t').collect::<Vec<_>>()[..] {
            ["sync", path, _] => Call::Sync(path.into()),
            ["rename", from, to] => Call::Rename(from.into(), to.into()),
            _ => Call::Send,
        });
        let new = new.collect();
        self.seen = lines.len();
        new
    }

    /// Stores one object and gives the calls between its first byte and its acknowledgement.
    fn store(&mut self, sender: &mut Sender, class: &str, uid: &str, data_set: &[u8]) -> Vec<Call> {
        self.calls();
        assert_eq!(sender.store_as(class, uid, data_set).unwrap(), Status::SUCCESS, "{}", self.node.log());
        let mut calls = self.calls();
        let answer = calls.iter().position(|call| *call == Call::Send).unwrap();
        calls.truncate(answer);
        calls
    }

    fn sender(&self, class: &str) -> Sender {
        Sender::open_for(self.node.address(), NODE_AE, class, uids::IMPLICIT_VR_LITTLE_ENDIAN).unwrap()
    }
}

fn image(n: u32) -> (String, Vec<u8>) {
    let image = RtImage { sop_instance_uid: uid(&[11, n]), instance_number: n, ..RtImage::default() };
    let mut bytes = Vec::new();
    image.data_set().write_dataset_with_ts(&mut bytes, &IMPLICIT_VR_LITTLE_ENDIAN.erased()).unwrap();
    (image.sop_instance_uid, bytes)
}

fn is_sync_of(call: &Call, path: &Path) -> bool {
    matches!(call, Call::Sync(synced) if synced == path)
}

/// Every directory from this one up to the root is synced, so that a power cut takes no name away.
fn synced_up_to(root: &Path, directory: &Path, calls: &[Call]) {
    for path in directory.ancestors().take_while(|path| path.starts_with(root)) {
        assert!(calls.iter().any(|call| is_sync_of(call, path)), "{} in {calls:#?}", path.display());
    }
}

#[test]
fn with_full_durability_file_name_and_directories_are_on_the_disk_before_the_answer() {
    let Some(mut watched) = Watched::start("full") else { return };
    let root = watched.images();
    let before = watched.calls();
    let marker = before.iter().position(|call| is_sync_of(call, &root.join("_catalog/catalog.sqlite-wal")));
    assert!(marker.is_some(), "the marker of a running receiver is durable before anything is received");
    let mut images = watched.sender(uids::RT_IMAGE_STORAGE);
    for n in 1..=2 {
        let (uid, bytes) = image(n);
        let calls = watched.store(&mut images, uids::RT_IMAGE_STORAGE, &uid, &bytes);
        let renamed = calls.iter().position(|call| matches!(call, Call::Rename(..))).unwrap();
        let Call::Rename(from, to) = &calls[renamed] else { unreachable!() };
        assert!(
            calls[..renamed].iter().any(|call| is_sync_of(call, from)),
            "bytes before the name: {calls:#?}"
        );
        let directory = to.parent().unwrap();
        let top = if n == 1 { &*root } else { directory };
        synced_up_to(top, directory, &calls[renamed..]);
    }
    // The plan's label renames the directory that waited for it.
    let plan = RtPlan::default();
    let mut bytes = Vec::new();
    plan.data_set().write_dataset_with_ts(&mut bytes, &IMPLICIT_VR_LITTLE_ENDIAN.erased()).unwrap();
    let mut plans = watched.sender(uids::RT_PLAN_STORAGE);
    let calls = watched.store(&mut plans, uids::RT_PLAN_STORAGE, &plan.sop_instance_uid, &bytes);
    let last = calls.iter().rposition(|call| matches!(call, Call::Rename(..))).unwrap();
    let Call::Rename(waited, now) = &calls[last] else { unreachable!() };
    assert!(waited.starts_with(root.join("_unresolved")), "{calls:#?}");
    synced_up_to(&root, now.parent().unwrap(), &calls[last..]);
    assert!(calls[last..].iter().any(|call| is_sync_of(call, &root.join("_unresolved"))));
}

#[test]
fn what_a_start_finds_without_a_row_is_on_the_disk_before_its_sender_is_told_that_it_is_there() {
    let Some(mut watched) = Watched::start("full") else { return };
    let mut images = watched.sender(uids::RT_IMAGE_STORAGE);
    let (uid, bytes) = image(1);
    let other = image(2).1;
    watched.store(&mut images, uids::RT_IMAGE_STORAGE, &uid, &bytes);
    drop((images, other));
    watched.calls();
    let mut watched = watched.lose_catalog("full");
    let calls = watched.calls();
    let root = watched.images();
    let session = tests::node::files_below(&root, ".dcm").remove(0).parent().unwrap().to_path_buf();
    synced_up_to(&root, &session, &calls);
    let mut images = watched.sender(uids::RT_IMAGE_STORAGE);
    let calls = watched.store(&mut images, uids::RT_IMAGE_STORAGE, &uid, &bytes);
    assert!(!calls.iter().any(|call| matches!(call, Call::Rename(..))), "it was there: {calls:#?}");
}

#[test]
fn with_rename_durability_nothing_waits_for_the_disk() {
    let Some(mut watched) = Watched::start("rename") else { return };
    let mut images = watched.sender(uids::RT_IMAGE_STORAGE);
    let (uid, bytes) = image(1);
    let calls = watched.store(&mut images, uids::RT_IMAGE_STORAGE, &uid, &bytes);
    // Twice where the directory had to be made first.
    assert!(!calls.is_empty() && calls.iter().all(|call| matches!(call, Call::Rename(..))), "{calls:#?}");
}
