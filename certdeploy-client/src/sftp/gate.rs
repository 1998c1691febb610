//! Who may come in: how many peers that have not proved who they are, from where, and a way that stays open for the
//! pusher while others crowd the door. It decides; it neither accepts nor closes by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::config::sftpd::Limits;

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
    /// Authenticated, oldest first.
    known: BTreeMap<u64, Known>,
    favoured: BTreeSet<IpAddr>,
    /// Where the last one came from that authenticated.
    last: Option<IpAddr>,
    /// Peers pushed out since it was last said.
    unsaid: u64,
}

#[derive(Debug)]
struct Stranger {
    from: IpAddr,
    /// It has begun the key exchange, which a peer that only crowds the door does not.
    begun: bool,
    cut: CancellationToken,
}

#[derive(Debug)]
struct Known {
    /// Which of the pushers.
    pusher: usize,
    cut: CancellationToken,
}

/// A place inside, as long as it lives.
#[derive(Debug)]
pub struct Place {
    gate: Arc<Gate>,
    id: u64,
    from: IpAddr,
}

impl Gate {
    /// A door with these limits, in a process that may have so many descriptors.
    #[must_use]
    pub fn new(limits: &Limits, descriptors: usize) -> Self {
        let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let favoured = limits.pusher_addresses.iter().map(IpAddr::to_canonical).collect();
        Self {
            most: size(limits.max_connections),
            // The rest is for whoever has a name.
            startups: size(limits.max_startups).min(descriptors / 3).max(1),
            for_each: size(limits.max_startups_per_address),
            crowd: Mutex::new(Crowd { favoured, ..Crowd::default() }),
        }
    }

    /// Lets a peer in, if need be in the place of the stranger that has been here longest, of its own address before
    /// others: whoever is honest needs moments, whoever is not stays as long as he can. To turn away who comes last would
    /// let a few that stay keep out everybody behind the same address. `cut` ends its connection.
    #[must_use]
    pub fn enter(self: &Arc<Self>, from: IpAddr, cut: CancellationToken) -> Place {
        let from = from.to_canonical();
        let mut crowd = self.crowd();
        self.make_way(&mut crowd, from, false);
        let id = crowd.next;
        crowd.next += 1;
        crowd.strangers.insert(id, Stranger { from, begun: false, cut });
        Place { gate: Arc::clone(self), id, from }
    }

    /// Makes the stranger leave that has been here longest, those that have begun after the others and the pusher's
    /// address last: there are no descriptors left.
    pub fn make_room(&self) {
        let mut crowd = self.crowd();
        let _ = crowd.push_out(1, |crowd, stranger| !stranger.begun && !crowd.is_favoured(stranger.from))
            || crowd.push_out(1, |crowd, stranger| !crowd.is_favoured(stranger.from))
            || crowd.push_out(1, |_, _| true);
    }

    /// How many were pushed out since this was last asked.
    #[must_use]
    pub fn turned_away(&self) -> u64 {
        std::mem::take(&mut self.crowd().unsaid)
    }

    /// Makes way for one more stranger from there that has begun, or has not, among those of its kind.
    fn make_way(&self, crowd: &mut Crowd, from: IpAddr, begun: bool) {
        let favoured = crowd.is_favoured(from);
        let of_one = if favoured { self.most } else { self.for_each };
        crowd.push_out(of_one, |_, stranger| stranger.begun == begun && group(stranger.from) == group(from));
        if !favoured {
            crowd.push_out(self.startups, |crowd, stranger| {
                stranger.begun == begun && !crowd.is_favoured(stranger.from)
            });
        }
    }

