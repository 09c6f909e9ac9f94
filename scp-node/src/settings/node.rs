//! `[node]`: our own application entity, who may talk to it, and how long anyone may take.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{seconds, wrong};
use crate::error::Result;
use crate::names::AeTitle;

/// `[node]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSettings {
    /// Our AE title: what the archive's list of trusted application entities must hold.
    pub ae_title: AeTitle,
    /// Address to listen on; `0.0.0.0` is every IPv4 interface.
    pub bind: IpAddr,
    /// Port to listen on; 0 lets the system choose.
    pub port: u16,
    /// Who may connect and what may be stored.
    pub access: AccessSettings,
    /// How much anyone may use.
    pub limits: LimitSettings,
    /// How long anyone may take.
    pub timeouts: TimeoutSettings,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            #[expect(
                clippy::expect_used,
                reason = "a constant that is a legal AE title; a test builds the default"
            )]
            ae_title: AeTitle::new("SCP_NODE").expect("a legal AE title"),
            bind: IpAddr::from([0, 0, 0, 0]),
            port: 11112,
            access: AccessSettings::default(),
            limits: LimitSettings::default(),
            timeouts: TimeoutSettings::default(),
        }
    }
}

/// `[node.access]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessSettings {
    /// Whether the called AE title must be ours.
    pub check_called_ae: bool,
    /// Calling AE titles that may associate, with `*` and `?`.
    pub calling_ae: Vec<String>,
    /// Networks that may connect, as `10.1.0.0/16` or a single address; empty means all.
    pub networks: Vec<Network>,
    /// Patient IDs whose objects are taken, with `*` and `?`.
    pub patients: Vec<String>,
}

impl Default for AccessSettings {
    fn default() -> Self {
        Self {
            check_called_ae: true,
            calling_ae: vec!["*".into()],
            networks: Vec::new(),
            patients: vec!["*".into()],
        }
    }
}

/// `[node.limits]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Associations at once, in all.
    pub associations: usize,
    /// Associations at once from one address.
    pub associations_per_peer: usize,
    /// Longest PDU that we take, bytes; announced in the negotiation and enforced. PS3.8 §D.1.
    pub pdu_length: u32,
    /// Largest object, bytes.
    pub object_bytes: u64,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self { associations: 64, associations_per_peer: 32, pdu_length: 256 * 1024, object_bytes: 4 << 30 }
    }
}

/// `[node.timeouts]`, seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutSettings {
    /// From connect to a whole A-ASSOCIATE-RQ: PS3.8's ARTIM timer.
    pub association_s: f64,
    /// How long a peer may keep us waiting inside a command or a data set; time comes back with the bytes, a second for
    /// each KiB.
    pub pdu_s: f64,
    /// Between two messages.
    pub idle_s: f64,
    /// How long running transfers may go on after a stop was asked for.
    pub drain_s: f64,
}

impl Default for TimeoutSettings {
    fn default() -> Self {
        Self { association_s: 10.0, pdu_s: 60.0, idle_s: 300.0, drain_s: 10.0 }
    }
}

impl NodeSettings {
    pub(super) fn check(&self) -> Result<()> {
        let l = &self.limits;
        for (key, allowed) in
            [("associations", l.associations), ("associations_per_peer", l.associations_per_peer)]
        {
            if allowed == 0 {
                let what = "at least 1 association must be allowed".into();
                return Err(wrong(&format!("node.limits.{key}"), what));
            }
        }
        // PS3.8 lets any length be announced; dicom-ul reads none under 4 KiB, and no sender gains by more than 16 MiB.
        if !(4096..=16 << 20).contains(&l.pdu_length) {
            return Err(wrong(
                "node.limits.pdu_length",
                format!("{} is not between 4096 and 16777216", l.pdu_length),
            ));
        }
        let t = &self.timeouts;
        for (key, value) in [
            ("association_s", t.association_s),
            ("pdu_s", t.pdu_s),
            ("idle_s", t.idle_s),
            ("drain_s", t.drain_s),
        ] {
            seconds(&format!("node.timeouts.{key}"), value)?;
        }
        Ok(())
    }
}

/// An IP network in CIDR notation. IPv4 in IPv6 notation (`::ffff:10.0.0.0/104`) is kept as the IPv4 network that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    /// Never an IPv4 address in IPv6 notation.
    address: IpAddr,
    /// At most the bits of the address.
    prefix: u8,
}

