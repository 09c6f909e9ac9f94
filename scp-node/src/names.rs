//! Names of the standard that are checked once, at construction: AE titles and UIDs.

use std::fmt;

use crate::error::{Error, Result};

/// Longest AE title. Source: PS3.5 §6.2, VR AE.
const AE_TITLE_MAX: usize = 16;
/// Longest UID. Source: PS3.5 §9.1.
const UID_MAX: usize = 64;

/// An application entity title: 1 to 16 printable ASCII characters without a backslash, spaces at the ends cut off.
///
/// Source: PS3.5 §6.2, VR AE.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AeTitle(String);

impl AeTitle {
    /// Checks and trims.
    ///
    /// # Errors
    /// [`Error::Misuse`] when it is empty, too long, or holds a character that the VR does not allow.
    pub fn new(text: &str) -> Result<Self> {
        let text = text.trim_matches(' ');
        let legal = text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'\\');
        if text.is_empty() || text.len() > AE_TITLE_MAX || !legal {
            return Err(Error::Misuse {
                what: format!(
                    "`{}` is not an AE title: 1 to {AE_TITLE_MAX} printable ASCII characters, no backslash",
                    text.escape_debug()
                ),
                hint: "correct it as the archive has it".into(),
            });
        }
        Ok(Self(text.to_owned()))
    }

    /// The text, without padding.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for AeTitle {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::new(&text)
    }
}

impl From<AeTitle> for String {
    fn from(title: AeTitle) -> Self {
        title.0
    }
}

impl fmt::Display for AeTitle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AeTitle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AeTitle({})", self.0)
    }
}

/// A UID that is fit to become part of a file name: digits and dots, no empty component, at most 64 characters.
///
/// Leading zeros of a component, which PS3.5 §9.1 forbids, are let through: real systems write them and they do no harm.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Uid(String);

impl Uid {
    /// Checks; padding (NUL or space at the end) is cut off.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim_end_matches(['\0', ' ']);
        let legal = !text.is_empty()
            && text.len() <= UID_MAX
            && text.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
        legal.then(|| Self(text.to_owned()))
    }

    /// The text, without padding.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Uid {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text).ok_or("a UID has digits and dots only, at most 64")
    }
}

impl From<Uid> for String {
    fn from(uid: Uid) -> Self {
        uid.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uid({})", self.0)
    }
}

/// Whether the text fits a pattern in which `*` stands for any characters and `?` for one; letters as they are.
pub fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where to go on when the last `*` must swallow one more character: linear memory, no recursion.
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || Some(c) == text.get(t) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, swallowed)) => {
                    p = at + 1;
                    t = swallowed + 1;
                    star = Some((at, t));
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trims_and_checks_ae_titles() {
        assert_eq!(AeTitle::new(" ARIA  ").unwrap().as_str(), "ARIA");
        for bad in ["", "   ", "SEVENTEEN_LETTERS", "A\\B", "Ä", "A\nB"] {
            assert!(AeTitle::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn patterns_fit_as_in_a_shell() {
        for (pattern, text) in [
            ("*", ""),
            ("QA*", "QA_1"),
            ("*_WL", "QA_TB_WL"),
            ("Q?_*", "QA_X"),
            ("a*b*c", "a1b2b3c"),
            ("WL_??MV", "WL_10MV"),
        ] {
            assert!(fits(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "x"),
            ("QA*", "qa_1"),
            ("?", ""),
            ("*_WL", "WL"),
            ("a*b*c", "a1b2"),
            ("*MV*X", "WL_10MV"),
            ("WL_?MV", "WL_10MV"),
        ] {
            assert!(!fits(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn accepts_only_uids_that_are_safe_names() {
        assert_eq!(Uid::new("1.2.840.10008\0").unwrap().as_str(), "1.2.840.10008");
        for bad in ["", ".", "..", "1..2", "1.2.", "../1", "1/2", "1.2a", &"1".repeat(65), "1.2\u{0}3"] {
            assert!(Uid::new(bad).is_none(), "{bad:?}");
        }
    }
}
