//! Delivered MU from a display that restarts with each field.

/// Counts delivered MU over fields that each restart at zero.
///
/// PyMedPhys sums the increases between messages. That loses what was delivered before the first message of a record that
/// begins while the beam is on, and the first value after each restart; both are counted here.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MetersetSum {
    before: Option<f64>,
    /// The first value, while it is not known whether it belongs to this session.
    held: f64,
    total_mu: f64,
}

impl MetersetSum {
    /// Begins after a message that showed `before`; `None` if nothing is known of the time before.
    #[must_use]
    pub const fn after(before: Option<f64>) -> Self {
        Self { before, held: 0.0, total_mu: 0.0 }
    }

    /// Takes the next reading, gives the increase.
    pub fn add(&mut self, meterset_mu: f64) -> f64 {
        let increase = match self.before {
            None => {
                // The display of a beam that ended before, or a beam that is on: the next reading tells.
                self.held = meterset_mu;
                0.0
            }
            Some(before) if meterset_mu > before => meterset_mu - before + std::mem::take(&mut self.held),
            Some(before) if meterset_mu < before => {
                self.held = 0.0;
                meterset_mu
            }
            Some(_) => 0.0,
        };
        self.before = Some(meterset_mu);
        self.total_mu += increase;
        increase
    }

    /// Sum so far, MU.
    #[must_use]
    pub const fn total_mu(&self) -> f64 {
        self.total_mu
    }
}