    fn crowd(&self) -> MutexGuard<'_, Crowd> {
        self.crowd.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Crowd {
    fn is_favoured(&self, from: IpAddr) -> bool {
        self.favoured.contains(&from) || (self.favoured.is_empty() && self.last == Some(from))
    }

    /// Makes the oldest of some strangers leave if there are `most` of them; whether it did.
    fn push_out(&mut self, most: usize, of: impl Fn(&Self, &Stranger) -> bool) -> bool {
        let some: Vec<u64> =
            self.strangers.iter().filter(|(_, stranger)| of(self, stranger)).map(|(id, _)| *id).collect();
        if some.len() < most {
            return false;
        }
        let Some(oldest) = some.first().and_then(|id| self.strangers.remove(id)) else { return false };
        self.unsaid += 1;
        oldest.cut.cancel();
        true
    }

    /// Makes room for one more of `pusher` among `most`, at the cost of whoever has more; whether there is any.
    fn room(&mut self, pusher: usize, most: usize) -> bool {
        if self.known.len() < most {
            return true;
        }
        let mut counts = BTreeMap::<usize, usize>::new();
        self.known.values().for_each(|known| *counts.entry(known.pusher).or_default() += 1);
        let own = counts.get(&pusher).copied().unwrap_or_default();
        let Some((greedy, _)) = counts.into_iter().max_by_key(|(_, count)| *count).filter(|(_, count)| *count > own)
        else {
            return false;
        };
        let oldest = self.known.iter().find(|(_, known)| known.pusher == greedy).map(|(id, _)| *id);
        if let Some(known) = oldest.and_then(|id| self.known.remove(&id)) {
            known.cut.cancel();
        }
        true
    }
}

impl Place {
    /// The peer has begun the key exchange: it is now among those, of whom there may be as many as of the others, and a
    /// crowd that does not go as far cannot push it out any more.
    pub fn begun(&self) {
        let mut crowd = self.gate.crowd();
        if !crowd.strangers.contains_key(&self.id) {
            return;
        }
        self.gate.make_way(&mut crowd, self.from, true);
        if let Some(stranger) = crowd.strangers.get_mut(&self.id) {
            stranger.begun = true;
        }
    }

    /// The peer has proved that it is this pusher. When there are too many connections, one of the pusher that has most
    /// of them is ended, if need be this one.
    pub fn authenticated(&self, pusher: usize) {
        let mut crowd = self.gate.crowd();
        let Some(Stranger { cut, .. }) = crowd.strangers.remove(&self.id) else { return };
        crowd.last = Some(self.from);
        if !crowd.room(pusher, self.gate.most) {
            crowd.unsaid += 1;
            cut.cancel();
            return;
        }
        crowd.known.insert(self.id, Known { pusher, cut });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut crowd = self.gate.crowd();
        crowd.strangers.remove(&self.id);
        crowd.known.remove(&self.id);
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
        let limits = Limits {
            login_grace_time: second,
            idle_timeout: second,
            session_timeout: second,
            max_connections: 4,
            max_startups: 3,
            max_startups_per_address: 2,
            pusher_addresses: favoured.iter().map(|address| address.parse().unwrap()).collect(),
            max_handles: 1,
            max_lineages: 1,
            max_upload: 1,
            max_packet: 1,
            receipt_wait: second,
            drain_timeout: second,
        };
        Arc::new(Gate::new(&limits, 1000))
    }

    fn enter(gate: &Arc<Gate>, from: &str) -> (Place, CancellationToken) {
        let cut = CancellationToken::new();
        (gate.enter(from.parse().unwrap(), cut.clone()), cut)
    }

    fn gone(all: &[(Place, CancellationToken)]) -> Vec<bool> {
        all.iter().map(|(_, cut)| cut.is_cancelled()).collect()
    }

    #[test]
    fn one_more_of_an_address_or_of_all_takes_the_place_of_the_oldest() {
        let gate = gate(&[]);
        let same = ["10.0.0.1", "10.0.0.1", "::ffff:10.0.0.1"].map(|from| enter(&gate, from));
        assert_eq!(gone(&same), [true, false, false], "of one address two, and the newest stays");
        let others = ["2001:db8::1", "2001:db8::2", "2001:db8::3"].map(|from| enter(&gate, from));
        assert_eq!(gone(&others), [true, false, false], "one /64");
        assert_eq!(gone(&same), [true, true, false], "three in all");
        assert_eq!(gate.turned_away(), 3);
        assert_eq!(gate.turned_away(), 0);
    }

