//! The client: what it asks, what it gives, and each way in which it fails.

use std::time::{Duration, Instant};

use tests::tds::{Certificate, Encryption, Options, Parameter, Stall, TdsServer};
use trf_core::mosaiq::{self as client_side, Mosaiq, Server, Trust};

use crate::support::{PASSWORD, USER, at, client, clinic, login, server};

async fn day(mosaiq: &mut Mosaiq) -> trf_core::Result<Vec<client_side::Treatment>> {
    mosaiq.treatments("4299", at("2026-03-02 00:00:00"), at("2026-03-03 00:00:00")).await
}

#[tokio::test]
async fn a_day_of_a_machine_comes_trimmed_rounded_and_once() {
    let tds = TdsServer::start(clinic(), login());
    let mut mosaiq = Mosaiq::connect(server(&tds)).await.unwrap();
    let treatments = day(&mut mosaiq).await.unwrap();
    assert_eq!(treatments.iter().map(|t| t.ttx_id).collect::<Vec<_>>(), [9, 1, 2, 3]);
    let first = &treatments[1];
    assert_eq!((first.field_label.as_str(), first.field_name.as_str()), ("1-1", "AP"));
    assert_eq!((first.last_name.as_str(), first.first_name.as_str()), ("O'Hara", "Zoë"));
    assert_eq!(
        (first.pat_id1, first.field_id, first.field_type, first.dhs_id),
        (30121, 88043, 13, Some(886571))
    );
    assert_eq!(first.meterset_mu, Some(426.7));
    // Ticks of 1/300 s: .513 is sent as .513333…
    assert_eq!(first.created_local, at("2026-03-02 08:03:28.513"));
    assert_eq!(first.edited_local, at("2026-03-02 08:04:22.140"));
    assert!(first.qa_mode && first.beam_complete && first.beam_on && !first.canceled);
    // Two entries in Ident: the one with an ID counts. None at all: no ID, but the row stays.
    assert_eq!(first.patient_id.as_deref(), Some("PHY-1"));
    assert_eq!(treatments[2].patient_id, None);
    // Everything that can be NULL is.
    let bare = &treatments[3];
    assert_eq!((bare.dhs_id, bare.meterset_mu, bare.field_name.as_str()), (None, None, ""));
    assert_eq!(bare.edited_local, bare.created_local);
    assert!(!bare.qa_mode && !bare.beam_on);
}

#[tokio::test]
async fn only_selects_are_sent_and_values_only_as_parameters() {
    let tds = TdsServer::start(clinic(), login());
    let mut mosaiq = Mosaiq::connect(server(&tds)).await.unwrap();
    day(&mut mosaiq).await.unwrap();
    mosaiq.about().await.unwrap();
    mosaiq.activity("4299", at("2026-03-02 00:00:00")).await.unwrap();
    mosaiq.machines_since(at("2026-03-02 00:00:00")).await.unwrap();
    mosaiq.field(88043).await.unwrap();
    let hostile = "4299' OR 1=1; DROP TABLE Staff --";
    let error = mosaiq.machine(hostile).await.unwrap_err();
    assert!(error.to_string().contains("knows no machine"), "{error}");
    let statements = tds.statements();
    assert!(statements.len() > 10);
    for statement in &statements {
        assert!(statement.sql.starts_with("SELECT ") && !statement.sql.contains(';'), "{}", statement.sql);
        assert!(statement.read_only, "not ApplicationIntent=ReadOnly");
        for value in ["4299", "88043", "2026", "DROP"] {
            assert!(!statement.sql.contains(value), "{value} was pasted into {}", statement.sql);
        }
    }
    let asked = &statements.last().unwrap().parameters;
    let expected = Parameter::Text(hostile.replace(' ', ""));
    assert_eq!(asked.as_slice(), [("@P1".to_owned(), expected)]);
}

