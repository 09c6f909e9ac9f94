//! Any bytes as an iCom stream: the same frames however they are split, every byte accounted for, no value read wrongly.
#![no_main]

use icom_core::frame::{Frame, FrameCounts, Framer};
use icom_core::snapshot::Snapshot;
use libfuzzer_sys::fuzz_target;

fn frames(pieces: &[&[u8]]) -> (Vec<Frame>, FrameCounts) {
    let mut framer = Framer::default();
    let mut frames = Vec::new();
    for piece in pieces {
        framer.push(piece);
        while let Some(frame) = framer.next_frame() {
            frames.push(frame);
        }
    }
    frames.extend(framer.finish());
    (frames, framer.counts())
}

fuzz_target!(|input: (Vec<u16>, &[u8])| {
    let (cuts, bytes) = input;
    let mut pieces = Vec::new();
    let mut rest = bytes;
    for cut in cuts {
        let (piece, after) = rest.split_at(usize::from(cut).min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    let (together, counts) = frames(&[bytes]);
    assert_eq!(frames(&pieces), (together.clone(), counts));
    let framed: usize = together.iter().map(|frame| frame.bytes.len()).sum();
    assert_eq!(framed as u64 + counts.skipped_bytes + counts.cut_bytes, bytes.len() as u64);
    for frame in &together {
        let snapshot = Snapshot::read(frame.linac_time, frame.counter, frame.items());
        for angle in [snapshot.gantry_iec_deg, snapshot.collimator_iec_deg].into_iter().flatten() {
            assert!((0.0..360.0).contains(&angle));
        }
    }
});
