//! Who may come in: how many peers that have not proved who they are, from where, and a way that stays open for the
//! pusher while others crowd the door. It decides; it neither accepts nor closes by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::config::settings::Limits;

/// The door, for all listeners together.
#[derive(Debug)]
pub struct Gate {
    most: usize,
    startups: usize,
    for_each: usize,
    crowd: Mutex<Crowd>,
}

#[derive(Debug, Default)]
struct Crowd {
    next: u64,
    /// Not authenticated yet, oldest first.
    strangers: BTreeMap<u64, Stranger>,
    known: usize,
    favoured: BTreeSet<IpAddr>,
    /// Where the last one came from that authenticated.
    last: Option<IpAddr>,
    /// Peers turned away or pushed out since it was last said.
    unsaid: u64,
}

#[derive(Debug)]
struct Stranger {
    from: IpAddr,
    cut: CancellationToken,
}

/// Why a peer is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// As many connections are open as may be.
    Connections,
    /// Its address has too many that have not authenticated.
    Address,
}

/// A place inside, as long as it lives.
#[derive(Debug)]
pub struct Place {
    gate: Arc<Gate>,
    id: u64,
    from: IpAddr,
    known: AtomicBool,
}

impl Gate {
    /// A door with these limits.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let favoured = limits.pusher_addresses.iter().map(IpAddr::to_canonical).collect();
        Self {
            most: size(limits.max_connections),
            startups: size(limits.max_startups),
            for_each: size(limits.max_startups_per_address),
            crowd: Mutex::new(Crowd { favoured, ..Crowd::default() }),
        }
    }

    /// Lets a peer in, if need be in the place of the stranger that has been here longest: whoever is honest needs
    /// moments, whoever is not stays as long as he can. `cut` ends its connection.
    ///
    /// # Errors
    /// See [`Full`].
    pub fn enter(self: &Arc<Self>, from: IpAddr, cut: CancellationToken) -> Result<Place, Full> {
        let from = from.to_canonical();
        let mut crowd = self.crowd();
        let favoured = crowd.is_favoured(from);
        let same = crowd.strangers.values().filter(|stranger| group(stranger.from) == group(from)).count();
        if !favoured && same >= self.for_each {
            crowd.unsaid += 1;
            return Err(Full::Address);
        }
        if crowd.known >= self.most || (favoured && same >= self.most) {
            crowd.unsaid += 1;
            return Err(Full::Connections);
        }
        if !favoured {
            let others = |crowd: &Crowd| -> Vec<u64> {
                let all = crowd.strangers.iter();
                all.filter(|(_, stranger)| !crowd.is_favoured(stranger.from)).map(|(id, _)| *id).collect()
            };
            let waiting = others(&crowd);
            if waiting.len() >= self.startups
                && let Some(oldest) = waiting.first().and_then(|id| crowd.strangers.remove(id))
            {
                crowd.unsaid += 1;
                oldest.cut.cancel();
            }
        }
        let id = crowd.next;
        crowd.next += 1;
        crowd.strangers.insert(id, Stranger { from, cut });
        Ok(Place { gate: Arc::clone(self), id, from, known: AtomicBool::new(false) })
    }

    /// How many were turned away or pushed out since this was last asked.
    #[must_use]
    pub fn turned_away(&self) -> u64 {
        std::mem::take(&mut self.crowd().unsaid)
    }

    fn crowd(&self) -> MutexGuard<'_, Crowd> {
        self.crowd.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Crowd {
    fn is_favoured(&self, from: IpAddr) -> bool {
        self.favoured.contains(&from) || (self.favoured.is_empty() && self.last == Some(from))
    }
}

impl Place {
    /// The peer has proved who it is.
    pub fn authenticated(&self) {
        let mut crowd = self.gate.crowd();
        if crowd.strangers.remove(&self.id).is_some() {
            crowd.known += 1;
            crowd.last = Some(self.from);
            self.known.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut crowd = self.gate.crowd();
        crowd.strangers.remove(&self.id);
        if self.known.load(Ordering::Relaxed) {
            crowd.known = crowd.known.saturating_sub(1);
        }
    }
}

/// What counts as one address: whoever has one of IPv6 has a whole /64.
fn group(from: IpAddr) -> [u8; 16] {
    match from {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => (u128::from(v6) >> 64 << 64).to_be_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn gate(favoured: &[&str]) -> Arc<Gate> {
        let second = Duration::from_secs(1);
        Arc::new(Gate::new(&Limits {
            login_grace_time: second,
            idle_timeout: second,
            session_timeout: second,
            max_connections: 4,
            max_startups: 3,
            max_startups_per_address: 2,
            pusher_addresses: favoured.iter().map(|address| address.parse().unwrap()).collect(),
            max_handles: 1,
            max_lineages: 1,
            max_packet: 1,
            receipt_wait: second,
            drain_timeout: second,
        }))
    }

    fn enter(gate: &Arc<Gate>, from: &str) -> Result<(Place, CancellationToken), Full> {
        let cut = CancellationToken::new();
        gate.enter(from.parse().unwrap(), cut.clone()).map(|place| (place, cut))
    }

    #[test]
    fn one_address_may_not_fill_the_door_and_the_oldest_stranger_goes() {
        let gate = gate(&[]);
        let first = enter(&gate, "10.0.0.1").unwrap();
        let second = enter(&gate, "10.0.0.1").unwrap();
        assert_eq!(enter(&gate, "10.0.0.1").unwrap_err(), Full::Address);
        assert_eq!(enter(&gate, "::ffff:10.0.0.1").unwrap_err(), Full::Address);
        let _third = enter(&gate, "2001:db8::1").unwrap();
        let _fourth = enter(&gate, "2001:db8::2").unwrap();
        assert!(first.1.is_cancelled() && !second.1.is_cancelled());
        assert_eq!(enter(&gate, "2001:db8::3").unwrap_err(), Full::Address, "one /64");
        assert_eq!(gate.turned_away(), 4);
        drop(first);
        drop(second);
        let _again = enter(&gate, "10.0.0.1").unwrap();
    }

    #[test]
    fn who_authenticated_last_or_is_named_gets_in_whatever_the_crowd() {
        for gate in [gate(&[]), gate(&["10.0.0.9"])] {
            let pusher = enter(&gate, "10.0.0.9").unwrap();
            pusher.0.authenticated();
            drop(pusher);
            let crowd: Vec<_> = (1..9).filter_map(|n| enter(&gate, &format!("10.0.{n}.1")).ok()).collect();
            let places: Vec<_> = (0..4).map(|_| enter(&gate, "10.0.0.9").unwrap()).collect();
            assert_eq!(enter(&gate, "10.0.0.9").unwrap_err(), Full::Connections);
            assert!(places.iter().all(|(_, cut)| !cut.is_cancelled()));
            assert_eq!(crowd.iter().filter(|(_, cut)| !cut.is_cancelled()).count(), 3);
            places.iter().for_each(|(place, _)| place.authenticated());
            assert_eq!(enter(&gate, "10.0.7.7").unwrap_err(), Full::Connections);
            drop(places);
            assert!(enter(&gate, "10.0.7.7").is_ok());
        }
        // Named addresses are all that is favoured.
        let gate = gate(&["10.0.0.9"]);
        enter(&gate, "10.0.0.8").unwrap().0.authenticated();
        let _two = [enter(&gate, "10.0.0.8").unwrap(), enter(&gate, "10.0.0.8").unwrap()];
        assert_eq!(enter(&gate, "10.0.0.8").unwrap_err(), Full::Address);
    }
}
