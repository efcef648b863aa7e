//! Where the salts of tokens and their times come from.
//!
//! Random salts are taken from the operating system, a page at a time for each thread, because a system call for each token
//! would cost a tenth of its sealing. No generator of our own sits between: nothing here is stretched, seeded or reseeded, so
//! there is no state that a fork or a snapshot could make two tokens share, but for the unused rest of one page. The engine never forks
//! into its own code, and an enclave cannot be snapshotted. A salt is public once its token is out, so a page needs no erasing.

use super::format::SALT;
use crate::keyring::DeterministicKey;
use e3_wire::{App, Role, ValueType};
use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

const PAGE: usize = SALT * 170;

/// The salt of one token. Made only by the system's random numbers or by the deterministic MAC.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Salt(pub(super) [u8; SALT]);

struct Page {
    bytes: [u8; PAGE],
    used: usize,
}

thread_local! {
    static SALTS: RefCell<Page> = const { RefCell::new(Page { bytes: [0; PAGE], used: PAGE }) };
}

impl Salt {
    /// A random salt; `None` when the system has no random numbers to give.
    pub(crate) fn random() -> Option<Self> {
        SALTS.with_borrow_mut(|page| {
            if page.used == PAGE {
                getrandom::fill(&mut page.bytes).ok()?;
                page.used = 0;
            }
            let mut salt = [0; SALT];
            salt.copy_from_slice(&page.bytes[page.used..page.used + SALT]);
            page.used += SALT;
            Some(Self(salt))
        })
    }

    /// `HMAC-SHA256(det key, lp(app) ‖ lp(role) ‖ type ‖ value)[..24]`
    pub(crate) fn deterministic(
        key: &DeterministicKey,
        app: App,
        role: Role,
        value_type: ValueType,
        value: &[u8],
    ) -> Self {
        let mac = key.mac(&[
            &(app.as_bytes().len() as u16).to_be_bytes(),
            app.as_bytes(),
            &(role.as_bytes().len() as u16).to_be_bytes(),
            role.as_bytes(),
            &[value_type.letter()],
            value,
        ]);
        let mut salt = [0; SALT];
        salt.copy_from_slice(&mac[..SALT]);
        Self(salt)
    }
}

/// The time that new tokens carry, in Unix seconds. Read once for a request.
#[derive(Debug, Clone, Copy)]
pub struct SealTime(pub(super) u32);

impl SealTime {
    /// The system's time; `None` when its clock is before 1970 or after 2106.
    #[must_use]
    pub fn now() -> Option<Self> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
        u32::try_from(seconds).ok().map(Self)
    }
}
