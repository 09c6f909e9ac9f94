//! `scp-node mosaiq check` and `trf check --mosaiq` as an admin and a physicist call them.

use std::path::Path;
use std::process::{Command, Output};

use rusqlite::Connection;
use serde_json::Value;
use tests::node::node_binary;
use tests::tds::{Options, TdsServer};
use trf_core::Version;
use trf_core::index::{ClockDay, Index};

use crate::four_sources::insert_field;
use crate::made;
use crate::support::{PASSWORD, USER, clinic, login};

/// The clinic, all treated an hour ago.
fn treated_lately() -> Connection {
    let rows = clinic();
    rows.execute_batch(
        "UPDATE TrackTreatment SET Create_DtTm = strftime('%Y-%m-%d %H:%M:%f', 'now', '-1 hours')",
    )
    .unwrap();
    rows
}

/// Settings of a site whose Mosaiq is the server; `more` goes into [site.mosaiq].
fn settings(directory: &Path, tds: &TdsServer, more: &str) {
    std::fs::write(directory.join("password"), format!("{PASSWORD}\n")).unwrap();
    let password = directory.join("password");
    let text = format!(
        "[[site]]\nname = 'North'\n[site.mosaiq]\nhost = '127.0.0.1'\nport = {}\nencrypt = 'none'\nuser = '{USER}'\n\
         password = {{ file = '{}' }}\n{more}\n[[site.linac]]\nname = '4299'\n[[site.linac]]\nname = 'B'\nmosaiq_name = '2619'\n",
        tds.port(),
        password.display()
    );
    std::fs::write(directory.join("config.toml"), text).unwrap();
}

