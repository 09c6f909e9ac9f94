//! `[[site]]` and its `[[site.linac]]`: the machines, by the names that people use.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{MosaiqSettings, Secret, wrong};
use crate::error::Result;

/// Port of SMB over TCP.
const SMB_PORT: u16 = 445;

/// `[[site]]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SiteSettings {
    /// What people call it.
    pub name: String,
    /// Its Mosaiq; without one, records are not given to patients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mosaiq: Option<MosaiqSettings>,
    /// Its linacs.
    #[serde(rename = "linac", skip_serializing_if = "Vec::is_empty")]
    pub linacs: Vec<LinacSettings>,
}

/// `[[site.linac]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinacSettings {
    /// What people call it; unique over all sites.
    pub name: String,
    /// What Mosaiq calls it (last name of the machine's entry in Staff); empty: as `name`. Spaces do not count.
    pub mosaiq_name: String,
    /// Address of its iCom port; empty: not listened to.
    pub ip: String,
    /// Its iCom port.
    pub icom_port: u16,
    /// Address at which other iCom clients get this linac's stream from us.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icom_pass_through: Option<SocketAddr>,
    /// Directory of its diagnostics zips as the system reads it, such as `\\10.0.0.1\Backup\TCS` or a mount.
    pub nss_path: String,
    /// Host of its share, read by this program itself; instead of `nss_path`. A tunnel's end, too.
    pub nss_host: String,
    /// Port of its share; another one for tunnels.
    pub nss_port: u16,
    /// Name of the share.
    pub nss_share: String,
    /// Directory on the share.
    pub nss_directory: String,
    /// `USER`, `DOMAIN\\USER` or `USER@DOMAIN`.
    pub nss_user: String,
    /// The user's password, or where it is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nss_password: Option<Secret>,
    /// Whether a share that does not encrypt is refused.
    pub nss_encrypt: bool,
}

impl Default for LinacSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            mosaiq_name: String::new(),
            ip: String::new(),
            icom_port: icom_core::settings::ICOM_PORT,
            icom_pass_through: None,
            nss_path: String::new(),
            nss_host: String::new(),
            nss_port: SMB_PORT,
            nss_share: "Backup".into(),
            nss_directory: "TCS".into(),
            nss_user: String::new(),
            nss_password: None,
            nss_encrypt: false,
        }
    }
}

impl SiteSettings {
    pub(super) fn check(&self) -> Result<()> {
        if self.linacs.iter().any(|linac| linac.name.trim().is_empty()) {
            return Err(wrong(
                "site.linac.name",
                "a linac has no name: give it the one that people use".into(),
            ));
        }
        self.linacs.iter().try_for_each(LinacSettings::check_share)?;
        self.mosaiq.as_ref().map_or(Ok(()), MosaiqSettings::check)
    }
}

impl LinacSettings {
    /// Whether its log files are fetched.
    pub fn has_share(&self) -> bool {
        !self.nss_path.trim().is_empty() || !self.nss_host.trim().is_empty()
    }

    fn check_share(&self) -> Result<()> {
        if !self.has_share() {
            return Ok(());
        }
        let name = &self.name;
        // It names directories; what exactly is allowed is checked again where they are made.
        if name.contains(|c: char| c.is_control() || r#"<>:"/\|?*"#.contains(c)) || name.starts_with('.') {
            let what =
                format!("`{}` names a directory: use letters, digits, `-` and `_`", name.escape_debug());
            return Err(wrong("site.linac.name", what));
        }
        if self.nss_host.trim().is_empty() {
            return Ok(());
        }
        if !self.nss_path.trim().is_empty() {
            let what = format!("`{name}` has nss_path and nss_host: give one of them");
            return Err(wrong("site.linac.nss_path", what));
        }
        if self.nss_user.trim().is_empty() || self.nss_password.is_none() {
            let what = format!(
                "`{name}` has nss_host: give nss_user and nss_password, or nss_path where the system has logged in already"
            );
            return Err(wrong("site.linac.nss_user", what));
        }
        for (key, part) in
            [("site.linac.nss_share", &self.nss_share), ("site.linac.nss_host", &self.nss_host)]
        {
            if part.trim().is_empty() || part.contains(['/', '\\']) {
                return Err(wrong(key, format!("`{part}` of `{name}` is no plain name")));
            }
        }
        self.nss_password.as_ref().map_or(Ok(()), |password| password.check("site.linac.nss_password"))
    }

    /// What Mosaiq calls it.
    pub fn in_mosaiq(&self) -> &str {
        if self.mosaiq_name.trim().is_empty() { &self.name } else { &self.mosaiq_name }
    }
}
