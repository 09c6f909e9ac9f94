//! The peers themselves: they start, take objects, and end.

use tests::peers::objects::{RtImage, RtPlan};
use tests::peers::{Destination, PeerArchive};

#[test]
fn every_archive_takes_generated_objects() {
    let objects = tempfile::tempdir().unwrap();
    RtImage::default().write(objects.path());
    RtPlan::default().write(objects.path());
    let destinations = [Destination::new("NODE", 1)];
    for start in [PeerArchive::orthanc, PeerArchive::dcmqrscp, PeerArchive::qrscp] {
        if let Some(archive) = start(&destinations) {
            archive.store(objects.path());
        }
    }
}
