//! The limits that the server keeps for public proxies. They outlive the ports: one that is closed for a while or bound
//! again goes on where it was, together with the connections that stayed open.

use std::collections::HashMap;
use std::num::NonZeroU64;
use tun_common::lifecycle::Tasks;
use tun_common::limit::Bandwidth;

/// Limits, by proxy name.
pub(crate) struct Limits {
    limits: HashMap<String, Bandwidth>,
    tasks: Tasks,
}

impl Limits {
    /// No limits yet. Those to come have their tasks in `tasks`.
    pub(crate) fn new(tasks: Tasks) -> Self {
        Limits { limits: HashMap::new(), tasks }
    }

    /// Notes what a proxy may carry, in bytes a second, from now on.
    pub(crate) fn set(&mut self, name: &str, rate: Option<NonZeroU64>) {
        let Some(rate) = rate else { return self.remove(name) };
        if self.limits.get(name).is_none_or(|limit| limit.rate() != rate) {
            self.limits.insert(name.to_owned(), Bandwidth::new(rate, &self.tasks));
        }
    }

    /// The limit of a proxy, if it has one.
    pub(crate) fn of(&self, name: &str) -> Option<Bandwidth> {
        self.limits.get(name).cloned()
    }

    /// Forgets a proxy's limit; connections that are open stay under it.
    pub(crate) fn remove(&mut self, name: &str) {
        self.limits.remove(name);
    }
}
