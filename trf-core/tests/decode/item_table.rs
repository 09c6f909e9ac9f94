//! `docs/trf.md` says of every item what the code does.

use trf_core::items::{Rule, meaning};
use trf_core::writer::agility_items;
use trf_core::{ItemPart, Version};

/// The rows of the table, ranges such as `2380–2459` and `Leaf 1–80` written out: item, name, unit, value, source.
fn documented() -> Vec<(ItemPart, String, String, String, String)> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/trf.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| 2"));
    rows.flat_map(|line| {
        let cells: Vec<String> = line.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect();
        let (first, last) = cells[0].split_once('–').unwrap_or((&cells[0], &cells[0]));
        let (first, last): (i16, i16) = (first.parse().unwrap(), last.parse().unwrap());
        let part = cells[1].parse().unwrap();
        (first..=last).map(move |item| {
            let name = cells[2].replace("1–80", &(item - first + 1).to_string());
            let rest = [&cells[3], &cells[4], &cells[5]].map(Clone::clone);
            let [unit, value, source] = rest;
            (ItemPart::new(item, part), name, unit, value, source)
        })
    })
    .collect()
}

#[test]
fn the_documented_table_of_items_is_the_codes() {
    let documented = documented();
    let mut items: Vec<_> = documented.iter().map(|(item, ..)| *item).collect();
    let mut known = agility_items(Version::V4);
    items.sort();
    known.sort();
    assert_eq!(items, known);
    for (item, name, unit, value, source) in documented {
        let code = meaning(item);
        assert_eq!((code.name.as_ref(), code.unit), (name.as_str(), unit.as_str()), "{item}");
        assert_eq!(code.provenance.words(), source, "{item}");
        let rule = match code.rule {
            Rule::Raw => "x",
            Rule::Tenths => "x / 10",
            Rule::NegatedTenths => "−x / 10",
            Rule::Unsigned16 => "x, 16 bits without sign",
            Rule::LinacState | Rule::WedgePosition => "code",
        };
        assert_eq!(value, rule, "{item}");
    }
}

#[test]
fn the_table_is_that_of_the_developer_set() {
    let Some(data) = crate::common::trf_data() else { return };
    let csv = std::fs::read_to_string(data.join("items.csv")).unwrap();
    for (line, item) in csv.lines().skip(1).zip(agility_items(Version::V4)) {
        let cells: Vec<&str> = line.split(',').collect();
        assert_eq!(format!("{item}"), format!("{}/{}", cells[1], cells[2]));
        assert_eq!(meaning(item).name, cells[3]);
    }
}
