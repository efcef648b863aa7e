//! The certificate of one set of hosts, and when it is to be renewed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;

use super::AcmeFault;
use crate::tls::certificate::Certificate;

/// Longest time between two tries.
const RETRY_MAX: Duration = Duration::from_secs(6 * 3600);

/// A certificate that the relay comes to by itself. There may be none yet: then the hosts are not served, rather than with one that nobody can verify.
#[derive(Debug)]
pub struct Slot {
    hosts: Box<[Box<str>]>,
    current: ArcSwapOption<Certificate>,
    plan: Mutex<Plan>,
}

/// When it is ordered next.
#[derive(Debug, Clone, Copy)]
struct Plan {
    due: SystemTime,
    failures: u32,
    last: Option<(SystemTime, AcmeFault)>,
}

/// What `/status` says of it.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// When it is ordered next.
    pub due: SystemTime,
    /// The last try, where it failed.
    pub last: Option<(SystemTime, AcmeFault)>,
}

impl Slot {
    pub(super) fn new(hosts: Box<[Box<str>]>, certificate: Option<Certificate>) -> Self {
        let now = SystemTime::now();
        let due = certificate.as_ref().map_or(now, renewal);
        let current = ArcSwapOption::from(certificate.map(Arc::new));
        Self { hosts, current, plan: Mutex::new(Plan { due, failures: 0, last: None }) }
    }

    /// The hosts, in the order of the rules file.
    #[must_use]
    pub fn hosts(&self) -> &[Box<str>] {
        &self.hosts
    }

    /// The certificate in force.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Certificate>> {
        self.current.load_full()
    }

    /// What there is to say of it.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let plan = *self.plan();
        Standing { due: plan.due, last: plan.last }
    }

    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        self.plan().due <= now
    }

    pub(super) fn renew(&self, certificate: Certificate) {
        *self.plan() = Plan { due: renewal(&certificate), failures: 0, last: None };
        self.current.store(Some(Arc::new(certificate)));
    }

    /// The same from the store, where it is newer.
    pub(super) fn adopt(&self, certificate: Certificate) {
        if self.current().is_none_or(|current| current.not_after < certificate.not_after) {
            self.renew(certificate);
        }
    }

    /// Plans another try, and tells when.
    pub(super) fn failed(&self, fault: AcmeFault, retry: Duration) -> Duration {
        let now = SystemTime::now();
        let mut plan = self.plan();
        let wait = retry.saturating_mul(1 << plan.failures.min(16)).min(RETRY_MAX);
        // Many relays may have failed together.
        let wait = wait + wait.mul_f64(0.25 * random());
        *plan = Plan { due: now + wait, failures: plan.failures + 1, last: Some((now, fault)) };
        wait
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a third of its time is left, and a little earlier: many relays may have begun together.
fn renewal(certificate: &Certificate) -> SystemTime {
    let lifetime = certificate.not_after.duration_since(certificate.not_before).unwrap_or_default();
    certificate.not_after - lifetime / 3 - lifetime.mul_f64(0.03 * random())
}

/// From 0 to 1; nothing secret hangs on it.
fn random() -> f64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let bits = RandomState::new().build_hasher().finish() >> 11;
    #[allow(clippy::cast_precision_loss, reason = "53 bits are exact")]
    let (bits, all) = (bits as f64, (1u64 << 53) as f64);
    bits / all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(from: SystemTime, time: Duration) -> Certificate {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (from.into(), (from + time).into());
        let pem = params.self_signed(&key).unwrap().pem();
        Certificate::read(pem.as_bytes(), key.serialize_pem().as_bytes()).unwrap()
    }

    #[test]
    fn a_certificate_is_due_when_a_third_of_its_time_is_left() {
        let (now, day) = (SystemTime::now(), Duration::from_secs(86_400));
        let slot = Slot::new(Box::default(), None);
        assert!(slot.is_due(SystemTime::now()), "there is none");
        slot.renew(certificate(now, 90 * day));
        assert!(!slot.is_due(now + 57 * day));
        assert!(slot.is_due(now + 60 * day));
        slot.adopt(certificate(now, 80 * day));
        assert!(!slot.is_due(now + 57 * day), "an older one changes nothing");
    }

    #[test]
    fn tries_become_rarer_and_a_success_forgets_them() {
        let slot = Slot::new(Box::default(), None);
        let minute = Duration::from_secs(60);
        let waits: Vec<_> = (0..20).map(|_| slot.failed(AcmeFault::Away, minute)).collect();
        for (n, wait) in waits.iter().enumerate() {
            let least = (minute * (1 << n.min(16))).min(RETRY_MAX);
            assert!(*wait >= least && *wait <= least.mul_f64(1.25), "{n}: {wait:?}");
        }
        assert!(slot.standing().last.is_some() && !slot.is_due(SystemTime::now()));
        slot.renew(certificate(SystemTime::now(), minute * 9000));
        assert!(slot.standing().last.is_none());
        assert!(slot.failed(AcmeFault::Away, minute) < minute * 2);
    }
}
