//! What an emulated linac does: phases become messages.
//!
//! Input: a list of [`Phase`]s. Output: [`Message`]s in order, with moving gantry, leaves and meterset. Pure; the clock on the
//! messages runs with their number, so that a script gives the same bytes every time.

use chrono::{NaiveDateTime, TimeDelta};

use crate::encode::Message;

/// Something the linac does for a number of messages.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// No patient is open.
    Idle {
        /// Length.
        messages: u32,
    },
    /// A patient is opened, nothing is delivered.
    Load {
        /// Patient's ID.
        patient_id: String,
        /// Patient's name.
        patient_name: String,
        /// Length.
        messages: u32,
    },
    /// A field is delivered, from 0 MU, with moving gantry and leaves.
    Deliver {
        /// Field ID.
        field_id: String,
        /// MU of the field.
        mu: f64,
        /// Length.
        messages: u32,
    },
    /// Beam off by an interlock; the meterset stands.
    Interlock {
        /// What the console shows.
        text: String,
        /// Length.
        messages: u32,
    },
    /// Beam off; the meterset stands.
    Pause {
        /// Length.
        messages: u32,
    },
}

/// Plays phases.
#[derive(Debug, Clone)]
pub struct Script {
    phases: Vec<Phase>,
    start: NaiveDateTime,
    clock_hz: f64,
    first_counter: u8,
    machine_id: String,
    length_field: bool,
}

impl Script {
    /// Plays `phases` on a linac called `machine_id`, its clock beginning at `start`.
    #[must_use]
    pub fn new(machine_id: impl Into<String>, start: NaiveDateTime, phases: Vec<Phase>) -> Self {
        let machine_id = machine_id.into();
        Self { phases, start, clock_hz: 4.0, first_counter: 0, machine_id, length_field: true }
    }

    /// Messages per second of the linac's own clock; 4 unless told.
    #[must_use]
    pub const fn clock_hz(mut self, clock_hz: f64) -> Self {
        self.clock_hz = clock_hz;
        self
    }

    /// Counter of the first message.
    #[must_use]
    pub const fn first_counter(mut self, counter: u8) -> Self {
        self.first_counter = counter;
        self
    }

    /// Sends zero in place of the length, as a linac may do of which we know nothing.
    #[must_use]
    pub const fn without_length_field(mut self) -> Self {
        self.length_field = false;
        self
    }

    /// `patients` in a row: load, two fields with an interlock and a pause, and every second time no idle message before
    /// the next patient. `messages` is the length of each delivery.
    #[must_use]
    pub fn day(patients: u32, messages: u32) -> Vec<Phase> {
        let mut phases = vec![Phase::Idle { messages: 4 }];
        for n in 0..patients {
            let (patient_id, patient_name) = patient(n);
            let short = (messages / 8).max(2);
            phases.push(Phase::Load { patient_id, patient_name, messages: short });
            phases.push(Phase::Deliver { field_id: "1-1".into(), mu: 120.0, messages });
            phases.push(Phase::Interlock { text: "Settings Not Confirmed".into(), messages: short });
            phases.push(Phase::Pause { messages: short });
            phases.push(Phase::Deliver { field_id: "1-2".into(), mu: 87.5, messages });
            if n % 2 == 0 {
                phases.push(Phase::Idle { messages: short });
            }
        }
        phases.push(Phase::Idle { messages: 4 });
        phases
    }

    /// All messages, in order.
    pub fn messages(&self) -> impl Iterator<Item = Message> + '_ {
        let mut state = Message {
            machine_id: self.machine_id.clone(),
            patient: None,
            length_field: self.length_field,
            ..Message::example()
        };
        let steps = self.phases.iter().flat_map(|phase| (0..phase.messages()).map(move |step| (phase, step)));
        steps.enumerate().map(move |(n, (phase, step))| {
            phase.apply(&mut state, step);
            let n = u32::try_from(n).unwrap_or(u32::MAX);
            #[expect(clippy::cast_possible_truncation, reason = "milliseconds of a script of minutes")]
            let elapsed_ms = (f64::from(n) * 1000.0 / self.clock_hz) as i64;
            state.linac_time = self.start + TimeDelta::milliseconds(elapsed_ms);
            state.counter = self.first_counter.wrapping_add(n.to_le_bytes()[0]);
            state.clone()
        })
    }
}

impl Phase {
    const fn messages(&self) -> u32 {
        match self {
            Self::Idle { messages }
            | Self::Load { messages, .. }
            | Self::Deliver { messages, .. }
            | Self::Interlock { messages, .. }
            | Self::Pause { messages } => *messages,
        }
    }

    fn apply(&self, state: &mut Message, step: u32) {
        state.interlocks.clear();
        match self {
            Self::Idle { .. } => state.patient = None,
            Self::Load { patient_id, patient_name, .. } => {
                state.patient = Some((patient_id.clone(), patient_name.clone()));
                state.field_id = "1-1".into();
                state.segment = 0;
            }
            Self::Deliver { field_id, mu, messages } => {
                let done = f64::from(step) / f64::from(messages.saturating_sub(1).max(1));
                state.field_id.clone_from(field_id);
                state.total_mu = *mu;
                state.meterset_mu = Some(mu * done);
                state.segment = step;
                state.gantry_deg = -179.0 + 358.0 * done;
                state.collimator_deg = 10.0 * done;
                state.leaves_cm = leaves_cm(done);
                state.asymy_cm = [4.0 + done, 6.0 - done];
            }
            Self::Interlock { text, .. } => state.interlocks.push(text.clone()),
            Self::Pause { .. } => {}
        }
    }
}

/// A window that slides and whose edge is wavy.
fn leaves_cm(done: f64) -> Vec<f64> {
    (0..80)
        .flat_map(|pair| {
            let centre = 4.0 * done - 2.0 + f64::from(pair % 7) / 10.0;
            [centre - 1.5, centre + 1.5]
        })
        .collect()
}

/// Names as hospitals have them: ten digits, umlauts, characters that no file name may hold.
fn patient(n: u32) -> (String, String) {
    let name = match n % 4 {
        0 => "PHYSICS, MOCK",
        1 => "MÜLLER, JÜRGEN",
        2 => "O'NEIL_\"SEAN\", A/B",
        _ => "DOE^JANE",
    };
    (format!("{}", 9_434_765_910_u64 + u64::from(n)), name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::time;

    #[test]
    fn a_day_has_patients_with_and_without_an_idle_message_between() {
        let script = Script::new("4299", time(0), Script::day(3, 16)).first_counter(250);
        let messages: Vec<_> = script.messages().collect();
        assert_eq!(messages[10].counter, 4);
        let mut patients: Vec<_> = messages.iter().map(|m| m.patient.clone().map(|(id, _)| id)).collect();
        patients.dedup();
        assert_eq!(patients.iter().flatten().count(), 3);
        assert_eq!(patients.len(), 6, "idle, A, idle, B, C, idle");
        assert!(messages.iter().any(|m| !m.interlocks.is_empty()));
    }
}
