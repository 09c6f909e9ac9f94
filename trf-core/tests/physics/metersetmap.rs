//! MetersetMaps equal PyMedPhys's to 1e-9 MU.

use std::path::Path;

use trf_core::{Delivery, MetersetMap, metersetmap::Options};

use crate::{data, npz};

const TOLERANCE_MU: f64 = 1e-9;

fn assert_equals_golden(delivery: &Delivery, golden: &Path, options: &Options) {
    let name = golden.file_name().unwrap().to_string_lossy();
    let expected = npz::read(golden);
    let map = MetersetMap::new(delivery, options).unwrap();
    assert_eq!(map.shape().to_vec(), expected["metersetmap"].shape, "{name}");
    for (axis, found) in [("grid_mlc", map.leaf_axis_mm()), ("grid_jaw", map.jaw_axis_mm())] {
        let worst = largest_difference(found, &expected[axis].values);
        assert!(worst < TOLERANCE_MU, "{name}: {axis} differs by {worst}");
    }
    let worst = largest_difference(map.mu(), &expected["metersetmap"].values);
    assert!(worst < TOLERANCE_MU, "{name}: differs by {worst} MU");
    assert!(map.max_mu() > 1.0, "{name}: an empty map proves nothing");
}

fn largest_difference(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Grid of a golden by its name, `….5mm.npz`.
fn resolution_mm(golden: &Path) -> f64 {
    let name = golden.file_name().unwrap().to_string_lossy();
    name.trim_end_matches("mm.npz").rsplit('.').next().unwrap().parse().unwrap()
}

#[test]
fn maps_of_records_equal_the_goldens() {
    let Some(root) = data::root() else { return };
    for golden in data::files(&root.join("golden/metersetmap"), ".npz") {
        let delivery =
            npz::delivery(&root.join("golden/delivery").join(format!("{}.npz", data::stem(&golden))));
        assert_equals_golden(&delivery, &golden, &Options::with_resolution(resolution_mm(&golden)));
    }
}

#[test]
fn maps_of_plans_equal_the_goldens() {
    let Some(root) = data::root() else { return };
    for golden in data::files(&root.join("golden/metersetmap_plans"), ".npz") {
        let name = golden.file_name().unwrap().to_string_lossy().into_owned();
        let plan = name.rsplitn(3, '.').last().unwrap();
        let delivery = npz::delivery(&root.join("golden/from_dicom").join(format!("{plan}.npz")));
        assert_equals_golden(&delivery, &golden, &Options::with_resolution(resolution_mm(&golden)));
    }
}

#[test]
fn maps_of_arrays_and_of_other_leaves_equal_the_goldens() {
    let Some(root) = data::root() else { return };
    let arrays = root.join("golden/metersetmap_arrays");
    for input in data::files(&arrays, ".input.npz") {
        let delivery = from_arrays(&input);
        for (suffix, resolution_mm) in [("1mm", 1.0), ("5mm", 5.0)] {
            let golden = arrays.join(format!("{}.{suffix}.npz", data::stem(&input)));
            assert_equals_golden(&delivery, &golden, &Options::with_resolution(resolution_mm));
        }
    }
    let small = arrays.join("small_3leaf.npz");
    assert_equals_golden(&from_arrays(&small), &small, &options_in(&small));
    let wide = arrays.join("v1_imrt_3field_pair.10_5x78_10.2.5mm.npz");
    let delivery = npz::delivery(&root.join("golden/delivery/v1_imrt_3field_pair.npz"));
    assert_equals_golden(&delivery, &wide, &options_in(&wide));
}

fn from_arrays(path: &Path) -> Delivery {
    let arrays = npz::read(path);
    let n_cp = arrays["mu"].values.len();
    let columns = trf_core::delivery::Columns {
        meterset_mu: arrays["mu"].values.clone(),
        gantry_bipolar_deg: vec![0.0; n_cp],
        collimator_bipolar_deg: vec![0.0; n_cp],
        mlc_mm: arrays["mlc"].values.clone(),
        jaw_mm: arrays["jaw"].values.clone(),
    };
    Delivery::new(columns, arrays["mlc"].shape[1]).unwrap()
}

fn options_in(path: &Path) -> Options {
    let arrays = npz::read(path);
    Options {
        resolution_mm: arrays["grid_resolution"].values[0],
        max_leaf_gap_mm: arrays["max_leaf_gap"].values[0],
        leaf_widths_mm: arrays["leaf_pair_widths"].values.clone(),
        ..Options::default()
    }
}

/// The same map from every sample of every pixel, nothing skipped or summed in closed form.
#[test]
fn map_equals_a_naive_sum_of_samples_where_jaws_and_leaves_move_together() {
    let mut columns = trf_core::delivery::Columns::default();
    for (at, (mu, shift)) in [(0.0, 0.0), (1.0, 3.7), (1.5, -2.2), (4.0, 11.3)].into_iter().enumerate() {
        columns.meterset_mu.push(mu);
        columns.gantry_bipolar_deg.push(0.0);
        columns.collimator_bipolar_deg.push(0.0);
        columns.mlc_mm.extend((0..8).flat_map(|pair| [7.0 - shift + f64::from(pair), 9.3 + shift * 0.7]));
        columns.jaw_mm.extend([12.4 - shift, 3.1 + shift * 0.4 + at as f64]);
    }
    let delivery = Delivery::new(columns, 8).unwrap();
    let options = Options { max_leaf_gap_mm: 80.0, leaf_widths_mm: vec![5.0; 8], ..Options::default() };
    let map = MetersetMap::new(&delivery, &options).unwrap();
    let [rows, n_columns] = map.shape();
    let mut worst: f64 = 0.0;
    for row in 0..rows {
        for column in 0..n_columns {
            let (x, y) = (map.leaf_axis_mm()[column], map.jaw_axis_mm()[row]);
            let pair = (((y + 20.0) / 5.0).floor().max(0.0) as usize).min(7);
            let mut expected = 0.0;
            for cp in 0..3 {
                let mu = delivery.meterset_mu()[cp + 1] - delivery.meterset_mu()[cp];
                expected += mu * naive_open(&delivery, cp, pair, x, y);
            }
            worst = worst.max((map.mu()[row * n_columns + column] - expected).abs());
        }
    }
    assert!(worst < 1e-12, "differs by {worst}");
    assert!(map.max_mu() > 3.0);
}

fn naive_open(delivery: &Delivery, cp: usize, pair: usize, x: f64, y: f64) -> f64 {
    let (jaw, next_jaw) = (delivery.jaw_at(cp).unwrap(), delivery.jaw_at(cp + 1).unwrap());
    let (mlc, next_mlc) = (delivery.mlc_at(cp).unwrap(), delivery.mlc_at(cp + 1).unwrap());
    let mut travel = (jaw[0] - next_jaw[0]).abs().max((jaw[1] - next_jaw[1]).abs());
    // Leaves that the jaws never uncover do not count for the number of samples.
    let nearest = |mm: f64| (mm + 0.5).round_ties_even() - 0.5;
    let (low, high) = (nearest((-jaw[0]).min(-next_jaw[0])), nearest(jaw[1].max(next_jaw[1])));
    for leaf in 0..8 {
        let centre = f64::from(leaf as u8) * 5.0 - 17.5;
        if centre + 2.5 > low && centre - 2.5 < high {
            for bank in 0..2 {
                travel = travel.max((mlc[leaf * 2 + bank] - next_mlc[leaf * 2 + bank]).abs());
            }
        }
    }
    let n = (10.0 * travel.ceil()).max(10.0) as usize;
    let covered = |depth: f64| (0.5 + depth).clamp(0.0, 1.0);
    let sum: f64 = (0..n)
        .map(|sample| {
            let at = |from: f64, to: f64| from + sample as f64 * (to - from) / (n - 1) as f64;
            let left = -at(mlc[pair * 2], next_mlc[pair * 2]);
            let right = at(mlc[pair * 2 + 1], next_mlc[pair * 2 + 1]);
            let bottom = -at(jaw[0], next_jaw[0]);
            let top = at(jaw[1], next_jaw[1]);
            (1.0 - covered(left - x) - covered(x - right)) * (1.0 - covered(bottom - y) - covered(y - top))
        })
        .sum();
    sum / n as f64
}
