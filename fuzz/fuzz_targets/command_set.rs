//! Any bytes as a command set: no panic, and what was read survives being written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scp_node::dimse::Command;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(command) = Command::parse(bytes) {
        let again = Command::parse(&command.to_bytes()).expect("what we write we can read");
        assert_eq!(command.field, again.field);
        assert_eq!(command.message_id, again.message_id);
        assert_eq!(command.status, again.status);
        assert_eq!(command.sop_instance_uid, again.sop_instance_uid);
    }
});
