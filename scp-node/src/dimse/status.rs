//! Status codes of C-STORE, C-FIND and C-MOVE. Source: PS3.4 §B.2.3, §C.4.1.1.4, §C.4.2.1.5; PS3.7 annex C.

use std::fmt;

/// A DIMSE status, (0000,0900).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(pub u16);

/// What a status means for the one who asked. Source: PS3.7 annex C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// 0x0000.
    Success,
    /// 0xFF00, 0xFF01: more answers follow.
    Pending,
    /// 0xFE00.
    Cancel,
    /// 0x0001, 0x0107, 0x0116, 0xBxxx: done, with a remark.
    Warning,
    /// All else.
    Failure,
}

impl Status {
    /// Done.
    pub const SUCCESS: Self = Self(0x0000);
    /// An answer; more follow.
    pub const PENDING: Self = Self(0xFF00);
    /// Matching or sub-operations ended by C-CANCEL.
    pub const CANCEL: Self = Self(0xFE00);
    /// C-STORE refused: out of resources.
    pub const OUT_OF_RESOURCES: Self = Self(0xA700);
    /// C-MOVE refused: unable to calculate the number of matches.
    pub const UNABLE_TO_COUNT: Self = Self(0xA701);
    /// C-MOVE refused: unable to perform sub-operations.
    pub const UNABLE_TO_PERFORM: Self = Self(0xA702);
    /// C-MOVE refused: move destination unknown.
    pub const MOVE_DESTINATION_UNKNOWN: Self = Self(0xA801);
    /// C-STORE error: data set does not match SOP class.
    pub const DATA_SET_MISMATCH: Self = Self(0xA900);
    /// C-MOVE: sub-operations complete, one or more failures or warnings.
    pub const SUBOPERATIONS_WARNING: Self = Self(0xB000);
    /// C-STORE error: cannot understand.
    pub const CANNOT_UNDERSTAND: Self = Self(0xC000);
    /// Processing failure.
    pub const PROCESSING_FAILURE: Self = Self(0x0110);
    /// Invalid SOP instance: the UID breaks the rules for UIDs.
    pub const INVALID_INSTANCE: Self = Self(0x0117);
    /// SOP class not supported.
    pub const CLASS_NOT_SUPPORTED: Self = Self(0x0122);
    /// Refused: not authorized.
    pub const NOT_AUTHORIZED: Self = Self(0x0124);
    /// Unrecognized operation.
    pub const UNRECOGNIZED_OPERATION: Self = Self(0x0211);

    /// What it means.
    pub fn class(self) -> Class {
        match self.0 {
            0x0000 => Class::Success,
            0xFF00 | 0xFF01 => Class::Pending,
            0xFE00 => Class::Cancel,
            0x0001 | 0x0107 | 0x0116 | 0xB000..=0xBFFF => Class::Warning,
            _ => Class::Failure,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:04X}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_the_class_that_the_standard_gives_it() {
        // First of each run of codes of one class; a run ends where the next begins.
        let runs = [
            (0x0000, Class::Success),
            (0x0001, Class::Warning),
            (0x0002, Class::Failure),
            (0x0107, Class::Warning),
            (0x0108, Class::Failure),
            (0x0116, Class::Warning),
            (0x0117, Class::Failure),
            (0xB000, Class::Warning),
            (0xC000, Class::Failure),
            (0xFE00, Class::Cancel),
            (0xFE01, Class::Failure),
            (0xFF00, Class::Pending),
            (0xFF02, Class::Failure),
        ];
        for code in 0..=u16::MAX {
            let (_, expected) = runs.iter().rev().find(|(first, _)| *first <= code).unwrap();
            assert_eq!(Status(code).class(), *expected, "{}", Status(code));
        }
    }
}
