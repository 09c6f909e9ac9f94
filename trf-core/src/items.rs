//! What an item of a record means: name, unit, and the rule from stored integer to value.
//!
//! Names are those of Elekta's own tool and of PyMedPhys, spelling mistakes included, so that scripts keep working.
//! Source: items and rules were compared with Elekta's own decodes of real records (all columns, tolerance 0). A column
//! that is zero in all of them says so in [`Provenance`]. `docs/trf.md` has the table.

use std::borrow::Cow;
use std::fmt;

/// Identifies a logged quantity: which item of the control system, and which part (set, actual, error …) of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ItemPart {
    /// The item, such as 2224 for the gantry.
    pub item: i16,
    /// The part: 100 set, 101 raw, 111 actual, 129 scaled actual, 220 positional error, 227 tolerance.
    pub part: i16,
}

impl ItemPart {
    /// The pair `(item, part)`.
    pub const fn new(item: i16, part: i16) -> Self {
        ItemPart { item, part }
    }
}

impl fmt::Display for ItemPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.item, self.part)
    }
}

/// Control point number; −32767 means none.
pub const CONTROL_POINT: ItemPart = ItemPart::new(2240, 111);
/// Energy code (1 = 6 MV; 12, 14 = electrons in the records seen; inferred).
pub const ENERGY: ItemPart = ItemPart::new(2177, 100);
/// Linac state, see [`linac_state`].
pub const LINAC_STATE: ItemPart = ItemPart::new(2543, 111);
/// Dose rate in MU/min.
pub const DOSE_RATE: ItemPart = ItemPart::new(2542, 111);
/// Dose of the running beam, 0.1 MU; wraps at 3276.7 MU in versions 1 to 3.
pub const STEP_DOSE: ItemPart = ItemPart::new(2238, 111);
/// Dose counter of the running beam, 1/64 MU; wraps at 1024 MU in versions 1 to 3.
pub const DOSE_RAW: ItemPart = ItemPart::new(2162, 101);
/// Pauses of the pulse repetition frequency.
pub const PRF_PAUSES: ItemPart = ItemPart::new(2200, 111);
/// Wedge, see [`wedge_position`].
pub const WEDGE: ItemPart = ItemPart::new(2541, 111);
/// Gantry, degrees, bipolar (−180, 180].
pub const GANTRY: ItemPart = ItemPart::new(2224, SCALED_ACTUAL);
/// Collimator, degrees, bipolar (−180, 180].
pub const COLLIMATOR: ItemPart = ItemPart::new(2225, SCALED_ACTUAL);
/// Couch rotation, whole degrees.
pub const TABLE_ISOCENTRIC: ItemPart = ItemPart::new(2226, SCALED_ACTUAL);
/// Diaphragm X1 in mm, positive away from the axis; IEC Y2 jaw.
pub const X1_DIAPHRAGM: ItemPart = ItemPart::new(2060, SCALED_ACTUAL);
/// Diaphragm X2 in mm, positive away from the axis; minus the IEC Y1 jaw.
pub const X2_DIAPHRAGM: ItemPart = ItemPart::new(2061, SCALED_ACTUAL);
/// Status of the MLC; only in version 4.
pub const MLC_STATUS: ItemPart = ItemPart::new(2170, 111);

/// Number of leaf pairs that have items (Agility).
pub const N_LEAF_PAIRS: usize = 80;
const N_LEAF_PAIRS_I16: i16 = 80;

const SCALED_ACTUAL: i16 = 129;
const POSITIONAL_ERROR: i16 = 220;
const ACTUAL_TOLERANCE: i16 = 227;
const Y2_LEAF_1: i16 = 2380;
const Y1_LEAF_1: i16 = 2460;

/// Position of leaf `leaf_index` (0 to 79) of bank Y1; leaf 1 of Elekta's names has index 0.
pub fn y1_leaf(leaf_index: usize) -> Option<ItemPart> {
    leaf(Y1_LEAF_1, leaf_index, SCALED_ACTUAL)
}

/// Position of leaf `leaf_index` (0 to 79) of bank Y2.
pub fn y2_leaf(leaf_index: usize) -> Option<ItemPart> {
    leaf(Y2_LEAF_1, leaf_index, SCALED_ACTUAL)
}

/// Positional error of leaf `leaf_index` (0 to 79) of bank Y1.
pub fn y1_leaf_error(leaf_index: usize) -> Option<ItemPart> {
    leaf(Y1_LEAF_1, leaf_index, POSITIONAL_ERROR)
}

/// Positional error of leaf `leaf_index` (0 to 79) of bank Y2.
pub fn y2_leaf_error(leaf_index: usize) -> Option<ItemPart> {
    leaf(Y2_LEAF_1, leaf_index, POSITIONAL_ERROR)
}

