//! Any bytes as a data set: no panic, the same values however the bytes are cut into pieces, and none more once pixel data began.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scp_node::images::head::{Head, wanted};
use scp_node::images::walk::{Syntax, Walker};

const SYNTAXES: [&str; 4] =
    ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"];

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (syntax, piece, bytes) = input;
    let syntax = Syntax::from_uid(SYNTAXES[usize::from(syntax) % SYNTAXES.len()]);
    let walk = |piece: usize| {
        let mut walker = Walker::new(syntax, wanted);
        let mut early = None;
        for piece in bytes.chunks(piece) {
            walker.push(piece).ok()?;
            early = early.or_else(|| walker.before_pixel_data().cloned());
        }
        let values = walker.finish().ok()?;
        assert!(early.is_none_or(|early| early == values));
        Some(values)
    };
    let whole = walk(bytes.len().max(1));
    assert_eq!(whole, walk(usize::from(piece).max(1)));
    if let Some(values) = whole {
        let head = Head::new(&values, syntax);
        let _ = (head.beam(), head.is_plan(), head.acquired());
    }
});
