//! Connections that wait for their association: a bounded number, and no address takes the places of all.
//!
//! Who comes last has the best claim, because an honest peer says at once what it wants: where there is no place left, the
//! oldest of the same address gives way, or the oldest of the address that holds most. So a flood pushes out itself.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// One address may hold a quarter of the places.
const ADDRESSES_TO_FILL_IT: usize = 4;

/// The places.
#[derive(Debug)]
pub(super) struct WaitingRoom {
    most: usize,
    most_of_one: usize,
    guests: Mutex<Guests>,
    places: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Guests {
    /// In the order in which they came; who was asked to leave is no longer among them.
    here: VecDeque<Guest>,
    last: u64,
}

#[derive(Debug)]
struct Guest {
    number: u64,
    peer: IpAddr,
    leave: CancellationToken,
}

/// A connection's place, given back when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    room: Arc<WaitingRoom>,
    number: u64,
    leave: CancellationToken,
    _place: Option<OwnedSemaphorePermit>,
}

impl WaitingRoom {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            most_of_one: (most / ADDRESSES_TO_FILL_IT).max(1),
            guests: Mutex::default(),
            places: Arc::new(Semaphore::new(most)),
        })
    }

    /// A place; while all are taken, waits until the one who was asked to leave has left.
    pub(super) async fn enter(self: &Arc<Self>, peer: IpAddr) -> Seat {
        if let Some(oldest) = self.guests().make_room(peer, self.most, self.most_of_one) {
            oldest.leave.cancel();
        }
        // The semaphore is never closed.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let leave = CancellationToken::new();
        let mut guests = self.guests();
        guests.last += 1;
        let number = guests.last;
        guests.here.push_back(Guest { number, peer, leave: leave.clone() });
        Seat { room: Arc::clone(self), number, leave, _place: place }
    }

    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guests {
    /// Takes out who must give way to one more of this address.
    fn make_room(&mut self, peer: IpAddr, most: usize, most_of_one: usize) -> Option<Guest> {
        let from = if self.here.iter().filter(|guest| guest.peer == peer).count() >= most_of_one {
            peer
        } else if self.here.len() >= most {
            self.largest()?
        } else {
            return None;
        };
        let at = self.here.iter().position(|guest| guest.peer == from)?;
        self.here.remove(at)
    }

    /// The address with the most guests; among equals the one whose guest is the oldest.
    fn largest(&self) -> Option<IpAddr> {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for guest in &self.here {
            *counts.entry(guest.peer).or_default() += 1;
        }
        let most = counts.values().copied().max()?;
        self.here.iter().map(|guest| guest.peer).find(|peer| counts.get(peer) == Some(&most))
    }
}

impl Seat {
    /// Waits until another one needs the place.
    pub(super) async fn asked_to_leave(&self) {
        self.leave.cancelled().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.room.guests().here.retain(|guest| guest.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    async fn enter(room: &Arc<WaitingRoom>, n: u8) -> Seat {
        tokio::time::timeout(Duration::from_secs(20), room.enter(address(n))).await.unwrap()
    }

    #[tokio::test]
    async fn one_address_pushes_out_its_own_oldest() {
        let room = WaitingRoom::new(8);
        let other = enter(&room, 1).await;
        let (first, second) = (enter(&room, 2).await, enter(&room, 2).await);
        let third = enter(&room, 2).await;
        assert!(first.leave.is_cancelled());
        assert!(![&other, &second, &third].iter().any(|seat| seat.leave.is_cancelled()));
    }

    #[tokio::test]
    async fn in_a_full_room_the_address_with_the_most_gives_way() {
        let room = WaitingRoom::new(8);
        let single = enter(&room, 1).await;
        let mut many = Vec::new();
        for n in [2, 2, 3, 3, 4, 4, 5] {
            many.push(enter(&room, n).await);
        }
        let (coming, ()) = tokio::join!(enter(&room, 6), async {
            many.first().unwrap().asked_to_leave().await;
            drop(many.remove(0));
        });
        assert!(!single.leave.is_cancelled() && !coming.leave.is_cancelled());
        assert!(!many.iter().any(|seat| seat.leave.is_cancelled()));
    }

    #[tokio::test]
    async fn never_more_than_the_room_holds_and_nobody_is_asked_for_a_place_that_becomes_free() {
        let room = WaitingRoom::new(1);
        let first = enter(&room, 1).await;
        {
            let coming = room.enter(address(2));
            tokio::pin!(coming);
            let early = tokio::time::timeout(Duration::ZERO, coming.as_mut()).await;
            assert!(early.is_err() && first.leave.is_cancelled());
            drop(first);
            let second = coming.await;
            assert!(!second.leave.is_cancelled());
        }
        assert!(room.guests().here.is_empty());
        let third = enter(&room, 1).await;
        assert!(!third.leave.is_cancelled());
    }
}
