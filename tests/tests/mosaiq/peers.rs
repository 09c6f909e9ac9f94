//! PyMedPhys, by pymssql, on the same server: the same rows, the same deliveries.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;
use serde_json::Value;
use tests::peers::require;
use tests::tds::{Certificate, Encryption, Options, TdsServer};
use trf_core::mosaiq::Mosaiq;

use crate::support::{PASSWORD, USER, at, clinic, login, server};

fn pymedphys() -> Option<PathBuf> {
    require("PyMedPhys (PYMEDPHYS_PYTHON)", std::env::var_os("PYMEDPHYS_PYTHON").map(PathBuf::from))
}

/// Runs a script with arguments; what it prints is JSON.
fn run(python: &Path, script: &str, arguments: &[&str]) -> Value {
    let output = Command::new(python).arg("-c").arg(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

const DETAILS: &str = r#"
import json, sys
import pymedphys.mosaiq
from pymedphys._mosaiq.delivery import get_mosaiq_delivery_details, NoMosaiqEntries
port, user, password = sys.argv[1:4]
with pymedphys.mosaiq.connect("127.0.0.1", port=int(port), username=user, password=password) as connection:
    found = []
    for label, name, time in json.loads(sys.argv[4]):
        try:
            d = get_mosaiq_delivery_details(connection, "2619", time, label, name, buffer=240)
            found.append([d.patient_id, d.field_id, d.last_name, d.qa_mode, d.field_type])
        except NoMosaiqEntries:
            found.append(None)
    with connection.cursor() as cursor:
        cursor.execute("SELECT Create_DtTm, Meterset FROM TrackTreatment, TxField WHERE TrackTreatment.FLD_ID = TxField.FLD_ID "
                       "AND TTX_ID = %(id)s", {"id": 4})
        (created, meterset), = cursor.fetchall()
print(json.dumps({"found": found, "created": created.isoformat(sep=" "), "meterset": float(meterset)}))
"#;

#[tokio::test]
async fn pymedphys_finds_what_we_find() {
    let Some(python) = pymedphys() else { return };
    let rows = clinic();
    // PyMedPhys compares with the spaces that are there, and with Ident's every entry.
    rows.execute_batch("UPDATE TxField SET Field_Label = '1-1', Field_Name = 'AP' WHERE FLD_ID = 88043; DELETE FROM Ident WHERE IDA IS NULL")
        .unwrap();
    let tds = TdsServer::start(rows, login());
    let asked = r#"[["1-1", "AP", "2026-03-02 08:04:00"], ["1-1", "AP", "2026-03-02 08:20:00"], ["it's", "AP", "2026-03-02 08:04:00"]]"#;
    let answer = run(&python, DETAILS, &[&tds.port().to_string(), USER, PASSWORD, asked]);
    let mut mosaiq = Mosaiq::connect(server(&tds)).await.unwrap();
    let ours = mosaiq.treatments("2619", at("2026-03-02 00:00:00"), at("2026-03-03 00:00:00")).await.unwrap();
    let [ours] = ours.as_slice() else { panic!("{ours:?}") };
    let theirs = &answer["found"][0];
    assert_eq!(theirs[0].as_str().unwrap().trim(), ours.patient_id.as_deref().unwrap());
    assert_eq!(theirs[1].as_i64(), Some(ours.field_id));
    assert_eq!(theirs[2].as_str().unwrap().trim(), ours.last_name);
    assert_eq!((theirs[3].as_bool(), theirs[4].as_str()), (Some(ours.qa_mode), Some("VMAT")));
    assert!(answer["found"][1].is_null() && answer["found"][2].is_null());
    let created = answer["created"].as_str().unwrap().get(..23).unwrap();
    assert_eq!(created, ours.created_local.format("%Y-%m-%d %H:%M:%S%.3f").to_string());
    assert_eq!(answer["meterset"].as_f64(), ours.meterset_mu);
}

const LOGINS: &str = r#"
import json, sys
import pymssql
outcomes = []
for user, password, database in json.loads(sys.argv[2]):
    try:
        connection = pymssql.connect("127.0.0.1", user, password, database=database, port=int(sys.argv[1]), read_only=True, login_timeout=10)
        with connection.cursor() as cursor:
            cursor.execute("SELECT COUNT(*) FROM TrackTreatment")
            outcomes.append(cursor.fetchone()[0])
    except Exception as error:
        outcomes.append(str(error))
print(json.dumps(outcomes))
"#;

/// Two clients of different origin agree on what the server says: it is no server made for one of them.
#[test]
fn pymssql_logs_in_and_is_refused_as_we_are() {
    let Some(python) = pymedphys() else { return };
    let certificate = Certificate::new();
    for encryption in [Encryption::None, Encryption::Login, Encryption::Full] {
        let options = Options { encryption, certificate: Some(certificate.clone()), ..Options::new(login()) };
        let tds = TdsServer::start_with(clinic(), options);
        let logins = serde_json::json!([
            [USER, PASSWORD, "MOSAIQ"],
            [USER, "wrong", "MOSAIQ"],
            [USER, PASSWORD, "other"]
        ]);
        let outcomes = run(&python, LOGINS, &[&tds.port().to_string(), &logins.to_string()]);
        assert_eq!(outcomes[0], 8, "{encryption:?}: {outcomes}");
        assert!(outcomes[1].as_str().unwrap().contains("18456"), "{encryption:?}: {outcomes}");
        assert!(outcomes[2].as_str().unwrap().contains("18456"), "{encryption:?}: {outcomes}");
    }
}

/// PyMedPhys's package holds tables of a real database (a test system of Mosaiq); they go from its CSV into SQLite.
const REAL_TABLES: &str = r#"
import base64, json, pathlib, sqlite3, sys
import pandas as pd
import pymedphys._mosaiq.mock as mock
data = pathlib.Path(mock.__file__).parent / "data"
columns = {
    "TrackTreatment": "TTX_ID int, Pat_ID1 int, FLD_ID int, DHS_ID int, Machine_ID_Staff_ID int, Create_DtTm datetime, Edit_DtTm datetime, WasQAMode bit, WasBeamComplete bit, WasBeamOn bit, WasCanceled bit, WasRecorded bit",
    "Ident": "IDENT_ID int, Pat_Id1 int, IDA nvarchar(100)",
    "Patient": "Pat_ID1 int, Last_Name nvarchar(100), First_Name nvarchar(100)",
    "TxField": "FLD_ID int, FLD_SET_ID int, Pat_ID1 int, Field_Label nvarchar(100), Field_Name nvarchar(100), Type_Enum int, Meterset decimal(18;6), Version int",
    "Staff": "Staff_ID int, Last_Name nvarchar(100)",
    "TxFieldPoint": "FLD_ID int, Point int, Index decimal(18;6), MLC_Leaves int, A_Leaf_Set varbinary(200), B_Leaf_Set varbinary(200), Gantry_Ang decimal(18;6), Coll_Ang decimal(18;6), Coll_Y1 decimal(18;6), Coll_Y2 decimal(18;6)",
}
def value(cell, kind):
    if pd.isna(cell):
        return None
    if kind.startswith("varbinary"):
        return base64.urlsafe_b64decode(cell)
    if kind in ("int", "bit"):
        return int(cell)
    if kind.startswith("decimal"):
        return float(cell)
    return str(cell)
db = sqlite3.connect(sys.argv[1])
for table, spec in columns.items():
    spec = [c.strip().split(" ", 1) for c in spec.split(",")]
    frame = pd.read_csv(data / f"{table}.csv", index_col=0, dtype={c: str for c, k in spec if k.startswith("nvarchar")}, keep_default_na=True)
    db.execute(f"CREATE TABLE {table} (" + ", ".join(f"[{c}] {k.replace(';', ',')}" for c, k in spec) + ")")
    rows = [[value(cell, kind) for cell, (_, kind) in zip(row, spec)] for row in frame[[c for c, _ in spec]].itertuples(index=False)]
    db.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(spec))})", rows)