#[tokio::test]
async fn a_machine_is_found_whatever_spaces_its_name_has() {
    let tds = TdsServer::start(clinic(), login());
    let mut mosaiq = Mosaiq::connect(server(&tds)).await.unwrap();
    for name in ["4299", " 42 99", "4299 "] {
        let machines = mosaiq.machine(name).await.unwrap();
        assert_eq!(machines.iter().map(|m| m.staff_id).collect::<Vec<_>>(), [218, 219], "{name:?}");
    }
    let active = mosaiq.machines_since(at("2026-03-01 00:00:00")).await.unwrap();
    assert_eq!(active.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["42 99", "2619", "4299"]);
}

#[tokio::test]
async fn an_answer_of_many_packets_is_whole() {
    let rows = clinic();
    rows.execute_batch(
        "WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 6000)
         INSERT INTO TrackTreatment SELECT i, 30121, 88043, i, 218,
            strftime('%Y-%m-%d %H:%M:%f', '2026-04-01', '+' || i || ' seconds'), NULL, 0, 1, 1, 0, 1 FROM n;",
    )
    .unwrap();
    let tds = TdsServer::start(rows, login());
    let mut mosaiq = Mosaiq::connect(server(&tds)).await.unwrap();
    let found =
        mosaiq.treatments("4299", at("2026-04-01 00:00:00"), at("2026-04-02 00:00:00")).await.unwrap();
    assert_eq!(found.len(), 5001);
    assert!(found.iter().zip(1000..).all(|(treatment, id)| treatment.ttx_id == id));
}

#[tokio::test]
async fn encryption_is_what_the_settings_say_or_more() {
    use client_side::Encryption as Wanted;
    let certificate = Certificate::new();
    let directory = tempfile::tempdir().unwrap();
    let authority = Trust::Authority(certificate.write_authority(directory.path()));
    let cases = [
        (Encryption::None, Wanted::None, &authority, false),
        (Encryption::Login, Wanted::None, &authority, false),
        (Encryption::Login, Wanted::Login, &authority, false),
        (Encryption::Login, Wanted::Full, &authority, true),
        (Encryption::Full, Wanted::Full, &authority, true),
        (Encryption::Full, Wanted::Login, &authority, true),
        (Encryption::Full, Wanted::Full, &Trust::Any, true),
    ];
    for (offered, wanted, trust, encrypted) in cases {
        let options =
            Options { encryption: offered, certificate: Some(certificate.clone()), ..Options::new(login()) };
        let tds = TdsServer::start_with(clinic(), options);
        let settings = Server { encryption: wanted, trust: trust.clone(), ..server(&tds) };
        let mut mosaiq =
            Mosaiq::connect(settings).await.unwrap_or_else(|e| panic!("{offered:?} {wanted:?}: {e}"));
        assert_eq!(day(&mut mosaiq).await.unwrap().len(), 4);
        assert!(tds.statements().iter().all(|s| s.encrypted == encrypted), "{offered:?} {wanted:?}");
    }
}

