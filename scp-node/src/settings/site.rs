//! `[[site]]` and its `[[site.linac]]`: the machines, by the names that people use.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{MosaiqSettings, wrong};
use crate::error::Result;

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
}

impl Default for LinacSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            mosaiq_name: String::new(),
            ip: String::new(),
            icom_port: icom_core::settings::ICOM_PORT,
            icom_pass_through: None,
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
        self.mosaiq.as_ref().map_or(Ok(()), MosaiqSettings::check)
    }
}

impl LinacSettings {
    /// What Mosaiq calls it.
    pub fn in_mosaiq(&self) -> &str {
        if self.mosaiq_name.trim().is_empty() { &self.name } else { &self.mosaiq_name }
    }
}
