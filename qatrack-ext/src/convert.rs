//! Conversions between our values and Python's: one place for each, so that NaN, time zones and paths are treated alike.
//!
//! Rules: NaN never leaves in a scalar or a dict (QATrack+'s page loses every result when one does): it is None there.
//! Arrays keep NaN as "not stated", because an array of numbers has no None.
