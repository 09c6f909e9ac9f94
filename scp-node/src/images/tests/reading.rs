//! Questions to the catalog, and who opens it.

use super::*;

#[test]
fn sessions_are_found_by_date_kind_and_image_type_newest_first() {
    let root = tempfile::tempdir().unwrap();
    let s = open(root.path());
    store_image(&s, &IMAGE).unwrap();
    store_image(&s, &Image { uid: "1.2.3.2", date: "20261121", series: "1.2.5.2", unit: "MINUTE", ..IMAGE })
        .unwrap();
    let catalog = Catalog::open_readonly(root.path()).unwrap();
    let find = |f: SessionFilter| {
        catalog.sessions(&f).unwrap().into_iter().map(|s| s.series_uid).collect::<Vec<_>>()
    };
    assert_eq!(find(SessionFilter::default()), ["1.2.5.2", "1.2.5.1"]);
    assert_eq!(find(SessionFilter { beam: Some(Beam::Mv), ..Default::default() }), ["1.2.5.1"]);
    assert_eq!(find(SessionFilter { date: "2026-11-21".parse().ok(), ..Default::default() }), ["1.2.5.2"]);
    assert_eq!(
        find(SessionFilter { before: "2026-11-21T00:00:00".parse().ok(), ..Default::default() }),
        ["1.2.5.1"]
    );
    assert_eq!(
        find(SessionFilter { image_type: Some("PORTAL".into()), limit: 1, ..Default::default() }),
        ["1.2.5.2"]
    );
    assert!(find(SessionFilter { image_type: Some("DRR".into()), ..Default::default() }).is_empty());
}

#[test]
fn many_may_open_a_new_catalog_at_once() {
    let root = tempfile::tempdir().unwrap();
    let start = std::sync::Barrier::new(16);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    Catalog::open(root.path()).map(|c| c.total_bytes().unwrap())
                })
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap().unwrap(), 0);
        }
    });
}
