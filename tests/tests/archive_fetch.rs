//! The whole job against real archives: find, move, receive, hand out; and what is not asked or moved again.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use scp_node::fetch::{FetchRequest, Fetched, fetch, kept};
use scp_node::names::AeTitle;
use scp_node::settings::{ArchiveSettings, Settings};
use tests::peers::objects::{RtImage, RtPlan, uid};
use tests::peers::{Destination, PeerArchive, free_port, run_tool};
use tests::site::node_settings;
use tokio_util::sync::CancellationToken;

const PATIENT: &str = "QA_TB_WL";

/// A node's settings in a directory of its own, and the archive that may move to it.
struct Site {
    settings: Settings,
    archive: PeerArchive,
    sent: BTreeMap<String, PathBuf>,
    directory: tempfile::TempDir,
}

type Start = fn(&[Destination]) -> Option<PeerArchive>;

impl Site {
    fn start(start: Start) -> Option<Self> {
        let port = free_port();
        let archive = start(&[Destination::new("NODE", port)])?;
        let directory = tempfile::tempdir().unwrap();
        let mut settings = node_settings(directory.path(), port);
        settings.node.ae_title = AeTitle::new("NODE").unwrap();
        let asked = AeTitle::new(archive.ae_title).unwrap();
        settings.archives.push(ArchiveSettings::new("archive", asked, "localhost", archive.port));
        Some(Self { settings, archive, sent: BTreeMap::new(), directory })
    }

    fn send(&mut self, write: impl FnOnce(&Path) -> Vec<PathBuf>) {
        let batch = self.directory.path().join(format!("sent-{}", self.sent.len()));
        for path in write(&batch) {
            // Lengths of sequences as these archives write them, so that no one rewrites a data set on the way.
            let file = path.to_str().unwrap();
            assert!(run_tool("dcmconv", &["+e", file, file]).status.success());
            self.sent.insert(path.file_stem().unwrap().to_str().unwrap().to_owned(), path);
        }
        self.archive.store(&batch);
    }

    async fn fetch(&self, request: &FetchRequest) -> scp_node::Result<Fetched> {
        fetch(request, &self.settings, &CancellationToken::new(), &mut |_| {}).await
    }

    /// The data sets on disk are those that were sent, bit for bit. Where the archive sent on in another transfer syntax,
    /// DCMTK says how the same data set is written in that one.
    fn assert_as_sent(&self, fetched: &Fetched) {
        for instance in fetched.sessions.iter().flat_map(|s| &s.instances) {
            let sent = self.sent.get(&instance.sop_instance_uid).unwrap();
            let rewritten = self.directory.path().join("rewritten.dcm");
            let syntax = if self.archive.name == "dcmqrscp" { "+te" } else { "+ti" };
            let files = [sent.to_str().unwrap(), rewritten.to_str().unwrap()];
            assert!(run_tool("dcmconv", &["+e", syntax, files[0], files[1]]).status.success());
            let (ours, theirs) = (data_set_bytes(&instance.path), data_set_bytes(&rewritten));
            assert!(syntax != "+ti" || theirs == data_set_bytes(sent), "this one was to be left as it is");
            let differs = ours.iter().zip(&theirs).position(|(a, b)| a != b);
            assert!(
                ours == theirs,
                "{} bytes, {} sent, differ at {differs:?}: {:02X?} {:02X?}",
                ours.len(),
                theirs.len(),
                ours.get(differs.unwrap_or(0)..).unwrap().iter().take(40).collect::<Vec<_>>(),
                theirs.get(differs.unwrap_or(0)..).unwrap().iter().take(40).collect::<Vec<_>>(),
            );
        }
    }
}

/// A file without its preamble and group 0002: what follows the group's length in (0002,0000).
fn data_set_bytes(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(bytes.get(128..140).unwrap(), b"DICM\x02\0\0\0UL\x04\0");
    let length = u32::from_le_bytes(bytes.get(140..144).unwrap().try_into().unwrap());
    bytes.get(144 + length as usize..).unwrap().to_vec()
}

/// Images of one series; the series' number is also its day in January.
fn series(directory: &Path, plan: u32, series: u32, n: u32, change: fn(&mut RtImage)) -> Vec<PathBuf> {
    let write = |i: u32| {
        let mut image = RtImage {
            series_uid: uid(&[1, series]),
            sop_instance_uid: uid(&[1, series, i]),
            plan_uid: Some(uid(&[9, plan])),
            date: Some(format!("202601{series:02}")),
            time: Some(format!("0700{i:02}")),
            instance_number: i,
            ..RtImage::default()
        };
        change(&mut image);
        image.write(directory)
    };
    (1..=n).map(write).collect()
}