fn scp_node(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(node_binary());
    command.current_dir(directory).args(["--config", "config.toml"]).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn check_names_the_server_and_is_content() {
    let rows = treated_lately();
    let tds = TdsServer::start(rows, login());
    let directory = tempfile::tempdir().unwrap();
    settings(directory.path(), &tds, "time_zone = 'UTC'");
    let root = directory.path().join("trf");
    let day = chrono::NaiveDate::from_ymd_opt(2026, 3, 2).unwrap();
    let clock = ClockDay { day, seconds: 467.3, spread_s: 1.5, n_pairs: 31 };
    Index::open(&root).unwrap().set_drift("4299", &clock).unwrap();
    let output =
        scp_node(directory.path(), &["--set", &format!("trf.root={}", root.display()), "mosaiq", "check"]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    for line in [
        "site \"North\": Mosaiq at 127.0.0.1:",
        "server    MOSAIQ-TEST, Microsoft SQL Server 2019",
        "database  MOSAIQ as reader",
        "reads     TrackTreatment, TxField, TxFieldPoint, Ident, Patient, Staff",
        "time      +00:00 from UTC; UTC is +00:00",
        "machine   4299: 7 treatments in the last 7 days, the last at ",
        "; its clock +467.3 s against the server's on 2026-03-02 (±1.5 s, 31 records)",
        "machine   B: 1 treatments",
    ] {
        assert!(out.contains(line), "{line}\n{out}");
    }
    assert_eq!(err, "");
    assert!(!out.contains(PASSWORD) && !out.contains("O'Hara"));
}

#[test]
fn check_tells_a_wrong_zone_a_missing_right_and_an_unknown_machine() {
    let tds = TdsServer::start(treated_lately(), login());
    let directory = tempfile::tempdir().unwrap();
    settings(directory.path(), &tds, "time_zone = 'Asia/Kathmandu'");
    let config = directory.path().join("config.toml");
    let changed =
        std::fs::read_to_string(&config).unwrap().replace("mosaiq_name = '2619'", "mosaiq_name = '2691'");
    std::fs::write(&config, changed).unwrap();
    let output = scp_node(directory.path(), &["--json", "mosaiq", "check"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let report = &report[0];
    assert_eq!(report["time"]["zone_offset_min"], 345);
    let problems = report["problems"].to_string();
    assert!(problems.contains("+00:00 from UTC, Asia/Kathmandu is +05:45"), "{problems}");
    assert!(problems.contains("2691") && problems.contains("mosaiq_name of linac B"), "{problems}");
    assert_eq!(report["machines"][0]["staff"][1]["staff_id"], 219);
    assert_eq!(report["others"], serde_json::json!(["2619"]));

    let denying = Options { denied: vec!["Patient".into()], ..Options::new(login()) };
    let tds = TdsServer::start_with(treated_lately(), denying);
    settings(directory.path(), &tds, "time_zone = 'UTC'");
    let output = scp_node(directory.path(), &["mosaiq", "check"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("may not read Patient: it needs db_datareader"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn of_several_sites_one_that_is_down_does_not_hide_the_others() {
    let tds = TdsServer::start(treated_lately(), login());
    let directory = tempfile::tempdir().unwrap();
    settings(directory.path(), &tds, "time_zone = 'UTC'");
    let config = directory.path().join("config.toml");
    let north = std::fs::read_to_string(&config).unwrap();
    let down = north
        .replace("North", "South")
        .replace(&tds.port().to_string(), &tests::peers::free_port().to_string());
    std::fs::write(&config, format!("{down}\n{north}")).unwrap();
    let output = scp_node(directory.path(), &["--json", "mosaiq", "check"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (report[0]["site"].as_str(), report[0]["kind"].as_str()),
        (Some("South"), Some("unreachable"))
    );
    assert_eq!((report[1]["site"].as_str(), &report[1]["problems"]), (Some("North"), &serde_json::json!([])));
    let output = scp_node(directory.path(), &["trf", "check", "x.trf", "--mosaiq", "1"]);
    assert!(
        text(&output.stderr).contains("choose one with --site: South, North"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn check_without_a_mosaiq_and_with_a_wrong_password_says_what_to_do() {
    let tds = TdsServer::start(treated_lately(), login());
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config.toml"), "").unwrap();
    let output = scp_node(directory.path(), &["mosaiq", "check"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("add [site.mosaiq]"), "{}", text(&output.stderr));

    settings(directory.path(), &tds, "time_zone = 'UTC'");
    std::fs::write(directory.path().join("password"), "wrong").unwrap();
    let output = scp_node(directory.path(), &["mosaiq", "check"]);
    assert_eq!(output.status.code(), Some(1));
    let err = text(&output.stderr);
    assert!(
        err.starts_with("error: Mosaiq at 127.0.0.1:") && err.contains("the login \"reader\" is refused"),
        "{err}"
    );
    assert!(err.contains("hint: check user and password"), "{err}");

    let output = scp_node(directory.path(), &["config", "show"]);
    let shown = text(&output.stdout);
    assert!(shown.contains("site.0.mosaiq.password.file"), "{shown}");
    let plain = std::fs::read_to_string(directory.path().join("config.toml")).unwrap();
    let plain = plain.lines().map(|l| if l.starts_with("password") { "password = 'tr0ub4dor'" } else { l });
    std::fs::write(directory.path().join("config.toml"), plain.collect::<Vec<_>>().join("\n")).unwrap();
    for arguments in [&["config", "show"][..], &["--json", "config", "show"], &["mosaiq", "check"]] {
        let output = scp_node(directory.path(), arguments);
        let all = text(&output.stdout) + &text(&output.stderr);
        assert!(!all.contains("tr0ub4dor"), "{arguments:?}: {all}");
    }
}

/// SQL Server quotes values in its errors, and tiberius logs errors as they come.
#[test]
fn what_the_server_says_is_in_no_log_at_any_level() {
    let words =
        "Conversion failed when converting the nvarchar value 'Doe, John' to data type int.".to_owned();
    let options = Options { refusal: Some((245, words)), ..Options::new(login()) };
    let tds = TdsServer::start_with(treated_lately(), options);
    let directory = tempfile::tempdir().unwrap();
    settings(directory.path(), &tds, "time_zone = 'UTC'");
    for level in ["info", "trace", "tiberius=trace"] {
        let log = format!("log.level={level}");
        let output = scp_node(directory.path(), &["--set", &log, "mosaiq", "check"]);
        let all = text(&output.stdout) + &text(&output.stderr);
        assert!(all.contains("it refused the query with error 245"), "{all}");
        for secret in ["Doe", "John", "nvarchar", PASSWORD] {
            assert!(!all.contains(secret), "{level} tells {secret}: {all}");
        }
    }
}

#[test]
fn a_record_is_checked_against_mosaiqs_field() {
    let planned = made::sliding_window(30, -100.0, 2.0, 2.0);
    let rows = clinic();
    insert_field(&rows, 7, &planned);
    let tds = TdsServer::start(rows, login());
    let directory = tempfile::tempdir().unwrap();
    settings(directory.path(), &tds, "time_zone = 'UTC'");
    let write = |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).unwrap();
    write("good.trf", &made::record(&[&planned], Version::V3));
    write("RP.dcm", &made::plan(&[(1, &planned)], &["ASYMY"]));
    let check = |plan: &[&str]| {
        let arguments = [&["--json", "trf", "check", "good.trf", "--grid", "5"], plan].concat();
        let output = scp_node(directory.path(), &arguments);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        json[0]["result"].clone()
    };
    let (by_mosaiq, by_plan) = (check(&["--mosaiq", "7"]), check(&["--plan", "RP.dcm"]));
    assert!(by_mosaiq["fraction_group"].is_null() && by_plan["fraction_group"] == 1);
    let (beam, reference) = (&by_mosaiq["beams"][0], &by_plan["beams"][0]);
    assert_eq!((beam["number"].as_i64(), beam["name"].as_str()), (Some(7), Some("1-1 QA")));
    assert_eq!(beam["gamma"]["pass_rate_percent"], 100.0);
    for key in ["planned_mu", "delivered_mu", "difference_mu"] {
        let difference = beam[key].as_f64().unwrap() - reference[key].as_f64().unwrap();
        assert!(difference.abs() < 1e-6, "{key}: {beam} {reference}");
    }

    let output = scp_node(directory.path(), &["trf", "check", "good.trf", "--mosaiq", "8"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no field with FLD_ID 8"), "{}", text(&output.stderr));
    let output = scp_node(directory.path(), &["trf", "check", "good.trf"]);
    assert_eq!(output.status.code(), Some(2), "neither plan nor field");
}
