//! A full disk: refused as out of resources, what is there stays whole, and it goes on when there is room again.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a set-up that fails fails its test")]

use std::path::{Path, PathBuf};

use dicom_transfer_syntax_registry::entries::IMPLICIT_VR_LITTLE_ENDIAN;
use scp_node::dimse::Status;
use scp_node::images::{Catalog, SessionFilter};
use tests::disk::Tmpfs;
use tests::node::{NODE_AE, Node, data_set_of, files_below};
use tests::peers::objects::{RtImage, uid};
use tests::sender::Sender;

/// An image of half a megabyte.
fn image(n: u32) -> (String, Vec<u8>) {
    let image = RtImage {
        sop_instance_uid: uid(&[8, n]),
        instance_number: n + 1,
        rows: 512,
        columns: 512,
        ..RtImage::default()
    };
    let mut bytes = Vec::new();
    image.data_set().write_dataset_with_ts(&mut bytes, &IMPLICIT_VR_LITTLE_ENDIAN.erased()).unwrap();
    (image.sop_instance_uid, bytes)
}

fn filed(images: &Path) -> Vec<PathBuf> {
    let mut files = files_below(images, ".dcm");
    files.sort();
    files
}

/// Stores images until one is refused; how many were taken, and the status of the refusal.
fn store_until_refused(sender: &mut Sender, from: u32) -> (u32, Status) {
    for n in from.. {
        let (uid, data_set) = image(n);
        match sender.store(&uid, &data_set).unwrap() {
            Status::SUCCESS => {}
            refused => return (n - from, refused),
        }
    }
    unreachable!("an endless disk")
}

/// All that was acknowledged is whole, in the catalog, and nothing else is visible.
fn check(images: &Path, taken: u32) {
    let files = filed(images);
    assert_eq!(files.len(), taken as usize);
    for n in 0..taken {
        let (uid, data_set) = image(n);
        let path = files
            .iter()
            .find(|p| p.ends_with(format!("RI.{uid}.dcm")))
            .unwrap_or_else(|| panic!("{uid} is gone"));
        assert!(data_set_of(&std::fs::read(path).unwrap()) == Some(data_set.as_slice()), "{uid} changed");
    }
    let sessions = Catalog::open_readonly(images).unwrap().sessions(&SessionFilter::default()).unwrap();
    assert_eq!(sessions.iter().map(|s| s.images).sum::<u64>(), u64::from(taken));
}

#[test]
fn a_full_disk_refuses_with_out_of_resources_and_harms_nothing() {
    let Some(disk) = Tmpfs::mount(16) else { return };
    let node = Node::start(disk.path(), &[]);
    let images = disk.path().join("images");
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0_u8; 4 << 20]).unwrap();
    let mut sender = Sender::open(node.address(), NODE_AE).unwrap();
    let (taken, refused) = store_until_refused(&mut sender, 0);
    assert_eq!(refused, Status::OUT_OF_RESOURCES, "{}", node.log());
    assert!(taken >= 8, "only {taken} images fitted");
    check(&images, taken);
    // The same association is of use as soon as there is room; nothing has to be restarted.
    std::fs::remove_file(&ballast).unwrap();
    let (uid, data_set) = image(taken);
    assert_eq!(sender.store(&uid, &data_set).unwrap(), Status::SUCCESS, "{}", node.log());
    check(&images, taken + 1);
    assert!(node.terminate().success());
    // Whatever the refusal left behind is gone after a start.
    let node = Node::start(disk.path(), &[]);
    check(&images, taken + 1);
    drop(node);
}

#[test]
fn room_that_must_stay_free_is_kept_free() {
    let Some(disk) = Tmpfs::mount(16) else { return };
    let node = Node::start(disk.path(), &["images.keep_free_bytes=8388608"]);
    let mut sender = Sender::open(node.address(), NODE_AE).unwrap();
    let (taken, refused) = store_until_refused(&mut sender, 0);
    assert_eq!(refused, Status::OUT_OF_RESOURCES);
    assert!((8..18).contains(&taken), "{taken}");
    check(&disk.path().join("images"), taken);
}

#[test]
fn an_object_that_would_take_the_room_that_must_stay_free_is_refused_before_it_does() {
    let Some(disk) = Tmpfs::mount(48) else { return };
    let keep = 24 << 20;
    let node = Node::start(disk.path(), &[&format!("images.keep_free_bytes={keep}")]);
    // 40 MB: more than there is above what must stay free, less than there is.
    let image = RtImage { rows: 5000, columns: 4000, ..RtImage::default() };
    let mut bytes = Vec::new();
    image.data_set().write_dataset_with_ts(&mut bytes, &IMPLICIT_VR_LITTLE_ENDIAN.erased()).unwrap();
    let mut sender = Sender::open(node.address(), NODE_AE).unwrap();
    let refused = sender.store(&image.sop_instance_uid, &bytes).unwrap();
    assert_eq!(refused, Status::OUT_OF_RESOURCES, "{}", node.log());
    check(&disk.path().join("images"), 0);
    assert_eq!(store_until_refused(&mut sender, 0).1, Status::OUT_OF_RESOURCES);
    assert!(fs4::available_space(disk.path()).unwrap() >= keep - (1 << 20), "an image's margin");
}

#[test]
fn a_quota_refuses_without_a_full_disk() {
    let root = tempfile::tempdir().unwrap();
    let node = Node::start(root.path(), &["images.quota_bytes=2000000"]);
    let mut sender = Sender::open(node.address(), NODE_AE).unwrap();
    let (taken, refused) = store_until_refused(&mut sender, 0);
    assert_eq!(refused, Status::OUT_OF_RESOURCES);
    assert!((3..=5).contains(&taken), "{taken}");
    check(&root.path().join("images"), taken);
    // Across a restart too.
    assert!(node.terminate().success());
    let node = Node::start(root.path(), &["images.quota_bytes=2000000"]);
    let (uid, data_set) = image(99);
    assert_eq!(
        Sender::open(node.address(), NODE_AE).unwrap().store(&uid, &data_set).unwrap(),
        Status::OUT_OF_RESOURCES
    );
}
