//! Reads numpy's .npz archives: little-endian arrays in either order, as `numpy.savez_compressed` writes them.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use trf_core::{Delivery, delivery::Columns};

/// An array of numbers, widened to f64.
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f64>,
}

/// All arrays of an archive by name.
pub(crate) fn read(path: &Path) -> BTreeMap<String, Array> {
    let mut archive = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
    (0..archive.len())
        .map(|index| {
            let mut file = archive.by_index(index).unwrap();
            let name = file.name().unwrap().trim_end_matches(".npy").to_owned();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            (name, npy(&bytes))
        })
        .collect()
}

/// The delivery in an archive of `monitor_units`, `gantry`, `collimator`, `mlc`, `jaw`.
pub(crate) fn delivery(path: &Path) -> Delivery {
    let mut arrays = read(path);
    let n_pairs = arrays["mlc"].shape[1];
    let mut take = |name: &str| arrays.remove(name).unwrap_or_else(|| panic!("no {name}")).values;
    let columns = Columns {
        meterset_mu: take("monitor_units"),
        gantry_bipolar_deg: take("gantry"),
        collimator_bipolar_deg: take("collimator"),
        mlc_mm: take("mlc"),
        jaw_mm: take("jaw"),
    };
    Delivery::new(columns, n_pairs).unwrap()
}

fn npy(bytes: &[u8]) -> Array {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00", "npy version 1");
    let header_len = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..10 + header_len]).unwrap();
    let data = &bytes[10 + header_len..];
    let between = |from: &str, to: &str| header.split(from).nth(1).unwrap().split(to).next().unwrap();
    let shape: Vec<usize> = between("'shape': (", ")")
        .split(',')
        .filter(|part| !part.trim().is_empty())
        .map(|part| part.trim().parse().unwrap())
        .collect();
    let values: Vec<f64> = match between("'descr': '", "'") {
        "<f8" => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        "<i8" => data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
        "|i1" => data.iter().map(|b| f64::from(b.cast_signed())).collect(),
        other => panic!("dtype {other}"),
    };
    assert_eq!(values.len(), shape.iter().product::<usize>());
    let values = if header.contains("'fortran_order': True") { c_order(&shape, &values) } else { values };
    Array { shape, values }
}

/// From Fortran's order (first index fastest) to C's.
fn c_order(shape: &[usize], values: &[f64]) -> Vec<f64> {
    let mut index = vec![0; shape.len()];
    (0..values.len())
        .map(|_| {
            let at = index.iter().zip(shape).rev().fold(0, |at, (i, n)| at * n + i);
            for (i, n) in index.iter_mut().zip(shape).rev() {
                *i = (*i + 1) % n;
                if *i != 0 {
                    break;
                }
            }
            values[at]
        })
        .collect()
}
