//! One beam from four sources: the plan's file, Mosaiq, the linac's log, its iCom stream. All become one `Delivery`.

use icom_core::encode::{Message, time};
use rusqlite::{Connection, params};
use tests::tds::{TdsServer, mosaiq_tables};
use trf_core::gamma::{Criteria, Plane};
use trf_core::metersetmap::Options;
use trf_core::mosaiq::Mosaiq;
use trf_core::rtplan::Scope;
use trf_core::{Delivery, Gamma, MetersetMap, MetersetSource, Record, RtPlan, Version};

use crate::made;
use crate::support::{login, server};

/// A delivery as Mosaiq keeps it.
pub(crate) fn insert_field(rows: &Connection, field_id: i64, delivery: &Delivery) {
    rows.execute(
        "INSERT INTO TxField VALUES (?1, ?1, 1, '1-1', 'QA', 13, ?2, 0)",
        params![field_id, delivery.total_mu()],
    )
    .unwrap();
    for at in 0..delivery.n_cp() {
        let mlc = delivery.mlc_at(at).unwrap();
        let bank = |value: &dyn Fn(&[f64]) -> f64| {
            let steps = mlc.chunks_exact(2).rev().map(|tips| (value(tips) * 10.0).round() as i16);
            let mut bytes: Vec<u8> = steps.flat_map(i16::to_le_bytes).collect();
            bytes.resize(200, 0);
            bytes
        };
        let iec = |deg: f64| if deg < 0.0 { deg + 360.0 } else { deg };
        let jaw = delivery.jaw_at(at).unwrap();
        rows.execute(
            "INSERT INTO TxFieldPoint VALUES (?1, ?2, ?3, 80, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                field_id,
                i64::try_from(at).unwrap(),
                100.0 * delivery.meterset_mu()[at] / delivery.total_mu(),
                bank(&|tips| -tips[1]),
                bank(&|tips| tips[0]),
                iec(delivery.gantry_bipolar_deg()[at]),
                iec(delivery.collimator_bipolar_deg()[at]),
                -jaw[1] / 10.0,
                jaw[0] / 10.0,
            ],
        )
        .unwrap();
    }
}

/// What the linac would send while it delivers.
fn icom(delivery: &Delivery) -> Delivery {
    // On the wire: pairs from the other end, bank A before bank B, cm.
    let message = |at: usize| {
        let tips = delivery.mlc_at(at).unwrap().rchunks_exact(2);
        let jaw = delivery.jaw_at(at).unwrap();
        let message = Message {
            linac_time: time(i64::try_from(at).unwrap()),
            counter: u8::try_from(at).unwrap(),
            meterset_mu: Some(delivery.meterset_mu()[at]),
            gantry_deg: delivery.gantry_bipolar_deg()[at],
            collimator_deg: delivery.collimator_bipolar_deg()[at],
            leaves_cm: tips.flat_map(|tips| [-tips[1] / 10.0, tips[0] / 10.0]).collect(),
            asymy_cm: [jaw[1] / 10.0, jaw[0] / 10.0],
            ..Message::example()
        };
        message.encode()
    };
    let bytes: Vec<u8> = (0..delivery.n_cp()).flat_map(message).collect();
    icom_core::delivery::from_icom(&bytes, icom_core::delivery::Rules::Complete).unwrap()
}

#[tokio::test]
async fn plan_mosaiq_log_and_icom_are_one_delivery() {
    let planned = made::sliding_window(30, -100.0, 2.0, 2.0);
    let plan = RtPlan::from_bytes(&made::plan(&[(1, &planned)], &["ASYMY"])).unwrap();
    let from_plan = plan.beams(&plan.fraction_group(None).unwrap(), Scope::Full).unwrap().remove(0).delivery;
    let rows = mosaiq_tables();
    insert_field(&rows, 7, &planned);
    let tds = TdsServer::start(rows, login());
    let from_mosaiq =
        Mosaiq::connect(server(&tds)).await.unwrap().field(7).await.unwrap().delivery().unwrap();
    let record = Record::from_bytes(made::record(&[&planned], Version::V3)).unwrap();
    let from_log = Delivery::from_record(&record, MetersetSource::RawCounter).unwrap();
    let from_icom = icom(&planned);

    let grid = Options { resolution_mm: 5.0, ..Options::default() };
    let map = |delivery: &Delivery| MetersetMap::new(delivery, &grid).unwrap();
    let reference = map(&from_plan);
    for (source, delivery) in [("Mosaiq", &from_mosaiq), ("log", &from_log), ("iCom", &from_icom)] {
        assert_eq!(delivery.n_pairs(), 80, "{source}");
        assert!(
            (delivery.total_mu() - from_plan.total_mu()).abs() < 0.05,
            "{source}: {}",
            delivery.total_mu()
        );
        let map = map(delivery);
        let worst = reference.mu().iter().zip(map.mu()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let gamma = Gamma::new(Plane::from(&reference), Plane::from(&map), &Criteria::default()).unwrap();
        println!("plan against {source}: worst pixel {worst:.4} MU, gamma {:?} %", gamma.pass_rate_percent());
        assert!(worst < 0.15, "{source}: {worst} MU");
        assert_eq!(gamma.pass_rate_percent(), Some(100.0), "{source}");
    }
    // Positions themselves, where control points are the same.
    assert_eq!(from_mosaiq.n_cp(), from_plan.n_cp());
    let close =
        |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3);
    assert!(close(from_mosaiq.mlc_mm(), from_plan.mlc_mm()));
    assert!(close(from_mosaiq.jaw_mm(), from_plan.jaw_mm()));
    assert!(close(from_mosaiq.gantry_bipolar_deg(), from_plan.gantry_bipolar_deg()));
    assert!(close(from_mosaiq.meterset_mu(), from_plan.meterset_mu()));
}
