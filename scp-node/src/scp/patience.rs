//! How long a peer may still keep us waiting: a time limit that bytes extend, so that it ends who dribbles and not who is slow.
//!
//! The allowance is used up by waiting and comes back with the bytes of messages, at [`RATE_MIN`]. So a peer may be silent
//! for all of it, and send for hours if it keeps that rate; one that sends a byte now and then has little more than the
//! allowance, whatever it cuts its PDUs into. Only a read that would block looks at it: where bytes are there, nobody waits
//! and no clock is read.

use std::time::Duration;

/// Slowest rate that a peer may keep up, bytes of messages a second. Justification: an image of 3 MB takes fifty minutes at
/// it, and a line on which anybody would send DICOM is a hundred times as fast.
const RATE_MIN: f64 = 1024.0;

/// What is left of an allowance.
#[derive(Debug)]
pub(super) struct Patience {
    whole: Duration,
    left: Duration,
    /// Bytes that came since the last wait.
    bytes: u64,
}

impl Patience {
    pub(super) fn new(whole: Duration) -> Self {
        Self { whole, left: whole, bytes: 0 }
    }

    /// Bytes of a message came. On the hot path: what they are worth is only found out before the next wait.
    pub(super) fn earn(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// How long the next wait may be.
    pub(super) fn left(&mut self) -> Duration {
        let earned = Duration::from_secs_f64(std::mem::take(&mut self.bytes) as f64 / RATE_MIN);
        self.left = self.left.saturating_add(earned).min(self.whole);
        self.left
    }

    /// It was waited for so long.
    pub(super) fn spend(&mut self, waited: Duration) {
        self.left = self.left.saturating_sub(waited);
    }

    /// The allowance.
    pub(super) fn whole(&self) -> Duration {
        self.whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WHOLE: Duration = Duration::from_secs(60);

    /// How many of these pieces, each after such a wait, come before patience ends.
    fn pieces(wait: Duration, bytes: usize, most: usize) -> usize {
        let mut patience = Patience::new(WHOLE);
        for n in 0..most {
            if patience.left() < wait {
                return n;
            }
            patience.spend(wait);
            patience.earn(bytes);
        }
        most
    }

    #[test]
    fn silence_lasts_no_longer_than_the_allowance_and_bytes_bring_no_more_than_it_back() {
        let mut patience = Patience::new(WHOLE);
        patience.earn(usize::MAX);
        patience.earn(usize::MAX);
        assert_eq!(patience.left(), WHOLE);
        patience.spend(WHOLE * 2);
        assert_eq!(patience.left(), Duration::ZERO);
        patience.earn(1024);
        assert_eq!(patience.left(), Duration::from_secs(1));
    }

    #[test]
    fn a_byte_a_second_ends_and_a_kibibyte_a_second_does_not() {
        assert_eq!(pieces(Duration::from_secs(1), 1, 10_000), 60);
        assert_eq!(pieces(Duration::from_secs(1), 1024, 10_000), 10_000);
        // An archive that stops for 59 s in each object of 1 MB.
        assert_eq!(pieces(Duration::from_secs(59), 1 << 20, 10_000), 10_000);
    }

    proptest! {
        #[test]
        fn all_waiting_is_bounded_by_the_allowance_and_the_bytes(waits in proptest::collection::vec((0u64..90_000, 0usize..100_000), 0..50)) {
            let (mut patience, mut waited, mut bytes) = (Patience::new(WHOLE), Duration::ZERO, 0.0);
            for (wait, piece) in waits {
                let wait = Duration::from_millis(wait);
                if patience.left() < wait {
                    break;
                }
                patience.spend(wait);
                waited += wait;
                patience.earn(piece);
                bytes += piece as f64;
            }
            prop_assert!(waited.as_secs_f64() <= WHOLE.as_secs_f64() + bytes / RATE_MIN + 1e-6);
        }
    }
}