fn leaf(first: i16, leaf_index: usize, part: i16) -> Option<ItemPart> {
    let index = i16::try_from(leaf_index).ok().filter(|i| *i < N_LEAF_PAIRS_I16)?;
    Some(ItemPart::new(first.checked_add(index)?, part))
}

/// The rule from the stored integer x to the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// x.
    Raw,
    /// x / 10.
    Tenths,
    /// −x / 10: bank Y2 is stored with the sign of IEC X, and shown as "positive is open".
    NegatedTenths,
    /// x, where a negative x is a counter of 16 bits without sign: x + 65536.
    Unsigned16,
    /// A code of [`linac_state`].
    LinacState,
    /// A code of [`wedge_position`].
    WedgePosition,
}

impl Rule {
    /// The value of `raw` as a number; codes stay codes.
    #[inline]
    pub fn apply(self, raw: i32) -> f64 {
        let x = f64::from(raw);
        match self {
            Rule::Raw | Rule::LinacState | Rule::WedgePosition => x,
            Rule::Tenths => x / 10.0,
            // 0 − x and not −x: a leaf at the axis is at 0, not at −0.
            Rule::NegatedTenths => (0.0 - x) / 10.0,
            Rule::Unsigned16 => f64::from(unsigned16(raw)),
        }
    }

    /// The word for the code `raw`, or the code where it is not known.
    pub fn text(self, raw: i32) -> Cow<'static, str> {
        self.label(raw).map_or_else(|| Cow::Owned(raw.to_string()), Cow::Borrowed)
    }

    /// The word for `raw`, if this rule is a code table and the code is known.
    pub fn label(self, raw: i32) -> Option<&'static str> {
        match self {
            Rule::LinacState => linac_state(raw),
            Rule::WedgePosition => wedge_position(raw),
            _ => None,
        }
    }
}

/// A counter of 16 bits without sign, stored with one.
///
/// PyMedPhys does the same to the 32-bit values of version 4, where a negative one has never been seen.
#[inline]
pub(crate) fn unsigned16(raw: i32) -> i32 {
    if raw < 0 { raw.saturating_add(1 << 16) } else { raw }
}

/// How we know what an item means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// Equal to Elekta's own decode of real records, with values other than zero.
    VendorTool,
    /// In real records and Elekta's decodes, but zero there: the scale is PyMedPhys's.
    VendorToolAllZero,
    /// Known from PyMedPhys only.
    PyMedPhys,
    /// Not known: the integer as stored.
    Unknown,
}

impl Provenance {
    /// The same in a few words.
    pub fn words(self) -> &'static str {
        match self {
            Provenance::VendorTool => "Elekta's tool",
            Provenance::VendorToolAllZero => "Elekta's tool, only zeros seen",
            Provenance::PyMedPhys => "PyMedPhys",
            Provenance::Unknown => "unknown, raw",
        }
    }
}

/// Meaning of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// Column name of Elekta's tool and PyMedPhys; `Item <item>/<part>` where the item is unknown.
    pub name: Cow<'static, str>,
    /// True unit (`mm`, `deg`, `MU`, `MU/min`, `1/64 MU`), empty where there is none or it is unknown.
    /// Elekta's names say `(deg)` for table distances, which are mm.
    pub unit: &'static str,
    /// From stored integer to value.
    pub rule: Rule,
    /// How sure.
    pub provenance: Provenance,
}

/// The meaning of `item`; unknown ones are raw integers under a name made of the ids.
pub fn meaning(item: ItemPart) -> Meaning {
    known_meaning(item).unwrap_or_else(|| Meaning {
        name: Cow::Owned(format!("Item {item}")),
        unit: "",
        rule: Rule::Raw,
        provenance: Provenance::Unknown,
    })
}