#[tokio::test]
async fn every_refusal_is_one_sentence_with_a_hint() {
    use client_side::Encryption as Wanted;
    let certificate = Certificate::new();
    let with = |change: &dyn Fn(&mut Options)| {
        let mut options = Options { certificate: Some(certificate.clone()), ..Options::new(login()) };
        change(&mut options);
        TdsServer::start_with(clinic(), options)
    };
    let plain = with(&|_| {});
    let encrypting = with(&|o| o.encryption = Encryption::Full);
    let silent = with(&|o| o.stall = Some(Stall::Connect));
    let stuck = with(&|o| o.stall = Some(Stall::Query));
    let breaking = with(&|o| o.stall = Some(Stall::Cut));
    let denying = with(&|o| o.denied = vec!["Ident".into()]);
    let no_table = with(&|_| {});
    no_table.with_rows(|rows| rows.execute_batch("DROP TABLE Patient").unwrap());
    let no_column = with(&|_| {});
    no_column
        .with_rows(|rows| rows.execute_batch("ALTER TABLE TrackTreatment DROP COLUMN WasQAMode").unwrap());
    let wrong_type = with(&|_| {});
    wrong_type.with_rows(|rows| {
        rows.execute_batch("ALTER TABLE Ident DROP COLUMN IDA; ALTER TABLE Ident ADD IDA int").unwrap();
    });
    let closed = tests::peers::free_port();
    let short = Duration::from_millis(400);
    // A name server that is not there takes its time.
    let patient = Duration::from_secs(60);
    let wrong_login = client_side::Login::Password { user: USER.into(), password: "tr0ub4dor".into() };
    let mut cases: Vec<(&str, Server, &str, &str)> = vec![
        (
            "wrong password",
            Server { login: wrong_login, ..server(&plain) },
            "the login \"reader\" is refused",
            "locked",
        ),
        (
            "wrong database",
            Server { database: "MOSIAQ".into(), ..server(&plain) },
            "cannot open the database \"MOSIAQ\"",
            "db_datareader",
        ),
        (
            "closed port",
            Server { port: closed, ..server(&plain) },
            "nothing listens on this port",
            "site.mosaiq.port",
        ),
        (
            "unknown host",
            Server { host: "no-such-host.invalid".into(), connect_timeout: patient, ..server(&plain) },
            "no host has this name",
            "site.mosaiq.host",
        ),
        (
            "silent",
            Server { connect_timeout: short, ..server(&silent) },
            "no answer within 0.4 s",
            "firewall",
        ),
        (
            "stuck",
            Server { query_timeout: short, ..server(&stuck) },
            "no whole answer within 0.4 s",
            "query_timeout_s",
        ),
        ("cut", server(&breaking), "broke in the middle of an answer", "try again"),
        ("denied", server(&denying), "may not read table Ident", "db_datareader"),
        ("no table", server(&no_table), "a Mosaiq without table Patient", "site.mosaiq.database"),
        ("no column", server(&no_column), "a Mosaiq without column WasQAMode", "another schema"),
        ("wrong type", server(&wrong_type), "column IDA holds Int", "version"),
        (
            "no TLS there",
            Server { encryption: Wanted::Full, ..server(&plain) },
            "it does not encrypt",
            "\"none\"",
        ),
        (
            "untrusted",
            Server { encryption: Wanted::Full, ..server(&encrypting) },
            "signed by no authority that is trusted here",
            "trust_ca",
        ),
        (
            "no such file",
            Server {
                trust: Trust::Authority("/no/such/ca.pem".into()),
                encryption: Wanted::Full,
                ..server(&encrypting)
            },
            "cannot access /no/such/ca.pem",
            "path",
        ),
    ];
    if cfg!(not(windows)) {
        let login = client_side::Login::Password { user: "HOSPITAL\\reader".into(), password: "x".into() };
        let what = "with a Windows account from another system";
        cases.push((
            "Windows account",
            Server { login, ..server(&plain) },
            what,
            "login of the SQL Server itself",
        ));
    }
    for (name, settings, what, hint) in cases {
        let started = Instant::now();
        let error = day(&mut client(settings)).await.unwrap_err();
        let text = error.to_string();
        println!("{name}: {text}\n  hint: {}", error.hint());
        assert!(text.contains(what), "{name}: {text}");
        assert!(error.hint().contains(hint), "{name}: {}", error.hint());
        assert_eq!(text.lines().count(), 1, "{name}");
        let all = format!("{text} {error:?} {}", error.hint());
        for secret in [PASSWORD, "tr0ub4dor", "O'Hara", "PHY-1"] {
            assert!(!all.contains(secret), "{name} tells {secret}: {all}");
        }
        assert!(started.elapsed() < Duration::from_secs(90), "{name} took {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let certificate = Certificate::for_names(&["sql.hospital.example"]);
    let directory = tempfile::tempdir().unwrap();
    let trust = Trust::Authority(certificate.write_authority(directory.path()));
    let options =
        Options { encryption: Encryption::Full, certificate: Some(certificate), ..Options::new(login()) };
    let tds = TdsServer::start_with(clinic(), options);
    let settings = Server { encryption: client_side::Encryption::Full, trust, ..server(&tds) };
    let error = day(&mut client(settings)).await.unwrap_err();
    assert!(error.to_string().contains("for another name"), "{error}");
}

#[tokio::test]
async fn a_query_that_is_dropped_or_broken_leaves_nothing_behind() {
    let tds = TdsServer::start(clinic(), login());
    let mut mosaiq = Mosaiq::connect(server(&tds)).await.unwrap();
    // Dropped at every point that a timer hits: before, in and after the answer.
    for wait in 0..40 {
        let _ = tokio::time::timeout(Duration::from_micros(wait * 150), day(&mut mosaiq)).await;
        assert_eq!(mosaiq.machine("2619").await.unwrap()[0].staff_id, 300);
    }
    let before = tds.n_logins();
    tds.cut();
    assert_eq!(day(&mut mosaiq).await.unwrap().len(), 4, "a connection that was closed while idle");
    assert_eq!(tds.n_logins(), before + 1);
}

#[tokio::test]
async fn a_named_instance_is_asked_for_its_port() {
    let tds = TdsServer::start(clinic(), login());
    let browser = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let browser_port = browser.local_addr().unwrap().port();
    let answer =
        format!("ServerName;SQL;InstanceName;MOSAIQ;IsClustered;No;Version;15.0.2000.5;tcp;{};;", tds.port());
    let served = tokio::spawn(async move {
        let mut question = [0; 64];
        let (n, from) = browser.recv_from(&mut question).await.unwrap();
        let mut bytes = vec![5];
        bytes.extend(u16::try_from(answer.len()).unwrap().to_le_bytes());
        bytes.extend(answer.as_bytes());
        browser.send_to(&bytes, from).await.unwrap();
        question[..n].to_vec()
    });
    let settings = Server { instance: Some("MOSAIQ".into()), browser_port, port: 1, ..server(&tds) };
    let mut mosaiq = Mosaiq::connect(settings).await.unwrap();
    assert_eq!(day(&mut mosaiq).await.unwrap().len(), 4);
    assert_eq!(served.await.unwrap(), [&[4][..], b"MOSAIQ"].concat());
    // Nobody there: the hint says what to start.
    let closed = Server { instance: Some("MOSAIQ".into()), browser_port: 9, ..server(&tds) };
    let error = Mosaiq::connect(closed).await.unwrap_err();
    assert!(error.to_string().contains("Mosaiq at 127.0.0.1\\MOSAIQ"), "{error}");
}

#[tokio::test]
async fn a_server_that_sends_readers_to_its_copy_is_followed() {
    let copy = TdsServer::start(clinic(), login());
    let first =
        TdsServer::start_with(clinic(), Options { route: Some(copy.address()), ..Options::new(login()) });
    let mut mosaiq = Mosaiq::connect(server(&first)).await.unwrap();
    assert_eq!(day(&mut mosaiq).await.unwrap().len(), 4);
    assert!(first.statements().is_empty() && !copy.statements().is_empty());
}

#[tokio::test]
async fn the_server_tells_who_it_is_what_we_may_and_what_time_it_has() {
    let options = Options {
        time_zone: chrono_tz::Australia::Sydney,
        denied: vec!["TxFieldPoint".into()],
        ..Options::new(login())
    };
    let tds = TdsServer::start_with(clinic(), options);
    let about = Mosaiq::connect(server(&tds)).await.unwrap().about().await.unwrap();
    assert_eq!(about.product, "Microsoft SQL Server 2019 (RTM) - 15.0.2000.5 (X64)");
    assert_eq!(about.version.as_deref(), Some("15.0.2000.5"));
    assert_eq!((about.database.as_deref(), about.login.as_deref()), (Some("MOSAIQ"), Some(USER)));
    assert!([600, 660].contains(&about.utc_offset().num_minutes()), "{:?}", about.utc_offset());
    let denied: Vec<_> = about.rights.iter().filter(|r| r.read != Some(true)).map(|r| r.table).collect();
    assert_eq!(denied, ["TxFieldPoint"]);
    assert!(about.rights.iter().all(|right| !right.write));
}
