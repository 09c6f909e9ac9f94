//! The simulated Aria as a process, for tests in Python: `aria DIRECTORY AE_TITLE PORT` serves the DICOM files of a
//! directory to one trusted application entity on this machine.
//!
//! Says `{"ae_title": …, "port": …}` on its first line. Each line on its standard input is a JSON object and is answered
//! by one: `{"fail": [UIDs]}` (their sub-operations fail), `{"delay_ms": n}` (before each sub-operation), `{"reload": true}`
//! (reads the directory again); the answer counts the finds and moves so far. Ends with its standard input.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use scp_node::demo::{AriaOptions, Faults, Instance, SimulatedAria};
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, ae_title, port] = arguments.as_slice() else {
        return Err("usage: aria DIRECTORY AE_TITLE PORT".into());
    };
    let node: SocketAddr = (Ipv4Addr::LOCALHOST, port.parse()?).into();
    let options = AriaOptions::new(read(Path::new(directory))?, ae_title, node)?;
    let aria = SimulatedAria::start(options).await?;
    say(&json!({"ae_title": aria.ae_title().as_str(), "port": aria.address().port()}))?;
    let mut faults = Faults::default();
    for line in std::io::stdin().lock().lines() {
        let order: Value = serde_json::from_str(&line?)?;
        if let Some(uids) = order.get("fail").and_then(Value::as_array) {
            faults.fail_instances =
                uids.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect::<BTreeSet<_>>();
        }
        if let Some(delay) = order.get("delay_ms").and_then(Value::as_u64) {
            faults.sub_operation_delay = Duration::from_millis(delay);
        }
        aria.set_faults(faults.clone());
        if order.get("reload").is_some() {
            aria.set_instances(read(Path::new(directory))?);
        }
        let asked = aria.asked();
        let count = |what: &str| asked.iter().filter(|request| request.what == what).count();
        say(&json!({"finds": count("C-FIND"), "moves": count("C-MOVE")}))?;
    }
    Ok(())
}

fn read(directory: &Path) -> Result<Vec<Instance>, Failure> {
    let mut instances = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let object = dicom_object::open_file(entry?.path())?;
        instances.push(Instance::whole(object.into_inner()));
    }
    Ok(instances)
}

fn say(value: &Value) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()
}