fn known_meaning(item: ItemPart) -> Option<Meaning> {
    use Provenance::{PyMedPhys, VendorTool, VendorToolAllZero};
    let fixed =
        |name, unit, rule, provenance| Some(Meaning { name: Cow::Borrowed(name), unit, rule, provenance });
    match (item.item, item.part) {
        (2240, 111) => fixed("Control point/Actual Value (None)", "", Rule::Raw, VendorTool),
        (2177, 100) => fixed("Energy Cal Block/Set (None)", "", Rule::Raw, VendorTool),
        (2543, 111) => fixed("Linac State/Actual Value (None)", "", Rule::LinacState, VendorTool),
        (2542, 111) => fixed("Actual Dose Rate/Actual Value (Mu/min)", "MU/min", Rule::Raw, VendorTool),
        (2238, 111) => fixed("Step Dose/Actual Value (Mu)", "MU", Rule::Tenths, VendorTool),
        (2162, 101) => fixed("Dose/Raw value (1/64th Mu)", "1/64 MU", Rule::Unsigned16, VendorTool),
        (2200, 111) => fixed("PRF Pauses/Actual Value (None)", "", Rule::Raw, VendorToolAllZero),
        (2541, 111) => fixed("Wedge Position/Actual Value (None)", "", Rule::WedgePosition, VendorTool),
        (2226, SCALED_ACTUAL) => fixed("Table Isocentric/Scaled Actual (deg)", "deg", Rule::Raw, VendorTool),
        (2170, 111) => fixed("Mlc Status/Actual Value (None)", "", Rule::Raw, PyMedPhys),
        (2420, ACTUAL_TOLERANCE) => fixed("Y2 Leaf 40/Actual Tolerance (mm)", "mm", Rule::Tenths, VendorTool),
        (2500, ACTUAL_TOLERANCE) => fixed("Y1 Leaf 40/Actual Tolerance (mm)", "mm", Rule::Tenths, VendorTool),
        (id, SCALED_ACTUAL) => {
            let (axis, label, unit) = axis(id)?;
            let rule = if is_bank(id, Y2_LEAF_1) { Rule::NegatedTenths } else { Rule::Tenths };
            positional(axis, "Scaled Actual", label, unit, rule, VendorTool)
        }
        (id, POSITIONAL_ERROR) => {
            let (axis, label, unit) = axis(id)?;
            let provenance = if (2224..=2229).contains(&id) { VendorToolAllZero } else { VendorTool };
            positional(axis, "Positional Error", label, unit, Rule::Tenths, provenance)
        }
        _ => None,
    }
}

fn positional(
    axis: Cow<'static, str>,
    part: &str,
    label: &str,
    unit: &'static str,
    rule: Rule,
    provenance: Provenance,
) -> Option<Meaning> {
    Some(Meaning { name: Cow::Owned(format!("{axis}/{part} ({label})")), unit, rule, provenance })
}

/// Name of a moving part, the unit that Elekta's tool prints, and the true one.
fn axis(item: i16) -> Option<(Cow<'static, str>, &'static str, &'static str)> {
    let fixed = |name, label, unit| Some((Cow::Borrowed(name), label, unit));
    match item {
        2224 => fixed("Step Gantry", "deg", "deg"),
        2225 => fixed("Step Collimator", "deg", "deg"),
        2226 => fixed("Table Isocentric", "deg", "deg"),
        2227 => fixed("Table Longitudinal", "deg", "mm"),
        2228 => fixed("Table Lateral", "deg", "mm"),
        2229 => fixed("Table Height", "deg", "mm"),
        2060 => fixed("X1 Diaphragm", "mm", "mm"),
        2061 => fixed("X2 Diaphragm", "mm", "mm"),
        2064 => fixed("Dlg Y2", "mm", "mm"),
        2065 => fixed("Dlg Y1", "mm", "mm"),
        id if is_bank(id, Y2_LEAF_1) => Some((leaf_name("Y2", id, Y2_LEAF_1), "mm", "mm")),
        id if is_bank(id, Y1_LEAF_1) => Some((leaf_name("Y1", id, Y1_LEAF_1), "mm", "mm")),
        _ => None,
    }
}

fn is_bank(item: i16, first: i16) -> bool {
    item >= first && item - first < N_LEAF_PAIRS_I16
}

fn leaf_name(bank: &str, item: i16, first: i16) -> Cow<'static, str> {
    Cow::Owned(format!("{bank} Leaf {}", item - first + 1))
}

/// The word of Elekta's tool for a linac state (its spelling); `None` for a code that we do not know.
///
/// Source: PyMedPhys's table, made by comparison with Elekta's tool. 39 to 42, 45 and 46 occur in real records. Names for
/// 0, 1, 4, 8, 33 and 35 circulate among users without proof, so those stay numbers.
pub fn linac_state(code: i32) -> Option<&'static str> {
    Some(match code {
        16 => "Closed",
        34 => "State Code Unknown",
        39 => "Move Only",
        40 => "Pause",
        41 => "Intersegment",
        42 => "Radiation On",
        43 => "Interupted",
        44 => "Interupted Ready",
        45 => "Terminated Checking",
        46 => "Terminated Ok",
        47 => "Terminated Fault",
        _ => return None,
    })
}

/// The word of Elekta's tool for a wedge position; `None` for a code that we do not know.
pub fn wedge_position(code: i32) -> Option<&'static str> {
    Some(match code {
        0 => "Moving",
        1 => "In",
        2 => "Out",
        _ => return None,
    })
}
