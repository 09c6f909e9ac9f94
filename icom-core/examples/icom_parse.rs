//! Parses a raw stream again and again for some seconds on one core, for `tests/bench/icom`: all items, with leaves.

use std::time::Instant;

use icom_core::frame::Framer;
use icom_core::snapshot::Snapshot;

const PIECE_LEN: usize = 16 * 1024;

fn main() -> icom_core::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().unwrap_or_default();
    let seconds: f64 = arguments.next().and_then(|s| s.parse().ok()).unwrap_or(2.0);
    let bytes = icom_core::archive::read(path.as_ref())?;
    let began = Instant::now();
    let mut messages = 0_u64;
    let mut leaves = 0;
    while began.elapsed().as_secs_f64() < seconds {
        let mut framer = Framer::default();
        // As the listener does it: in the pieces that a socket gives.
        for piece in bytes.chunks(PIECE_LEN) {
            framer.push(piece);
            while let Some(frame) = framer.next_frame() {
                let snapshot = Snapshot::read(frame.linac_time, frame.counter, frame.items());
                leaves += snapshot.mlc_mm.map_or(0, |mlc| mlc.len());
                messages += 1;
            }
        }
    }
    let elapsed_s = began.elapsed().as_secs_f64();
    let result = serde_json::json!({"messages": messages, "seconds": elapsed_s, "leaves": leaves});
    std::io::Write::write_all(&mut std::io::stdout(), result.to_string().as_bytes())
        .map_err(icom_core::Error::io("stdout"))
}
