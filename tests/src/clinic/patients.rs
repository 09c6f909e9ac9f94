//! Patients and their fields: few names, used again and again, as in every clinic.

use super::random::Random;

/// A patient. All are made up.
#[derive(Clone, Debug)]
pub struct Patient {
    /// Ident.Pat_ID1.
    pub pat_id1: i64,
    /// Ident.IDA.
    pub ida: Option<String>,
    /// Patient.Last_Name.
    pub last_name: String,
    /// Patient.First_Name.
    pub first_name: String,
    /// What is delivered each day, by index among the fields.
    pub fields: Vec<usize>,
    /// Whether the fields are run as one record.
    pub as_one: bool,
    /// Setup and kV fields.
    pub setup: Vec<usize>,
}

/// A row of TxField.
#[derive(Clone, Debug)]
pub struct Field {
    /// TxField.FLD_ID.
    pub field_id: i64,
    /// TxField.Pat_ID1.
    pub pat_id1: i64,
    /// TxField.Field_Label.
    pub label: String,
    /// TxField.Field_Name.
    pub name: String,
    /// TxField.Type_Enum.
    pub type_enum: i32,
    /// TxField.Meterset in MU.
    pub meterset_mu: Option<f64>,
}

const LAST_NAMES: [&str; 12] = [
    "EXAMPLE",
    "SAMPLE",
    "SPECIMEN",
    "MUSTER",
    "PLACEHOLDER",
    "NOBODY",
    "TESTMANN",
    "PHANTOM",
    "DUMMY",
    "FICTUS",
    "MODEL",
    "TEMPLATE",
];
const FIRST_NAMES: [&str; 10] =
    ["ADA", "BERTA", "CARLO", "DORA", "EMIL", "FRIDA", "GUSTAV", "HANNA", "IDA", "JONAS"];

/// Label, name and type of the fields of a technique; the techniques that everybody has.
const TECHNIQUES: [&[(&str, &str, i32)]; 7] = [
    &[("1-1", "1ARCVMAT", 13)],
    &[("1-1", "2ARCVMAT", 13), ("1-2", "2ARCVMAT", 13)],
    &[("1-1", "AP", 1), ("1-2", "PA", 1)],
    &[("1-1", "AP", 1), ("1-2", "PA", 1), ("1-3", "LLAT", 1), ("1-4", "RLAT", 1)],
    &[("1-1", "3 FIELD IMRT", 2), ("1-2", "3 FIELD IMRT", 2), ("1-3", "3 FIELD IMRT", 2)],
    &[("2-1", "TANG MED", 14), ("2-2", "TANG LAT", 14), ("2-3", "AP/PA SCF", 1)],
    &[("2-2", "DIR SCALP", 1)],
];

/// Techniques that are often run as one record.
const IMRT: usize = 4;

/// Makes patients and fields.
pub(super) struct Register {
    random: Random,
    /// All patients so far.
    pub(super) patients: Vec<Patient>,
    /// All fields so far.
    pub(super) fields: Vec<Field>,
}

impl Register {
    /// An empty one.
    pub(super) fn new(seed: u64) -> Self {
        Register { random: Random::new(seed, 1), patients: Vec::new(), fields: Vec::new() }
    }

    /// A patient with a common technique; every sixth has the very fields of somebody else, metersets included.
    pub(super) fn patient(&mut self) -> usize {
        if self.patients.len() > 3 && self.random.chance(1.0 / 6.0) {
            let other = self.random.below(self.patients.len());
            return self.twin(other);
        }
        let technique = self.random.below(TECHNIQUES.len());
        let fields: Vec<_> = TECHNIQUES[technique]
            .iter()
            .map(|&(label, name, type_enum)| {
                let meterset_mu = (self.random.between(15.0, 330.0) * 10.0).round() / 10.0;
                (label.to_owned(), name.to_owned(), type_enum, Some(meterset_mu))
            })
            .collect();
        let as_one = technique == IMRT && self.random.chance(0.7);
        self.register(&fields, as_one)
    }

    /// Another patient with the same labels, names and metersets.
    pub(super) fn twin(&mut self, of: usize) -> usize {
        let of = self.patients[of].clone();
        let fields: Vec<_> = of
            .fields
            .iter()
            .map(|&field| &self.fields[field])
            .map(|field| (field.label.clone(), field.name.clone(), field.type_enum, field.meterset_mu))
            .collect();
        self.register(&fields, of.as_one)
    }

    /// The phantom of the morning's checks.
    pub(super) fn phantom(&mut self) -> usize {
        self.register(&[("1-1".into(), "QA 10x10".into(), 1, Some(100.0))], false)
    }

    fn register(&mut self, fields: &[(String, String, i32, Option<f64>)], as_one: bool) -> usize {
        let number = self.patients.len();
        let pat_id1 = 10_000 + 7 * number as i64;
        let mut add = |label: &str, name: &str, type_enum, meterset_mu| {
            let field_id = 500 + self.fields.len() as i64;
            let (label, name) = (label.to_owned(), name.to_owned());
            self.fields.push(Field { field_id, pat_id1, label, name, type_enum, meterset_mu });
            self.fields.len() - 1
        };
        let ids = fields.iter().map(|(label, name, kind, mu)| add(label, name, *kind, *mu)).collect();
        let setup = vec![add("S1", "AP SETUP", 3, Some(1.0)), add("kV1", "CBCT", 4, None)];
        let ida = (!self.random.chance(0.05)).then(|| format!("MU{number:05}"));
        let (last_name, first_name) = (self.random.of(&LAST_NAMES), self.random.of(&FIRST_NAMES));
        self.patients.push(Patient {
            pat_id1,
            ida,
            last_name: format!("{last_name}-{number}"),
            first_name: (*first_name).to_owned(),
            fields: ids,
            as_one,
            setup,
        });
        number
    }
}
