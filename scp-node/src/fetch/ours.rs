//! Why our own receiver would refuse what an archive sends: what the settings and the disk say, so that neither the archive
//! nor a firewall is blamed for it.

use std::net::IpAddr;

use crate::error::{Error, Result};
use crate::images::{self, Catalog};
use crate::names::fits;
use crate::settings::{ArchiveSettings, Settings};

/// Less room than this for an image is none. Justification: an RT Image has 2 to 8 MB, and several come at once.
const ROOM_BYTES: u64 = 16 << 20;

/// Whether objects of this patient are taken at all: else nothing need be moved.
pub(super) fn takes_patient(settings: &Settings, patient_id: &str) -> Result<()> {
    if settings.node.access.patients.iter().any(|p| fits(p, patient_id)) {
        return Ok(());
    }
    Err(Error::Misuse {
        what: "this node takes no objects of this patient: node.access.patients does not name the patient ID"
            .into(),
        hint: "add the patient ID, or a pattern that it fits, to node.access.patients".into(),
    })
}

/// What of ours may have kept away what did not come.
///
/// # Arguments
/// * `has_reached_us` — something came before: then it is not about who may connect
pub(super) async fn reason(
    settings: &Settings,
    archive: &ArchiveSettings,
    catalog: &Catalog,
    has_reached_us: bool,
) -> Option<Error> {
    // What cannot be found out is no reason.
    let free = fs4::available_space(&settings.images.root).ok();
    let total = images::stored_bytes(catalog, settings.images.quota_bytes).ok();
    let full = no_room(settings, free, total);
    if has_reached_us || full.is_some() {
        return full;
    }
    let found = tokio::net::lookup_host((archive.host.as_str(), archive.port)).await;
    let addresses: Vec<IpAddr> = found.map(|a| a.map(|a| a.ip()).collect()).unwrap_or_default();
    no_entry(settings, archive, &addresses)
}

fn no_room(settings: &Settings, free: Option<u64>, total: Option<u64>) -> Option<Error> {
    let images = &settings.images;
    if let Some(free) = free.filter(|free| *free < images.keep_free_bytes.saturating_add(ROOM_BYTES)) {
        return misuse(
            format!(
                "this node's disk is full: {free} bytes are free below images.root, images.keep_free_bytes is {}",
                images.keep_free_bytes
            ),
            "make room on that disk, or lower images.keep_free_bytes; then try again".into(),
        );
    }
    let is_spent =
        |total: &u64| images.quota_bytes > 0 && total.saturating_add(ROOM_BYTES) > images.quota_bytes;
    let total = total.filter(is_spent)?;
    misuse(
        format!(
            "this node's quota is used up: {total} bytes are stored, images.quota_bytes is {}",
            images.quota_bytes
        ),
        "raise images.quota_bytes, or remove old images; then try again".into(),
    )
}

fn no_entry(settings: &Settings, archive: &ArchiveSettings, addresses: &[IpAddr]) -> Option<Error> {
    let (node, access) = (&settings.node, &settings.node.access);
    let title = archive.ae_title.as_str();
    if !access.calling_ae.iter().any(|pattern| fits(pattern, title)) {
        return misuse(
            format!(
                "nothing reached this node, whose node.access.calling_ae does not name the archive's AE title {title}"
            ),
            format!("add {title}, or the AE title under which the archive sends, to node.access.calling_ae"),
        );
    }
    let is_let_in = |ip: &IpAddr| access.networks.iter().any(|network| network.contains(*ip));
    let address = addresses.first()?;
    if !access.networks.is_empty() && !addresses.iter().any(is_let_in) {
        return misuse(
            format!(
                "nothing reached this node, whose node.access.networks does not hold the archive's address {address}"
            ),
            format!("add {address}, or the address from which the archive sends, to node.access.networks"),
        );
    }
    if node.bind.is_loopback() && !addresses.iter().any(IpAddr::is_loopback) {
        return misuse(
            format!(
                "nothing reached this node, which listens on {} only (node.bind), where no other machine reaches it",
                node.bind
            ),
            "set node.bind to 0.0.0.0, or to this machine's address in the archive's network".into(),
        );
    }
    None
}

fn misuse(what: String, hint: String) -> Option<Error> {
    Some(Error::Misuse { what, hint })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::AeTitle;

    fn told(error: Option<Error>) -> String {
        error.map(|e| format!("{e}\n{}", e.hint())).unwrap_or_default()
    }

    #[test]
    fn each_refusal_of_ours_names_its_setting() {
        let mut settings = Settings::default();
        let archive = ArchiveSettings::new("aria", AeTitle::new("ARIA_DB").unwrap(), "aria", 51402);
        let remote: [IpAddr; 1] = [[10, 1, 2, 3].into()];
        settings.node.bind = [0, 0, 0, 0].into();
        settings.images.keep_free_bytes = 1 << 30;
        assert!(no_entry(&settings, &archive, &remote).is_none());
        assert!(no_room(&settings, Some(2 << 30), Some(1 << 40)).is_none());
        assert!(takes_patient(&settings, "QA1").is_ok());

        assert!(told(no_room(&settings, Some(1 << 30), None)).contains("images.keep_free_bytes"));
        settings.images.quota_bytes = 1 << 40;
        assert!(told(no_room(&settings, None, Some(1 << 40))).contains("images.quota_bytes"));
        settings.node.access.patients = vec!["QA_*".into()];
        let error = takes_patient(&settings, "QA1").unwrap_err();
        assert!(
            error.hint().contains("node.access.patients") && !error.to_string().contains("QA1"),
            "{error}"
        );
        settings.node.bind = [127, 0, 0, 1].into();
        assert!(told(no_entry(&settings, &archive, &remote)).contains("node.bind"));
        assert!(no_entry(&settings, &archive, &[[127, 0, 0, 1].into()]).is_none());
        settings.node.access.networks = vec!["10.2.0.0/16".to_owned().try_into().unwrap()];
        assert!(told(no_entry(&settings, &archive, &remote)).contains("node.access.networks"));
        settings.node.access.calling_ae = vec!["OTHER".into()];
        assert!(told(no_entry(&settings, &archive, &remote)).contains("node.access.calling_ae"));
    }
}
