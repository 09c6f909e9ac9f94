//! `/metrics`: everything that is counted, in Prometheus's text format 0.0.4.
//!
//! # Source
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use icom_core::live::LinkState;
use icom_core::service::Status;
use icom_core::status::LinacStatus;

use super::board::Metric;
use super::server::Watched;

/// What is counted for each linac: name, help, whether it only grows, value.
type OfLinac = (&'static str, &'static str, bool, fn(&LinacStatus) -> u64);

const OF_LINAC: [OfLinac; 22] = [
    ("scp_node_icom_connected", "Whether the linac's stream is connected.", false, |l| {
        u64::from(l.link.state == LinkState::Connected)
    }),
    ("scp_node_icom_beam_on", "Whether MU were counted within two seconds.", false, |l| u64::from(l.beam_on)),
    ("scp_node_icom_received_bytes_total", "Bytes received.", true, |l| l.received_bytes),
    ("scp_node_icom_messages_total", "Messages received.", true, |l| l.messages),
    ("scp_node_icom_repeats_total", "Messages that came again.", true, |l| l.repeats),
    ("scp_node_icom_gaps_total", "Places where messages are missing.", true, |l| l.gaps),
    ("scp_node_icom_skipped_bytes_total", "Bytes outside any message.", true, |l| l.skipped_bytes),
    ("scp_node_icom_unparsed_bytes_total", "Bytes in messages that are no items.", true, |l| {
        l.unparsed_bytes
    }),
    ("scp_node_icom_cut_bytes_total", "Bytes of messages cut by a lost link.", true, |l| l.cut_bytes),
    ("scp_node_icom_records_total", "Records finished.", true, |l| l.records),
    ("scp_node_icom_links_total", "Links made to the linac.", true, |l| l.links),
    (
        "scp_node_icom_lost_bytes_total",
        "Bytes dropped because the journal took none for too long.",
        true,
        |l| l.lost_bytes,
    ),
    (
        "scp_node_icom_derived_dropped_total",
        "Pieces of derived work dropped from memory and done again.",
        true,
        |l| l.derived_dropped,
    ),
    ("scp_node_icom_journal_failures_total", "Failed appends to the journal.", true, |l| l.journal_failures),
    ("scp_node_icom_fsync_failures_total", "Failed fsyncs of the journal.", true, |l| l.fsync_failures),
    ("scp_node_icom_spool_failures_total", "Failed writes of open records.", true, |l| l.spool_failures),
    ("scp_node_icom_pass_through_clients", "Clients of the pass-through port.", false, |l| {
        l.pass_through_clients
    }),
    ("scp_node_icom_pass_through_skipped_total", "Messages that clients were too slow for.", true, |l| {
        l.pass_through_skipped
    }),
    ("scp_node_icom_waiting_journal_bytes", "Bytes that wait for the journal.", false, |l| {
        l.waiting_journal_bytes
    }),
    ("scp_node_icom_waiting_derived_bytes", "Bytes that wait for derivation.", false, |l| {
        l.waiting_derived_bytes
    }),
    ("scp_node_icom_trouble", "Whether the linac's journal or records wait for the disk.", false, |l| {
        u64::from(l.trouble.is_some())
    }),
    (
        "scp_node_icom_last_message_timestamp_seconds",
        "When the last message came; 0: none yet.",
        false,
        |l| l.last_message.map_or(0, |at| u64::try_from(at.timestamp()).unwrap_or_default()),
    ),
];

/// The page.
pub(super) fn page(watched: &Watched) -> String {
    let mut text = String::new();
    family(&mut text, "scp_node_up", "1 while the service runs.", false);
    sample(&mut text, "scp_node_up", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    receiver(&mut text, watched);
    if let Some(status) = watched.icom.status() {
        icom(&mut text, &status);
    }
    for Metric { name, help, counts, values } in watched.board.metrics() {
        family(&mut text, name, help, counts);
        for (labels, value) in &values {
            let labels: Vec<_> = labels.iter().map(|(label, value)| (*label, value.as_str())).collect();
            sample(&mut text, name, &labels, *value);
        }
    }
    levels(&mut text, watched);
    text
}

fn receiver(text: &mut String, watched: &Watched) {
    let c = &watched.receiver;
    let counted: [(&str, &str, &AtomicU64); 6] = [
        ("scp_node_associations_total", "Associations that were admitted.", &c.associations),
        ("scp_node_associations_rejected_total", "Associations that were rejected.", &c.rejected),
        (
            "scp_node_associations_broken_total",
            "Associations that ended otherwise than by release.",
            &c.broken,
        ),
        ("scp_node_objects_stored_total", "Objects that were acknowledged.", &c.stored),
        ("scp_node_objects_refused_total", "Objects that were refused.", &c.refused),
        ("scp_node_received_bytes_total", "Bytes of data sets.", &c.bytes),
    ];
    for (name, help, counter) in counted {
        one(text, name, help, true, counter.load(Ordering::Relaxed));
    }
}

fn icom(text: &mut String, status: &Status) {
    for (name, help, counts, value) in OF_LINAC {
        family(text, name, help, counts);
        for linac in &status.linacs {
            sample(text, name, &[("linac", &linac.linac)], float(value(linac)));
        }
    }
    let waiting = "Records and cursors that wait for the archive.";
    one(text, "scp_node_icom_archive_waiting", waiting, false, status.archive_waiting);
    let failures = "Failed tries of the archive.";
    one(text, "scp_node_icom_archive_failures_total", failures, true, status.archive_failures);
    one(
        text,
        "scp_node_icom_live_failures_total",
        "Failed writes of live state.",
        true,
        status.live_failures,
    );
}

/// Each post's level, so that an alarm needs no knowledge of the parts.
fn levels(text: &mut String, watched: &Watched) {
    let name = "scp_node_part_level";
    family(text, name, "How each part is: 0 good, 1 warning, 2 broken.", false);
    for post in watched.board.posts() {
        let linac = post.linac.as_deref().unwrap_or_default();
        sample(text, name, &[("part", &post.part), ("linac", linac)], f64::from(post.level as u8));
    }
}

fn one(text: &mut String, name: &str, help: &str, counts: bool, value: u64) {
    family(text, name, help, counts);
    sample(text, name, &[], float(value));
}

fn family(text: &mut String, name: &str, help: &str, counts: bool) {
    let kind = if counts { "counter" } else { "gauge" };
    let help = help.replace('\\', r"\\").replace('\n', r"\n");
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn sample(text: &mut String, name: &str, labels: &[(&str, &str)], value: f64) {
    let escaped = |value: &str| value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
    let labels: Vec<String> =
        labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    let _ = writeln!(text, "{name}{labels} {value}");
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus knows only doubles; exact below 9e15")]
const fn float(value: u64) -> f64 {
    value as f64
}