/// How many bits of an IPv4 address in IPv6 notation come before the address. Source: RFC 4291 §2.5.5.2.
const MAPPED_BITS: u8 = 96;

impl Network {
    /// Whether the address lies in the network; IPv4 addresses mapped into IPv6 count as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                a.to_bits() & mask == b.to_bits() & mask
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                a.to_bits() & mask == b.to_bits() & mask
            }
            _ => false,
        }
    }
}

impl TryFrom<String> for Network {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no network such as 10.1.0.0/16");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text.as_str(), None),
        };
        let address: IpAddr = address.trim().parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix: u8 = prefix.map_or(Ok(most), |p| p.trim().parse().map_err(|_| wrong()))?;
        let (canonical, before) = match address.to_canonical() {
            v4 @ IpAddr::V4(_) if address.is_ipv6() => (v4, MAPPED_BITS),
            same => (same, 0),
        };
        // A shorter prefix of a mapped address would hold more than IPv4, which cannot be what was meant.
        let bits = prefix.checked_sub(before).filter(|_| prefix <= most).ok_or_else(wrong)?;
        Ok(Self { address: canonical, prefix: bits })
    }
}

impl From<Network> for String {
    fn from(n: Network) -> Self {
        format!("{}/{}", n.address, n.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        let network = |t: &str| Network::try_from(t.to_owned());
        let v4 = |t: &str| t.parse::<IpAddr>().unwrap();
        assert!(network("10.1.0.0/16").unwrap().contains(v4("10.1.255.3")));
        assert!(!network("10.1.0.0/16").unwrap().contains(v4("10.2.0.0")));
        assert!(network("0.0.0.0/0").unwrap().contains(v4("8.8.8.8")));
        assert!(network("10.1.2.3").unwrap().contains(v4("::ffff:10.1.2.3")));
        assert!(network("fd00::/8").unwrap().contains(v4("fd12::1")));
        for bad in ["10.1.0.0/33", "10.1/16", "x", "::/129", "10.0.0.0/-1", "10.0.0.0/256", ""] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_ipv4_network_in_ipv6_notation_is_that_ipv4_network() {
        let network = |t: &str| Network::try_from(t.to_owned());
        let ip = |t: &str| t.parse::<IpAddr>().unwrap();
        for text in ["::ffff:10.0.0.0/104", "::ffff:a00:0/104", "10.0.0.0/8"] {
            let ten = network(text).unwrap();
            assert_eq!(String::from(ten), "10.0.0.0/8", "{text}");
            assert!(ten.contains(ip("10.200.3.4")) && ten.contains(ip("::ffff:10.200.3.4")), "{text}");
            assert!(!ten.contains(ip("11.0.0.0")) && !ten.contains(ip("::ffff:11.0.0.0")), "{text}");
            assert!(!ten.contains(ip("fd00::a00:0")), "{text}");
        }
        assert_eq!(network("::ffff:10.1.2.3").unwrap(), network("10.1.2.3/32").unwrap());
        assert!(network("::ffff:0.0.0.0/96").unwrap().contains(ip("8.8.8.8")));
        // Shorter, it would hold more than IPv4: what is meant cannot be told.
        for bad in ["::ffff:10.0.0.0/95", "::ffff:10.0.0.0/8", "::ffff:10.0.0.0/129"] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_network_that_is_read_can_be_asked_about_every_address() {
        let ip = |t: &str| t.parse::<IpAddr>().unwrap();
        let others = ["255.255.255.255", "0.0.0.0", "::", "ffff::ffff", "::ffff:255.0.0.0"].map(ip);
        for address in ["0.0.0.0", "10.1.2.3", "::", "::1", "::ffff:10.1.2.3", "::ffff:0:0", "fd00::1"] {
            for prefix in 0..=130 {
                let Ok(network) = Network::try_from(format!("{address}/{prefix}")) else { continue };
                assert!(network.contains(ip(address)), "{address}/{prefix}");
                for other in others {
                    let same_kind = network.address.is_ipv4() == other.to_canonical().is_ipv4();
                    assert!(same_kind || !network.contains(other), "{address}/{prefix} {other}");
                    assert!(prefix > 0 || same_kind == network.contains(other), "{address}/{prefix} {other}");
                }
            }
        }
    }
}