fn plan(directory: &Path, n: u32, label: &str) -> PathBuf {
    let (series_uid, sop_instance_uid) = (uid(&[1, 900 + n]), uid(&[9, n]));
    RtPlan { series_uid, sop_instance_uid, label: Some(label.into()), ..RtPlan::default() }.write(directory)
}

fn winston_lutz(directory: &Path) -> Vec<PathBuf> {
    let mut files = vec![plan(directory, 1, "WL_10MV"), plan(directory, 2, "WL_6FFF")];
    files.extend(series(directory, 1, 5, 3, |_| {}));
    files.extend(series(directory, 1, 6, 4, |_| {}));
    files.extend(series(directory, 2, 7, 2, |_| {}));
    // kV images of the same plan, newer than all.
    files.extend(series(directory, 1, 8, 2, |i| i.primary_dosimeter_unit = Some("MINUTE".into())));
    files
}

async fn the_newest_session_arrives_and_nothing_is_moved_twice(start: Start) {
    let Some(mut site) = Site::start(start) else { return };
    site.send(winston_lutz);
    let name = site.archive.name;
    let mut request = FetchRequest::new(PATIENT, "WL_10MV");
    assert_eq!(kept(&request, &site.settings).unwrap(), None, "{name}: nobody has asked yet");
    let first = site.fetch(&request).await.unwrap();
    let session = first.sessions.first().unwrap();
    assert_eq!(session.instances.len(), 4, "{name}");
    assert_eq!(session.session.acquired.unwrap().to_string(), "2026-01-06 07:00:01", "{name}");
    assert_eq!(session.session.plan_label.as_deref(), Some("WL_10MV"), "{name}");
    assert!(session.session.directory.is_dir());
    assert!(first.moved >= 4 && first.queries > 0, "{name}");
    site.assert_as_sent(&first);

    let within_freshness = site.fetch(&request).await.unwrap();
    assert_eq!((within_freshness.moved, within_freshness.queries), (0, 0), "{name}");
    assert_eq!(within_freshness.sessions, first.sessions, "{name}");
    assert_eq!(kept(&request, &site.settings).unwrap(), Some(within_freshness), "{name}");
    if name == "Orthanc" {
        let other = FetchRequest::new(PATIENT, "WL_6FFF");
        assert_eq!(kept(&other, &site.settings).unwrap(), None, "listed, but not on disk");
    }

    request.refresh = true;
    assert_eq!(kept(&request, &site.settings).unwrap(), None, "{name}");
    let nothing_missing = site.fetch(&request).await.unwrap();
    assert_eq!(nothing_missing.moved, 0, "{name}");
    if name == "Orthanc" {
        let why = "an unchanged patient costs one C-FIND, and one for the images of what is handed out";
        assert_eq!(nothing_missing.queries, 2, "{why}");
    }

    site.send(|d| series(d, 1, 9, 2, |_| {}));
    let newer = site.fetch(&request).await.unwrap();
    let session = newer.sessions.first().unwrap();
    assert_eq!(session.session.date.unwrap().to_string(), "2026-01-09", "{name}");
    assert_eq!(newer.moved, 2, "{name}: only what is missing is moved");
    site.assert_as_sent(&newer);
}

