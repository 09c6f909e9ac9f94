//! What leaves the listener's network card: never a reset; keepalive; and which failures of a network it tells apart.
//!
//! Each test runs in a network namespace of its own, whose counters hold nothing but its traffic. Needs `unshare` and `ip`, and the right to
//! use them; without they say so and pass, unless `REQUIRE_PEERS=1`.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

/// Runs a shell script with `$NODE` being the program, where `lo` is up and nothing else is.
fn in_a_network_of_its_own(script: &str) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    let script = format!("set -e; ip link set lo up; cd '{}'\n{script}", directory.path().display());
    let run = |arguments: &[&str]| {
        Command::new("unshare")
            .args(arguments)
            .args(["sh", "-c", &script])
            .env("NODE", env!("CARGO_BIN_EXE_scp-node"))
            .env("SCP_NODE_CONFIG", "/dev/null")
            .output()
    };
    let may = |arguments: &[&str]| {
        let probe = Command::new("unshare").args(arguments).args(["ip", "link", "set", "lo", "up"]).output();
        probe.is_ok_and(|output| output.status.success())
    };
    let arguments = [&["-n"][..], &["-r", "-n"][..]].into_iter().find(|arguments| may(arguments));
    let Some(arguments) = arguments else {
        assert!(std::env::var_os("REQUIRE_PEERS").is_none(), "no network namespaces here (unshare, ip)");
        eprintln!("skipped: no network namespaces here");
        return None;
    };
    let Output { status, stdout, stderr } = run(arguments).unwrap();
    let (out, err) = (String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{out}\n{err}");
    Some(out)
}

/// Waits in shell until a condition holds; fails after a minute.
const UNTIL: &str = "until_() { n=0; until eval \"$1\"; do n=$((n+1)); [ $n -lt 600 ] || { echo \"waited in vain: $1\" >&2; exit 1; }; sleep 0.1; done; }\n";

#[test]
fn no_reset_ever_leaves_the_listener() {
    // Stops in mid-beam with messages on their way, silence, and a link that the linac cuts.
    let script = r#"
        "$NODE" icom emulate --port 1706 --rate 200 --patients 20 --messages 400 --fault fin@300:1000 --fault silence@900:4000 2>emulator &
        linac=$!
        until_ 'grep -q "emulated linac" emulator'
        for run in 1 2 3 4 5; do
            "$NODE" --set icom.silence_s=1 --set icom.reconnect_first_ms=50 icom listen --linac 127.0.0.1 --out out --beam-off-wait 0 2>listener$run &
            listener=$!
            until_ 'ss -tnH state established "( dport = :1706 )" | grep -q .'
            if [ $run = 1 ]; then
                ss -tnoH state established "( dport = :1706 )"
                until_ 'grep -q "fell silent" listener1'
            fi
            sleep 0.$run
            kill -TERM $listener; wait $listener
        done
        kill -TERM $linac; wait $linac || true
        echo "resets sent: $(awk '$1 == "Tcp:" && $15 ~ /^[0-9]+$/ { print $15 }' /proc/net/snmp)"
    "#;
    let Some(out) = in_a_network_of_its_own(&format!("{UNTIL}{script}")) else { return };
    assert!(out.contains("resets sent: 0\n"), "{out}");
    assert!(out.contains("timer:(keepalive"), "keepalive is on: {out}");
    let in_order = out.matches("link ended by its client, in order (FIN)").count();
    // A stop may fall into the pause after the silent link: then there is none to end.
    assert!(in_order >= 5 && !out.contains("by reset"), "{out}");
}

#[test]
fn no_route_no_answer_refused_and_unknown_are_told_apart_and_each_is_logged_once() {
    let script = r#"
        ip link add far type veth peer name nobody; ip addr add 10.9.0.1/24 dev far; ip link set far up; ip link set nobody up
        "$NODE" --set icom.reconnect_first_ms=50 --set icom.reconnect_longest_s=1 icom listen --out out --beam-off-wait 0 \
            --linac refused=127.0.0.1:9 --linac no-route=192.0.2.1 --linac no-answer=10.9.0.2 --linac unknown=no-such-host.invalid 2>log &
        listener=$!
        until_ 'grep -q "\"last_end\":\"unreachable\"" out/live/no-answer.json'
        until_ 'grep -q "\"last_end\":\"unreachable\"" out/live/no-route.json'
        until_ 'grep -q "\"last_end\":\"unknown_host\"" out/live/unknown.json'
        until_ 'grep -q "\"last_end\":\"refused\"" out/live/refused.json'
        sleep 3
        kill -TERM $listener; wait $listener
        cat log
    "#;
    let Some(log) = in_a_network_of_its_own(&format!("{UNTIL}{script}")) else { return };
    for (linac, cause) in [
        ("refused", "connection refused"),
        ("no-route", "host unreachable"),
        ("no-answer", "host unreachable"),
        ("unknown", "host name unknown"),
    ] {
        let told =
            log.lines().filter(|line| line.contains(&format!("\"{linac}\"")) && line.contains(cause)).count();
        assert_eq!(told, 1, "{linac} in {log}");
    }
}
