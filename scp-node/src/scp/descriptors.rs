//! How many descriptors (open files, sockets) this process may have, and how the receiver shares them out.
//!
//! A connection that says nothing costs its sender nothing and us a descriptor. So those that are not admitted yet get a
//! bounded part, and what an admitted association needs is never theirs to take.

/// An association: its socket; epoll (twice), eventfd and the signals' socket of its runtime; the object's file; and two
/// while that is filed (a directory that is synced, a file that is compared). Source: `/proc/<pid>/fd` under load.
const PER_ASSOCIATION: usize = 8;
/// The rest of the service: some twenty for itself and the catalog, 64 of the status page, [`OUTSIDE_MAX`], and those of
/// iCom, records and fetches.
const REST: usize = 256;
/// Connections that may wait for their association at once. Justification: 4 KiB each; more are a flood.
const WAITING_MAX: usize = 1024;
/// Connections from outside the networks that may wait for their rejection at once.
pub(super) const OUTSIDE_MAX: usize = 16;
/// What the limit is raised to at most. Justification: thousands of associations; programs that we start inherit it, and
/// some close each possible descriptor one by one.
#[cfg(target_os = "linux")]
const RAISED_MAX: u64 = 65_536;

/// How many connections the receiver may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shares {
    /// Admitted associations.
    pub associations: usize,
    /// Connections that wait for their association.
    pub waiting: usize,
}

impl Shares {
    /// # Arguments
    /// * `limit` — descriptors of this process; `None` where there is no such limit
    /// * `associations` — how many the settings allow
    pub(super) fn of(limit: Option<usize>, associations: usize) -> Self {
        let Some(limit) = limit else { return Self { associations, waiting: WAITING_MAX } };
        let waiting = WAITING_MAX.min(limit / 4);
        let rest = REST.min(limit / 4);
        let most = (limit - waiting - rest) / PER_ASSOCIATION;
        Self { associations: associations.min(most).max(1), waiting: waiting.max(1) }
    }
}

/// Raises the soft limit of descriptors to the hard one: 1024, the usual soft limit, is a promise to programs that call
/// `select`, and this one does not. For the service only; a process that we are a guest in has limits of its own.
#[cfg(target_os = "linux")]
pub fn raise_descriptor_limit() {
    let Some(current) = system::limit() else { return };
    let wanted = current.rlim_max.min(RAISED_MAX);
    if current.rlim_cur < wanted && !system::set(libc::rlimit { rlim_cur: wanted, ..current }) {
        tracing::debug!(wanted, "the limit of descriptors could not be raised");
    }
}

/// Windows has no such limit; other systems' is left as it is.
#[cfg(not(target_os = "linux"))]
pub fn raise_descriptor_limit() {}

/// The limit in force.
#[cfg(target_os = "linux")]
pub(super) fn limit() -> Option<usize> {
    system::limit().map(|limit| usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX))
}

/// Windows has none; other systems' is not asked.
#[cfg(not(target_os = "linux"))]
pub(super) fn limit() -> Option<usize> {
    None
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no safe wrapper of getrlimit and setrlimit among our dependencies")]
mod system {
    pub(super) fn limit() -> Option<libc::rlimit> {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: writes one rlimit to where `limit` is.
        (unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0).then_some(limit)
    }

    pub(super) fn set(limit: libc::rlimit) -> bool {
        // SAFETY: reads one rlimit from where `limit` is.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_usual_limit_is_enough_for_the_usual_settings() {
        assert_eq!(Shares::of(Some(1024), 64), Shares { associations: 64, waiting: 256 });
        assert_eq!(Shares::of(Some(65_536), 64), Shares { associations: 64, waiting: 1024 });
        assert_eq!(Shares::of(None, 64), Shares { associations: 64, waiting: 1024 });
    }

    proptest! {
        #[test]
        fn all_shares_together_stay_below_the_limit(limit in 64usize..1 << 40, wanted in 1usize..1 << 40) {
            let shares = Shares::of(Some(limit), wanted);
            prop_assert!(shares.associations >= 1 && shares.associations <= wanted && shares.waiting >= 1);
            let rest = REST.min(limit / 4);
            prop_assert!(shares.associations * PER_ASSOCIATION + shares.waiting + rest <= limit);
        }
    }
}