#[tokio::test(flavor = "multi_thread")]
async fn orthanc_delivers_the_newest_session_once() {
    the_newest_session_arrives_and_nothing_is_moved_twice(PeerArchive::orthanc).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dcmqrscp_delivers_the_newest_session_once() {
    the_newest_session_arrives_and_nothing_is_moved_twice(PeerArchive::dcmqrscp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn qrscp_delivers_the_newest_session_once() {
    the_newest_session_arrives_and_nothing_is_moved_twice(PeerArchive::qrscp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn date_beam_type_plan_and_all_dates_choose_among_the_images() {
    let Some(mut site) = Site::start(PeerArchive::orthanc) else { return };
    site.send(winston_lutz);
    let wish = FetchRequest::new(PATIENT, "WL_10MV");
    let dates = |f: &Fetched| -> Vec<String> {
        f.sessions.iter().map(|s| s.session.date.unwrap().to_string()).collect()
    };
    let by_date = FetchRequest { date: "2026-01-05".parse().ok(), ..wish.clone() };
    assert_eq!(dates(&site.fetch(&by_date).await.unwrap()), ["2026-01-05"]);
    let kv = FetchRequest { kv: true, ..wish.clone() };
    assert_eq!(dates(&site.fetch(&kv).await.unwrap()), ["2026-01-08"]);
    let all = FetchRequest { all_dates: true, ..wish.clone() };
    assert_eq!(dates(&site.fetch(&all).await.unwrap()), ["2026-01-06", "2026-01-05"]);
    let by_uid =
        FetchRequest { plan_label: None, plan_uid: scp_node::names::Uid::new(&uid(&[9, 2])), ..wish.clone() };
    assert_eq!(dates(&site.fetch(&by_uid).await.unwrap()), ["2026-01-07"]);
    let before = FetchRequest { before: "2026-01-06T00:00:00".parse().ok(), ..wish.clone() };
    assert_eq!(dates(&site.fetch(&before).await.unwrap()), ["2026-01-05"]);
    let portal = FetchRequest { image_type: Some("portal".into()), ..wish.clone() };
    assert_eq!(dates(&site.fetch(&portal).await.unwrap()), ["2026-01-06"]);
    for (request, hint) in [
        (FetchRequest { image_type: Some("DRR".into()), ..wish.clone() }, "Image Type"),
        (FetchRequest { date: "2026-02-01".parse().ok(), ..wish.clone() }, "2026-01-08"),
        (FetchRequest::new(PATIENT, "wl_10mv"), "WL_10MV"),
        (FetchRequest::new(PATIENT, "NO_SUCH"), "WL_6FFF"),
        (FetchRequest::new("qa_tb_wl", "WL_10MV"), "patient ID"),
    ] {
        let error = site.fetch(&request).await.unwrap_err();
        assert_eq!(error.kind(), "not_found", "{error}");
        assert!(error.hint().contains(hint), "{error} / {}", error.hint());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_and_date_are_those_of_each_image_not_of_the_first_of_its_series() {
    let Some(mut site) = Site::start(PeerArchive::orthanc) else { return };
    site.send(|d| {
        let mut files = vec![plan(d, 1, "WL_10MV"), plan(d, 2, "WL_6FFF")];
        files.extend(series(d, 1, 5, 6, |image| {
            if image.instance_number > 4 {
                image.plan_uid = Some(uid(&[9, 2]));
            } else if image.instance_number > 2 {
                image.date = Some("20260110".into());
            }
        }));
        files
    });
    let newest = site.fetch(&FetchRequest::new(PATIENT, "WL_10MV")).await.unwrap();
    let numbers = |f: &Fetched| -> Vec<i64> {
        f.sessions.iter().flat_map(|s| &s.instances).map(|i| i.instance_number.unwrap()).collect()
    };
    assert_eq!((numbers(&newest), newest.moved), (vec![3, 4], 2));
    let other = site.fetch(&FetchRequest::new(PATIENT, "WL_6FFF")).await.unwrap();
    assert_eq!((numbers(&other), other.moved), (vec![5, 6], 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_want_the_same_series_share_one_move() {
    let Some(mut site) = Site::start(PeerArchive::orthanc) else { return };
    site.send(winston_lutz);
    let request = FetchRequest::new(PATIENT, "WL_10MV");
    let (one, two) = tokio::join!(site.fetch(&request), site.fetch(&request));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.moved + two.moved, 4);
    assert_eq!(one.sessions, two.sessions);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_want_different_plans_share_one_receiver() {
    let Some(mut site) = Site::start(PeerArchive::orthanc) else { return };
    site.send(winston_lutz);
    let (a, b) = (FetchRequest::new(PATIENT, "WL_10MV"), FetchRequest::new(PATIENT, "WL_6FFF"));
    let (a, b) = tokio::join!(site.fetch(&a), site.fetch(&b));
    assert_eq!((a.unwrap().moved, b.unwrap().moved), (4, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_another_program_has_is_explained() {
    let Some(mut site) = Site::start(PeerArchive::orthanc) else { return };
    site.send(winston_lutz);
    let _taken = std::net::TcpListener::bind(("127.0.0.1", site.settings.node.port)).unwrap();
    let error = site.fetch(&FetchRequest::new(PATIENT, "WL_10MV")).await.unwrap_err();
    assert!(error.hint().contains("another program listens on this port"), "{error} / {}", error.hint());
}

#[tokio::test(flavor = "multi_thread")]
async fn orthanc_at_its_limit_of_results_is_explained_and_nothing_old_is_handed_out() {
    for limit in ["LimitFindResults", "LimitFindInstances"] {
        let start: Start = match limit {
            "LimitFindResults" => {
                |d| PeerArchive::orthanc_with(d, serde_json::json!({"LimitFindResults": 2}))
            }
            _ => |d| PeerArchive::orthanc_with(d, serde_json::json!({"LimitFindInstances": 2})),
        };
        let Some(mut site) = Site::start(start) else { return };
        site.send(winston_lutz);
        let error = site.fetch(&FetchRequest::new(PATIENT, "WL_10MV")).await.unwrap_err();
        assert!(error.to_string().contains("before it had told all"), "{limit}: {error}");
        assert!(error.hint().contains(limit), "{limit}: {}", error.hint());
    }
}
