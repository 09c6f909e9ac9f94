//! Any two values as path components: legal names everywhere, and never the same one, on case-insensitive disks either.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scp_node::images::layout::{part, unpart};

fuzz_target!(|values: (&str, &str)| {
    let (a, b) = (part(values.0), part(values.1));
    for name in [&a, &b] {
        assert!(!name.is_empty() && name.len() <= 128, "{name:?}");
        assert!(name.bytes().all(|c| c.is_ascii_alphanumeric() || b"%~._-".contains(&c)), "{name:?}");
        assert!(!name.starts_with(['.', '_']) && !name.ends_with('.'), "{name:?}");
    }
    if values.0 != values.1 {
        assert!(!a.eq_ignore_ascii_case(&b), "{values:?} share {a:?}");
    }
    if let Some(value) = unpart(&a) {
        assert_eq!(value, values.0);
    }
});
