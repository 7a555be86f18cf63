//! Which instance of an identity holds its place.
//!
//! An identity is a client's name; an instance is one run of the program. The rules:
//! * an instance that logs in for the first time takes the place at once, whoever holds it: a restarted client must
//!   not wait for the server to notice that the old one died;
//! * an instance that was replaced, or that has held the place before, gets it only if it is vacant. Two running
//!   instances therefore change places once, and not for ever.

use crate::limits::VACANT_AFTER;
use crate::wire::login::Id;
use std::collections::HashMap;
use std::time::Instant;

/// The holders of all identities.
#[derive(Debug, Default)]
pub struct Identities {
    holders: HashMap<String, Holder>,
}

#[derive(Debug)]
struct Holder {
    instance: Id,
    session: Id,
    address: String,
    /// Since when the session has no link.
    linkless: Option<Instant>,
}

/// What a login leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The place was free.
    Vacant,
    /// The place was taken from this session of the same instance: it is stale and ends.
    Own(Id),
    /// The place was taken from this session of another instance: it is to be drained.
    Replaces(Id),
    /// The place is held by another instance, which logged in from this address.
    StandBy(String),
}

impl Identities {
    /// Judges a login of `instance`; unless told to stand by, it holds the place as `session` from now on.
    pub fn login(
        &mut self,
        identity: &str,
        instance: Id,
        first: bool,
        session: Id,
        address: &str,
        now: Instant,
    ) -> Decision {
        let decision = match self.holders.get(identity) {
            None => Decision::Vacant,
            Some(holder) if holder.instance == instance => Decision::Own(holder.session),
            Some(holder) if first || holder.is_vacant(now) => Decision::Replaces(holder.session),
            Some(holder) => return Decision::StandBy(holder.address.clone()),
        };
        let holder = Holder { instance, session, address: address.to_owned(), linkless: None };
        self.holders.insert(identity.to_owned(), holder);
        decision
    }

    /// True if `session` still holds the place of its identity.
    pub fn is_holder(&self, identity: &str, session: Id) -> bool {
        self.holders.get(identity).is_some_and(|holder| holder.session == session)
    }

    /// A session lost its last link (`Some`), or has one again (`None`).
    pub fn set_linkless(&mut self, identity: &str, session: Id, since: Option<Instant>) {
        if let Some(holder) = self.holders.get_mut(identity).filter(|holder| holder.session == session) {
            holder.linkless = since;
        }
    }

    /// A session ended; its identity's place is free if it held it.
    pub fn end(&mut self, identity: &str, session: Id) {
        if self.is_holder(identity, session) {
            self.holders.remove(identity);
        }
    }
}

impl Holder {
    fn is_vacant(&self, now: Instant) -> bool {
        self.linkless.is_some_and(|since| now.saturating_duration_since(since) >= VACANT_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the origin of a clock that only this test turns")]
    fn two_running_instances_change_places_once_and_not_for_ever() {
        let now = Instant::now();
        let (a, b) = (Id([1; 16]), Id([2; 16]));
        let session = |n| Id([n; 16]);
        let mut places = Identities::default();
        assert_eq!(places.login("home", a, true, session(10), "a", now), Decision::Vacant);
        assert_eq!(places.login("home", b, true, session(11), "b", now), Decision::Replaces(session(10)));
        for _ in 0..5 {
            assert_eq!(places.login("home", a, false, session(12), "a", now), Decision::StandBy("b".into()));
            assert_eq!(places.login("home", b, false, session(11), "b", now), Decision::Own(session(11)));
        }
        places.set_linkless("home", session(11), Some(now));
        assert_eq!(places.login("home", a, false, session(12), "a", now), Decision::StandBy("b".into()));
        let later = now + VACANT_AFTER;
        assert_eq!(places.login("home", a, false, session(12), "a", later), Decision::Replaces(session(11)));
        places.end("home", session(11));
        assert!(places.is_holder("home", session(12)), "the end of an old session does not free the place");
        places.end("home", session(12));
        assert_eq!(places.login("home", b, false, session(13), "b", later), Decision::Vacant);
    }
}
