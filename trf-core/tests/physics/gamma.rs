//! Gamma agrees with `pymedphys.gamma` on the same maps.

use std::path::Path;

use trf_core::gamma::{Criteria, Gamma, Plane};
use trf_core::{Delivery, MetersetMap, delivery::Columns, metersetmap::Options};

use crate::{data, npz, peer};

/// Largest difference of pass rates, percentage points.
const TOLERANCE_PERCENT: f64 = 1.0;

/// Reads maps and criteria as text, prints one pass rate and one mean gamma per line.
const PYMEDPHYS: &str = "
import json, sys, warnings
warnings.simplefilter('ignore')
import numpy as np, pymedphys
case = json.load(open(sys.argv[1]))
axes = (np.array(case['rows_mm']), np.array(case['columns_mm']))
shape = (len(axes[0]), len(axes[1]))
reference = np.array(case['reference']).reshape(shape)
evaluation = np.array(case['evaluation']).reshape(shape)
for c in case['criteria']:
    gamma = pymedphys.gamma(
        axes, reference, axes, evaluation, c['dose_percent'], c['distance_mm'],
        lower_percent_dose_cutoff=c['lower_dose_cutoff_percent'], local_gamma=c['local'],
        interp_fraction=c['interpolation_fraction'], max_gamma=c['max_gamma'])
    compared = gamma[~np.isnan(gamma)]
    print(100 * np.mean(compared <= 1), np.mean(compared), len(compared))
";

fn criteria() -> Vec<Criteria> {
    let base = Criteria {
        dose_percent: 2.0,
        distance_mm: 0.5,
        lower_dose_cutoff_percent: 20.0,
        max_gamma: 2.0,
        ..Criteria::default()
    };
    vec![
        base,
        Criteria { dose_percent: 1.0, distance_mm: 1.0, ..base },
        Criteria {
            dose_percent: 3.0,
            distance_mm: 2.0,
            local: true,
            lower_dose_cutoff_percent: 10.0,
            ..base
        },
        Criteria {
            dose_percent: 0.5,
            distance_mm: 0.3,
            lower_dose_cutoff_percent: 5.0,
            max_gamma: 1.3,
            ..base
        },
    ]
}

fn assert_agrees(python: &std::path::PathBuf, name: &str, reference: &MetersetMap, evaluation: &MetersetMap) {
    let criteria = criteria();
    let case = serde_json::json!({
        "rows_mm": reference.jaw_axis_mm(),
        "columns_mm": reference.leaf_axis_mm(),
        "reference": reference.mu(),
        "evaluation": evaluation.mu(),
        "criteria": criteria,
    });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("case.json");
    std::fs::write(&path, case.to_string()).unwrap();
    let seen = peer::run(python, PYMEDPHYS, &[&path]);
    let lines: Vec<Vec<f64>> =
        seen.lines().map(|line| line.split(' ').map(|number| number.parse().unwrap()).collect()).collect();
    assert_eq!(lines.len(), criteria.len(), "{seen}");
    for (criteria, expected) in criteria.iter().zip(lines) {
        let gamma = Gamma::new(Plane::from(reference), Plane::from(evaluation), criteria).unwrap();
        let rate = gamma.pass_rate_percent().unwrap();
        println!(
            "{name}: {rate:.3} % against {:.3} %, mean {:.4} against {:.4}",
            expected[0],
            gamma.mean().unwrap(),
            expected[1]
        );
        assert!(
            (rate - expected[0]).abs() <= TOLERANCE_PERCENT,
            "{name} {criteria:?}: {rate} against {}",
            expected[0]
        );
        assert!((gamma.mean().unwrap() - expected[1]).abs() < 0.01, "{name} {criteria:?}");
        assert_eq!(gamma.n_points() as f64, expected[2], "{name} {criteria:?}");
    }
}

fn field(leaf_shift_mm: f64, mu: f64) -> MetersetMap {
    let mut columns = Columns::default();
    for step in 0..12 {
        let at = f64::from(step);
        columns.meterset_mu.push(mu * at);
        columns.gantry_bipolar_deg.push(0.0);
        columns.collimator_bipolar_deg.push(0.0);
        for pair in 0..80 {
            let centre = (f64::from(pair) / 7.0).sin() * 10.0 + at * 3.0 - 15.0;
            columns.mlc_mm.extend([12.0 - centre, 12.0 + centre + leaf_shift_mm * f64::from(pair % 5)]);
        }
        columns.jaw_mm.extend([30.0, 40.0]);
    }
    let delivery = Delivery::new(columns, 80).unwrap();
    MetersetMap::new(&delivery, &Options::default()).unwrap()
}

#[test]
fn pass_rates_of_generated_fields_agree_with_pymedphys() {
    let Some(python) = peer::python("PYMEDPHYS_PYTHON") else { return };
    assert_agrees(&python, "generated", &field(0.0, 10.0), &field(0.3, 10.1));
}

#[test]
fn pass_rates_of_plan_against_record_agree_with_pymedphys() {
    let Some(python) = peer::python("PYMEDPHYS_PYTHON") else { return };
    let Some(root) = data::root() else { return };
    let map = |path: &Path, resolution_mm: f64| {
        MetersetMap::new(&npz::delivery(path), &Options::with_resolution(resolution_mm)).unwrap()
    };
    for (plan, record, resolution_mm) in [
        ("ltbreast_2groups_pair.fg2", "v1_imrt_3field_pair", 1.0),
        ("ltbreast_2groups_pair.fg1", "sim_ltbreast_fg1_v1", 5.0),
        ("tiny_vmat.fg1", "sim_tinyvmat_v1", 2.5),
    ] {
        let planned = map(&root.join(format!("golden/from_dicom/{plan}.npz")), resolution_mm);
        let delivered = map(&root.join(format!("golden/delivery/{record}.npz")), resolution_mm);
        assert_agrees(&python, record, &planned, &delivered);
    }
}