db.commit()
counts = db.execute("SELECT FLD_ID, COUNT(*) FROM TxFieldPoint GROUP BY FLD_ID").fetchall()
print(json.dumps(counts))
"#;

const DELIVERIES: &str = r#"
import json, sys
import numpy as np
import pymedphys, pymedphys.mosaiq
port, user, password = sys.argv[1:4]
out = {}
with pymedphys.mosaiq.connect("127.0.0.1", port=int(port), username=user, password=password) as connection:
    for field in json.loads(sys.argv[4]):
        try:
            d = pymedphys.Delivery.from_mosaiq(connection, field)
            leaves = np.asarray(d.mlc)
            out[field] = {"mu": np.asarray(d.monitor_units).ravel().tolist(), "gantry": np.asarray(d.gantry).tolist(),
                          "collimator": np.asarray(d.collimator).tolist(), "pairs": leaves.shape[1],
                          "mlc": leaves.ravel().tolist(), "jaw": np.asarray(d.jaw).ravel().tolist()}
        except Exception as error:
            out[field] = str(error).splitlines()[0]
print(json.dumps(out))
"#;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect()
}

#[tokio::test]
async fn real_fields_are_pymedphyss_deliveries_bit_by_bit_where_it_keeps_their_leaves() {
    let Some(python) = pymedphys() else { return };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("mosaiq.sqlite");
    let counts = run(&python, REAL_TABLES, &[file.to_str().unwrap()]);
    let fields: Vec<i64> = counts.as_array().unwrap().iter().filter_map(|row| row[0].as_i64()).collect();
    let tds = TdsServer::start(Connection::open(&file).unwrap(), login());
    let asked = serde_json::to_string(&fields).unwrap();
    let theirs = run(&python, DELIVERIES, &[&tds.port().to_string(), USER, PASSWORD, &asked]);
    let mut mosaiq = Mosaiq::connect(server(&tds)).await.unwrap();
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    let mut note = |what: &str| *outcomes.entry(what.to_owned()).or_default() += 1;
    for field_id in &fields {
        let field = mosaiq.field(*field_id).await.unwrap();
        let their = &theirs[field_id.to_string()];
        let ours = match field.delivery() {
            Ok(ours) => ours,
            Err(error) => {
                note(&format!("refused: {}", error.to_string().replace(&field_id.to_string(), "N")));
                continue;
            }
        };
        let Some(pairs) = their["pairs"].as_u64() else {
            note("PyMedPhys raises: static, or zeros at the end of leaf sets");
            continue;
        };
        if field.points.len() == 1 {
            note("static: PyMedPhys gives no meterset");
            assert_eq!(ours.n_cp(), 2, "field {field_id}");
            continue;
        }
        if pairs != ours.n_pairs() as u64 {
            note("PyMedPhys loses closed leaves at the end");
            assert!(pairs < ours.n_pairs() as u64, "field {field_id}");
            continue;
        }
        note("equal");
        assert_eq!(ours.meterset_mu(), numbers(&their["mu"]), "field {field_id}");
        // PyMedPhys takes the side of the nearest other angle, we do too.
        assert_eq!(ours.gantry_bipolar_deg(), numbers(&their["gantry"]), "field {field_id}");
        assert_eq!(ours.collimator_bipolar_deg(), numbers(&their["collimator"]), "field {field_id}");
        assert_eq!(ours.mlc_mm(), numbers(&their["mlc"]), "field {field_id}");
        assert_eq!(ours.jaw_mm(), numbers(&their["jaw"]), "field {field_id}");
    }
    println!("{} fields of a real database: {outcomes:#?}", fields.len());
    assert!(outcomes.get("equal").is_some_and(|&n| n >= 50), "{outcomes:#?}");
}