    #[test]
    fn who_has_begun_makes_way_for_its_like_only() {
        let gate = gate(&[]);
        let early = enter(&gate, "10.0.0.1");
        early.0.begun();
        let silent: Vec<_> = (1..9).map(|n| enter(&gate, &format!("10.0.{n}.1"))).collect();
        assert_eq!(gone(&silent), [true, true, true, true, true, false, false, false]);
        assert!(!early.1.is_cancelled());
        let like: Vec<_> = (1..4)
            .map(|n| {
                let like = enter(&gate, &format!("10.1.{n}.1"));
                like.0.begun();
                assert_eq!(early.1.is_cancelled(), n == 3, "{n} more have begun");
                like
            })
            .collect();
        assert_eq!(gone(&like), [false; 3]);
        let neighbours = [(); 5].map(|()| enter(&gate, "10.1.3.1"));
        assert_eq!(gone(&neighbours), [true, true, true, false, false], "two of an address that have not begun");
        let newest = enter(&gate, "10.2.0.1");
        assert_eq!((gone(&like), newest.1.is_cancelled()), (vec![false; 3], false), "whoever has not, still gets in");
    }

    #[test]
    fn who_authenticated_last_or_is_named_is_pushed_out_by_its_own_address_only() {
        for gate in [gate(&[]), gate(&["10.0.0.9"])] {
            let pusher = enter(&gate, "10.0.0.9");
            pusher.0.authenticated(0);
            drop(pusher);
            let places: Vec<_> = (0..4).map(|_| enter(&gate, "10.0.0.9")).collect();
            let crowd: Vec<_> = (1..9).map(|n| enter(&gate, &format!("10.0.{n}.1"))).collect();
            assert_eq!(gone(&places), [false; 4]);
            assert_eq!(gone(&crowd).iter().filter(|gone| !**gone).count(), 3);
            let newest = enter(&gate, "10.0.0.9");
            assert_eq!(gone(&places), [true, false, false, false]);
            assert!(!newest.1.is_cancelled());
        }
        // Named addresses are all that is favoured.
        let gate = gate(&["10.0.0.9"]);
        enter(&gate, "10.0.0.8").0.authenticated(0);
        let three = [(); 3].map(|()| enter(&gate, "10.0.0.8"));
        assert_eq!(gone(&three), [true, false, false]);
    }

    #[test]
    fn a_pusher_with_too_many_connections_keeps_out_itself_only() {
        let gate = gate(&[]);
        let known = |pusher: usize, from: &str| {
            let all = enter(&gate, from);
            all.0.authenticated(pusher);
            all
        };
        let greedy: Vec<_> = (0..4).map(|_| known(0, "10.0.0.1")).collect();
        assert_eq!(gone(&greedy), [false; 4]);
        assert!(known(0, "10.0.0.1").1.is_cancelled(), "it has them all already");
        let other = known(1, "10.0.0.2");
        assert_eq!((gone(&greedy), other.1.is_cancelled()), (vec![true, false, false, false], false));
        let second = known(1, "10.0.0.2");
        assert_eq!((gone(&greedy), second.1.is_cancelled()), (vec![true, true, false, false], false));
        assert!(known(1, "10.0.0.2").1.is_cancelled(), "as many as the other");
        drop(greedy);
        assert!(!known(1, "10.0.0.2").1.is_cancelled());
    }

    #[test]
    fn without_descriptors_the_oldest_stranger_goes_the_pushers_address_last() {
        let gate = gate(&["10.0.0.9"]);
        let all = ["10.0.0.9", "10.0.0.1", "10.0.0.2"].map(|from| enter(&gate, from));
        all[1].0.begun();
        for left in [[false, false, true], [false, true, true], [true, true, true]] {
            gate.make_room();
            assert_eq!(gone(&all), left);
        }
        gate.make_room();
        assert_eq!(gate.turned_away(), 3);
    }
}
