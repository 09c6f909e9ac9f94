//! Files that a crash or a reader in between never finds half written, and names that every file system takes.

use std::borrow::Cow;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::{Error, Result};

/// Longest part of a path made of foreign text, in bytes; NTFS and ext4 end at 255, and PyMedPhys joins two of them.
const MAX_PART_LEN: usize = 100;

/// Makes foreign text a part of a file name.
///
/// What Windows forbids (`< > : " / \ | ? *`, control characters, a dot or space at the end, reserved device names) and `%`
/// become %XX; too long a text ends in a hash. All else stays, so that names in PyMedPhys's archive keep their look.
#[must_use]
pub fn safe_part(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || "<>:\"/\\|?*%".contains(character) {
            push_escaped(&mut safe, character);
        } else {
            safe.push(character);
        }
    }
    if let Some(last) = safe.chars().last().filter(|last| ". ".contains(*last)) {
        safe.pop();
        push_escaped(&mut safe, last);
    }
    let stem = safe.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
    if is_reserved(&stem) {
        let first = safe.remove(0);
        let rest = std::mem::take(&mut safe);
        push_escaped(&mut safe, first);
        safe.push_str(&rest);
    }
    if safe.len() > MAX_PART_LEN {
        let hash = crc32fast::hash(text.as_bytes());
        let keep = (0..=MAX_PART_LEN - 9).rev().find(|at| safe.is_char_boundary(*at)).unwrap_or(0);
        safe.truncate(keep);
        safe.push_str(&format!("~{hash:08x}"));
    }
    safe
}

/// Directory of a patient, `<id>_<name>`. PyMedPhys takes the text after the last `_` for the name, so none stays in it.
#[must_use]
pub fn patient_dir(patient_id: &str, patient_name: Option<&str>) -> String {
    let name: Cow<'_, str> =
        patient_name.map_or(Cow::Borrowed("None"), |name| safe_part(name).replace('_', "%5F").into());
    format!("{}_{name}", safe_part(patient_id))
}

/// Writes a small file so that a reader sees the old content or the new one.
///
/// # Errors
/// [`Error::Io`]. On Windows a reader that has the old file open may delay the change; the caller tries again with its next state.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    std::fs::write(&partial, bytes).map_err(Error::io(&partial))?;
    std::fs::rename(&partial, path).map_err(Error::io(path))
}

/// Makes a file's content durable, then gives it its final name, durable too.
pub(crate) fn publish(mut file: File, partial: &Path, path: &Path) -> Result<()> {
    file.flush().and_then(|()| file.sync_all()).map_err(Error::io(partial))?;
    drop(file);
    std::fs::rename(partial, path).map_err(Error::io(path))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Makes names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    // Windows has no such call; NTFS journals names itself.
    #[cfg(unix)]
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io(dir))?;
    #[cfg(not(unix))]
    let _ = dir;
    Ok(())
}

fn push_escaped(safe: &mut String, character: char) {
    let mut utf8 = [0; 4];
    for byte in character.encode_utf8(&mut utf8).bytes() {
        safe.push_str(&format!("%{byte:02X}"));
    }
}

fn is_reserved(stem: &str) -> bool {
    matches!(stem, "CON" | "PRN" | "AUX" | "NUL")
        || ["COM", "LPT"].iter().any(|device| {
            stem.strip_prefix(device)
                .is_some_and(|n| n.chars().count() == 1 && n.chars().all(|c| "123456789¹²³".contains(c)))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_look_and_lose_what_windows_forbids() {
        let cases = [
            (("9434765919", Some("PHYSICS, MOCK")), "9434765919_PHYSICS, MOCK"),
            (("QA_01", Some("MÜLLER^J")), "QA_01_MÜLLER^J"),
            (("A/1", Some("O'NEIL_\"SEAN\"")), "A%2F1_O'NEIL%5F%22SEAN%22"),
            (("NUL.1", Some("X.")), "%4EUL.1_X%2E"),
            (("..", None), ".%2E_None"),
            (("7", None), "7_None"),
            (("50%", None), "50%25_None"),
        ];
        for ((id, name), expected) in cases {
            assert_eq!(patient_dir(id, name), expected);
        }
    }

    #[test]
    fn two_long_names_do_not_share_a_directory() {
        let long = "Ü".repeat(300);
        let (a, b) = (safe_part(&format!("{long}a")), safe_part(&format!("{long}b")));
        assert!(a.len() <= MAX_PART_LEN && a != b);
    }
}
