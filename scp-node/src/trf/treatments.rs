//! Where treatments come from: a site's Mosaiq, or whatever a test puts in its place.

use std::collections::BTreeMap;

use chrono::NaiveDateTime;
use trf_core::align::Treatment;
use trf_core::mosaiq::Mosaiq;

use crate::error::Result;
use crate::settings::{LinacSettings, SiteSettings};

/// Gives what a machine treated; blocking.
pub trait Treatments: Send {
    /// The rows of TrackTreatment of one machine in a span of the site's wall clock.
    ///
    /// # Errors
    /// Whatever keeps the site's treatments from being read; it concerns this site alone.
    fn of(
        &mut self,
        site: &SiteSettings,
        linac: &LinacSettings,
        from_local: NaiveDateTime,
        until_local: NaiveDateTime,
    ) -> Result<Vec<Treatment>>;
}

/// The Mosaiq of each site, connected when it is first asked.
#[derive(Debug)]
pub struct MosaiqTreatments {
    runtime: tokio::runtime::Handle,
    sites: BTreeMap<String, Mosaiq>,
}

impl MosaiqTreatments {
    /// Asks on this runtime; the calls block and must not be made from one of its own tasks.
    pub fn new(runtime: tokio::runtime::Handle) -> Self {
        Self { runtime, sites: BTreeMap::new() }
    }
}

impl Treatments for MosaiqTreatments {
    fn of(
        &mut self,
        site: &SiteSettings,
        linac: &LinacSettings,
        from_local: NaiveDateTime,
        until_local: NaiveDateTime,
    ) -> Result<Vec<Treatment>> {
        let Some(settings) = &site.mosaiq else { return Ok(Vec::new()) };
        if !self.sites.contains_key(&site.name) {
            self.sites.insert(site.name.clone(), Mosaiq::new(settings.server()?));
        }
        let Some(mosaiq) = self.sites.get_mut(&site.name) else { return Ok(Vec::new()) };
        Ok(self.runtime.block_on(mosaiq.treatments(linac.in_mosaiq(), from_local, until_local))?)
    }
}
