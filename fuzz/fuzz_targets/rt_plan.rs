//! Any bytes as an RT Plan: no panic, deliveries within their rules, and a plan that we write reads back as it was meant.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trf_core::rtplan::{Identity, RtPlan, Scope, WriteOptions};
use trf_core::{Delivery, MetersetMap, metersetmap};

fuzz_target!(|bytes: &[u8]| {
    let Ok(plan) = RtPlan::from_bytes(bytes) else { return };
    let Ok(groups) = plan.fraction_groups() else { return };
    let again = plan.to_bytes().ok().map(|bytes| RtPlan::from_bytes(&bytes).expect("what we write we can read"));
    for group in groups {
        let Ok(delivery) = plan.delivery(Some(group.number), Scope::Full) else { continue };
        if let Ok(compatible) = plan.delivery(Some(group.number), Scope::Compatible) {
            assert_eq!(compatible.meterset_mu(), delivery.meterset_mu());
        }
        if let Some(again) = &again {
            let reread = again.delivery(Some(group.number), Scope::Full);
            assert_eq!(reread.as_ref().ok(), Some(&delivery), "a plan changed by being written");
        }
        if delivery.n_cp() <= 100 {
            let _ = MetersetMap::new(&delivery, &metersetmap::Options::with_resolution(5.0));
        }
        written(&plan, group.number, &delivery);
    }
});

/// The plan of a delivery says what was delivered.
fn written(plan: &RtPlan, group: i32, delivery: &Delivery) {
    for identity in [Identity::Keep, WriteOptions::default().identity] {
        let options = WriteOptions { identity, ..WriteOptions::default() };
        let Ok(plan) = plan.with_delivery(delivery, Some(group), &options) else { continue };
        let Ok(bytes) = plan.to_bytes() else { continue };
        let reread = RtPlan::from_bytes(&bytes).expect("what we write we can read");
        let reread = reread.delivery(Some(group), Scope::Full).expect("a plan that we wrote has a delivery");
        assert_eq!(reread.n_cp(), delivery.filter().n_cp());
        assert_eq!(Ok(&reread), plan.delivery(Some(group), Scope::Full).as_ref().map_err(ToString::to_string));
    }
}
