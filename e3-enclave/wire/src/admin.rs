//! What an administrator has done, and what the engine answers (SPEC.md, "Admin sessions").
//!
//! ```text
//! admin   = signature 64 ‖ command                         Ed25519 over the command
//! command = "e3-admin/1" ‖ nonce 32 ‖ keyring id 16 ‖ epoch u64 ‖ verb u8 ‖ …
//!   1 list
//!   2 create app    app s8
//!   3 distribute    app s8 ‖ lineage u8
//!   4 promote       app s8 ‖ lineage u8 ‖ kid u32
//!   5 rewrap        request, of items 6 alone
//!   6 destroy       count u16 ‖ (kid u32)*
//!   7 init          KMS key ARN s16
//! done    = 0 u8 ‖ keyring id 16 ‖ epoch u64 ‖ root version u32 ‖ result    |    refusal u8 ‖ detail u64
//! result  = 0
//!         | 1 keys    count u32 ‖ (kid u32 ‖ app s8 ‖ lineage u8 ‖ use u8 ‖ created u32)*
//!         | 2 key     kid u32
//!         | 3 roots   count u32 ‖ (root version u32 ‖ fate u8)*
//! ```

use crate::WireError;
use crate::name::App;
use crate::read::Reader;

/// What every command begins with.
pub const ADMIN_MAGIC: &[u8; 10] = b"e3-admin/1";

/// Bytes of a command's signature.
pub const SIGNATURE: usize = 64;

/// Most keys that one command destroys.
pub const MAX_DESTROYED: usize = 1024;

/// Which of an app's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum KeyLineage {
    /// Those of suite 1.
    Random = 1,
    /// Those of suite 3.
    Deterministic = 2,
    /// Those of suite 2.
    Public = 3,
}

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum KeyUse {
    /// It opens tokens.
    DecryptOnly = 1,
    /// It opens tokens and makes new ones.
    Active = 2,
    /// It opens tokens and waits for its promotion.
    Distributed = 3,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminVerb<'a> {
    /// List the keys. The only one that may state another epoch than the engine's.
    List,
    /// Give an app its first keys.
    CreateApp {
        /// The app.
        app: App,
    },
    /// Add a key that opens tokens and makes none yet.
    Distribute {
        /// Whose.
        app: App,
        /// Which of its keys.
        lineage: KeyLineage,
    },
    /// Let the key that waits make the tokens.
    Promote {
        /// Whose.
        app: App,
        /// Which of its keys.
        lineage: KeyLineage,
        /// The key that must be waiting.
        kid: u32,
    },
    /// Rewrap tokens; answered as the request would be.
    Rewrap {
        /// The body of a request ([`crate::Request`]) of rewrap items.
        request: &'a [u8],
    },
    /// Make a new root, and keep every key under it but these. Without keys: only ask KMS again whether it still opens replaced roots.
    Destroy {
        /// The keys, at most [`MAX_DESTROYED`].
        kids: Vec<u32>,
    },
    /// Make the keyring, under a root of KMS.
    Init {
        /// ARN of the KMS key, which must be the measured one.
        key: &'a str,
    },
}

/// A command as it is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command<'a> {
    /// The engine's, used once.
    pub nonce: [u8; crate::NONCE],
    /// Public id of the keyring that is meant; zeros where there is none yet.
    pub keyring: [u8; 16],
    /// Epoch at which the keyring must be; 0 where there is none yet.
    pub epoch: u64,
    /// What is to be done.
    pub verb: AdminVerb<'a>,
}

impl<'a> Command<'a> {
    /// The bytes to sign.
    ///
    /// # Errors
    /// [`WireError::OverLimit`]: too many keys, or a text that is too long.
    pub fn write(&self) -> Result<Vec<u8>, WireError> {
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(ADMIN_MAGIC);
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.keyring);
        out.extend_from_slice(&self.epoch.to_be_bytes());
        match &self.verb {
            AdminVerb::List => out.push(1),
            AdminVerb::CreateApp { app } => {
                out.push(2);
                put_app(&mut out, *app);
            }
            AdminVerb::Distribute { app, lineage } => {
                out.push(3);
                put_app(&mut out, *app);
                out.push(*lineage as u8);
            }
            AdminVerb::Promote { app, lineage, kid } => {
                out.push(4);
                put_app(&mut out, *app);
                out.push(*lineage as u8);
                out.extend_from_slice(&kid.to_be_bytes());
            }
            AdminVerb::Rewrap { request } => {
                out.push(5);
                out.extend_from_slice(request);
            }
            AdminVerb::Destroy { kids } => {
                let count = u16::try_from(kids.len()).ok().filter(|_| kids.len() <= MAX_DESTROYED);
                out.push(6);
                out.extend_from_slice(&count.ok_or(WireError::OverLimit)?.to_be_bytes());
                kids.iter().for_each(|kid| out.extend_from_slice(&kid.to_be_bytes()));
            }
            AdminVerb::Init { key } => {
                out.push(7);
                let length = u16::try_from(key.len()).map_err(|_| WireError::OverLimit)?;
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(key.as_bytes());
            }
        }
        Ok(out)
    }

    /// Reads the bytes that were signed.
    ///
    /// # Errors
    /// They do not follow SPEC.md.
    pub fn read(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut r = Reader(bytes.strip_prefix(ADMIN_MAGIC).ok_or(WireError::UnknownCode)?);
        let (nonce, keyring) = (r.array()?, r.array()?);
        let epoch = r.u64()?;
        let verb = match r.u8()? {
            1 => AdminVerb::List,
            2 => AdminVerb::CreateApp { app: read_app(&mut r)? },
            3 => AdminVerb::Distribute { app: read_app(&mut r)?, lineage: read_lineage(&mut r)? },
            4 => AdminVerb::Promote { app: read_app(&mut r)?, lineage: read_lineage(&mut r)?, kid: r.u32()? },
            5 => AdminVerb::Rewrap { request: std::mem::take(&mut r.0) },
            6 => {
                let count = usize::from(r.u16()?);
                if count > MAX_DESTROYED {
                    return Err(WireError::OverLimit);
                }
                AdminVerb::Destroy { kids: (0..count).map(|_| r.u32()).collect::<Result<_, _>>()? }
            }
            7 => AdminVerb::Init { key: std::str::from_utf8(r.medium()?).map_err(|_| WireError::BadName)? },
            _ => return Err(WireError::UnknownCode),
        };
        r.end()?;
        Ok(Self { nonce, keyring, epoch, verb })
    }
}

/// The signature and the command in the body of a [`crate::FrameKind::Admin`] frame.
///
/// # Errors
/// It is too short.
pub fn signed(body: &[u8]) -> Result<(&[u8; SIGNATURE], &[u8]), WireError> {
    body.split_first_chunk().ok_or(WireError::Truncated)
}

/// Why a command was not done. After [`AdminRefusal::Signature`] and [`AdminRefusal::Nonce`] the engine closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
pub enum AdminRefusal {
    /// Not signed by the session's key.
    #[error("the signature is not one of this session's key")]
    Signature = 1,
    /// Not over the nonce that is out in this session.
    #[error("the nonce is not the one that is out in this session: stale, used or another's")]
    Nonce = 2,
    /// For another keyring.
    #[error("the engine has another keyring")]
    OtherKeyring = 3,
    /// For another epoch than the engine's, which is the detail.
    #[error("the engine's keyring has changed meanwhile; look at it and ask again")]
    Epoch = 4,
    /// The audit sink did not take the record, so nothing was done.
    #[error("the audit sink did not take the record, so nothing was done")]
    AuditUnavailable = 5,
    /// The engine has no keyring yet, or is stopping.
    #[error("the engine is not ready: it has no keyring in force, or is busy")]
    NotReady = 6,
    /// The changed keyring could not be stored; it is unchanged.
    #[error("the changed keyring could not be stored, and is unchanged: the engine's log says why")]
    Storage = 7,
    /// The app has no keys.
    #[error("the app has no keys; `e3 keys create-app` makes them")]
    UnknownApp = 8,
    /// The app has keys already.
    #[error("the app has keys already")]
    AppExists = 9,
    /// A key waits for its promotion; the detail is its kid.
    #[error("a key waits for its promotion; `e3 keys rotate --promote` does it")]
    NotPromoted = 10,
    /// No key waits for its promotion, or another one than the command's: the detail is its kid.
    #[error("the key does not wait to be promoted here")]
    NotWaiting = 11,
    /// No such key; the detail is the kid.
    #[error("there is no such key")]
    UnknownKid = 12,
    /// The key makes tokens, or waits to; the detail is the kid.
    #[error("the key makes tokens or waits to: rotate first, and rewrap what is under it")]
    KeyInUse = 13,
    /// No kids or no random numbers are left.
    #[error("no key can be made")]
    Exhausted = 14,
    /// There is a keyring already.
    #[error("there is a keyring already; one is never written over")]
    Initialised = 15,
    /// This engine has no KMS, or no host that stores its keyring: development.
    #[error("this engine's root key is not from KMS, so it cannot be done here")]
    NoKms = 16,
    /// The measured KMS key is another one.
    #[error("the engine's image is for another KMS key")]
    OtherKey = 17,
    /// KMS denies access.
    #[error("KMS denies access: the key policy must allow this image and the new root version")]
    Denied = 18,
    /// KMS does not give a root for another reason.
    #[error("KMS gives no root key: the engine's log says why")]
    Kms = 19,
}

impl AdminRefusal {
    const ALL: [Self; 19] = [
        Self::Signature,
        Self::Nonce,
        Self::OtherKeyring,
        Self::Epoch,
        Self::AuditUnavailable,
        Self::NotReady,
        Self::Storage,
        Self::UnknownApp,
        Self::AppExists,
        Self::NotPromoted,
        Self::NotWaiting,
        Self::UnknownKid,
        Self::KeyInUse,
        Self::Exhausted,
        Self::Initialised,
        Self::NoKms,
        Self::OtherKey,
        Self::Denied,
        Self::Kms,
    ];
}

/// One key, as it may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedKey {
    /// Its number.
    pub kid: u32,
    /// Whose it is.
    pub app: App,
    /// Which of the app's keys.
    pub lineage: KeyLineage,
    /// What it may do.
    pub state: KeyUse,
    /// When it was made, in Unix seconds.
    pub created: u32,
}

/// What KMS says of a root that was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RootFate {
    /// It denies access: old keyring files open nothing any more.
    Denied = 1,
    /// It still opens it: the key policy still allows that version.
    StillAllowed = 2,
    /// It did not say.
    Unknown = 3,
}

/// The engine's keyring when it answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyringNow {
    /// Public id.
    pub id: [u8; 16],
    /// Epoch, after what was done.
    pub epoch: u64,
    /// Version of the root.
    pub root_version: u32,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// [`AdminVerb::CreateApp`], [`AdminVerb::Init`].
    Plain,
    /// [`AdminVerb::List`].
    Keys(Vec<ListedKey>),
    /// [`AdminVerb::Distribute`], [`AdminVerb::Promote`]: the key's number.
    Key(u32),
    /// [`AdminVerb::Destroy`]: replaced roots by version.
    Roots(Vec<(u32, RootFate)>),
}

/// The answer to a command but rewrap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAnswer {
    /// It was done.
    Done(KeyringNow, Done),
    /// It was not, and nothing changed. The number is the refusal's detail, or 0.
    Refused(AdminRefusal, u64),
}

impl AdminAnswer {
    /// The body of a [`crate::FrameKind::Done`] frame.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let (now, done) = match self {
            Self::Done(now, done) => (now, done),
            Self::Refused(refusal, detail) => return [&[*refusal as u8][..], &detail.to_be_bytes()].concat(),
        };
        let mut out = vec![0];
        out.extend_from_slice(&now.id);
        out.extend_from_slice(&now.epoch.to_be_bytes());
        out.extend_from_slice(&now.root_version.to_be_bytes());
        match done {
            Done::Plain => out.push(0),
            Done::Keys(keys) => {
                out.push(1);
                out.extend_from_slice(&(keys.len() as u32).to_be_bytes());
                for key in keys {
                    out.extend_from_slice(&key.kid.to_be_bytes());
                    put_app(&mut out, key.app);
                    out.extend_from_slice(&[key.lineage as u8, key.state as u8]);
                    out.extend_from_slice(&key.created.to_be_bytes());
                }
            }
            Done::Key(kid) => {
                out.push(2);
                out.extend_from_slice(&kid.to_be_bytes());
            }
            Done::Roots(roots) => {
                out.push(3);
                out.extend_from_slice(&(roots.len() as u32).to_be_bytes());
                for (version, fate) in roots {
                    out.extend_from_slice(&version.to_be_bytes());
                    out.push(*fate as u8);
                }
            }
        }
        out
    }

    /// Reads the body of a [`crate::FrameKind::Done`] frame.
    ///
    /// # Errors
    /// It does not follow SPEC.md.
    pub fn read(body: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader(body);
        let code = r.u8()?;
        if code != 0 {
            let refusal = AdminRefusal::ALL.into_iter().find(|refusal| *refusal as u8 == code);
            let answer = Self::Refused(refusal.ok_or(WireError::UnknownCode)?, r.u64()?);
            return r.end().map(|()| answer);
        }
        let now = KeyringNow { id: r.array()?, epoch: r.u64()?, root_version: r.u32()? };
        let done = match r.u8()? {
            0 => Done::Plain,
            1 => {
                let count = counted(&mut r, 15)?;
                Done::Keys((0..count).map(|_| read_key(&mut r)).collect::<Result<_, _>>()?)
            }
            2 => Done::Key(r.u32()?),
            3 => {
                let count = counted(&mut r, 5)?;
                Done::Roots((0..count).map(|_| Ok((r.u32()?, read_fate(&mut r)?))).collect::<Result<_, _>>()?)
            }
            _ => return Err(WireError::UnknownCode),
        };
        r.end()?;
        Ok(Self::Done(now, done))
    }
}

/// A count of entries of at least `least` bytes, so that it cannot make us allocate more than the frame is worth.
fn counted(r: &mut Reader<'_>, least: usize) -> Result<usize, WireError> {
    let count = r.u32()? as usize;
    if count > r.0.len() / least { Err(WireError::OverLimit) } else { Ok(count) }
}

fn read_key(r: &mut Reader<'_>) -> Result<ListedKey, WireError> {
    Ok(ListedKey {
        kid: r.u32()?,
        app: read_app(r)?,
        lineage: read_lineage(r)?,
        state: match r.u8()? {
            1 => KeyUse::DecryptOnly,
            2 => KeyUse::Active,
            3 => KeyUse::Distributed,
            _ => return Err(WireError::UnknownCode),
        },
        created: r.u32()?,
    })
}

fn read_fate(r: &mut Reader<'_>) -> Result<RootFate, WireError> {
    match r.u8()? {
        1 => Ok(RootFate::Denied),
        2 => Ok(RootFate::StillAllowed),
        3 => Ok(RootFate::Unknown),
        _ => Err(WireError::UnknownCode),
    }
}

fn read_app(r: &mut Reader<'_>) -> Result<App, WireError> {
    App::parse(r.short()?).map_err(|_| WireError::BadName)
}

fn read_lineage(r: &mut Reader<'_>) -> Result<KeyLineage, WireError> {
    match r.u8()? {
        1 => Ok(KeyLineage::Random),
        2 => Ok(KeyLineage::Deterministic),
        3 => Ok(KeyLineage::Public),
        _ => Err(WireError::UnknownCode),
    }
}

fn put_app(out: &mut Vec<u8>, app: App) {
    // An app has at most 32 bytes.
    out.push(app.as_bytes().len() as u8);
    out.extend_from_slice(app.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app() -> App {
        App::parse("shop").unwrap()
    }

    #[test]
    fn commands_read_back_and_nothing_may_follow_or_lack() {
        let lineage = KeyLineage::Deterministic;
        for verb in [
            AdminVerb::List,
            AdminVerb::CreateApp { app: app() },
            AdminVerb::Distribute { app: app(), lineage },
            AdminVerb::Distribute { app: app(), lineage: KeyLineage::Public },
            AdminVerb::Promote { app: app(), lineage, kid: 7 },
            AdminVerb::Rewrap { request: b"any bytes" },
            AdminVerb::Destroy { kids: vec![1, u32::MAX] },
            AdminVerb::Destroy { kids: vec![] },
            AdminVerb::Init { key: "arn:aws:kms:eu-central-1:1:key/2" },
        ] {
            let rest = matches!(verb, AdminVerb::Rewrap { .. });
            let command = Command { nonce: [1; 32], keyring: [2; 16], epoch: 3, verb };
            let bytes = command.write().unwrap();
            assert_eq!(Command::read(&bytes), Ok(command.clone()));
            assert!(rest || Command::read(&[&bytes[..], b"x"].concat()).is_err());
            for n in 0..if rest { 67 } else { bytes.len() } {
                assert!(Command::read(&bytes[..n]).is_err(), "{command:?} cut at {n}");
            }
        }
        let many = AdminVerb::Destroy { kids: vec![1; MAX_DESTROYED + 1] };
        assert!(Command { nonce: [1; 32], keyring: [2; 16], epoch: 3, verb: many }.write().is_err());
    }

    #[test]
    fn answers_read_back() {
        let now = KeyringNow { id: [9; 16], epoch: 4, root_version: 2 };
        let key = ListedKey { kid: 7, app: app(), lineage: KeyLineage::Random, state: KeyUse::Distributed, created: 8 };
        let mut all: Vec<AdminAnswer> = AdminRefusal::ALL.map(|refusal| AdminAnswer::Refused(refusal, 5)).into();
        for done in [
            Done::Plain,
            Done::Keys(vec![key, key]),
            Done::Key(3),
            Done::Roots(vec![(1, RootFate::Denied), (2, RootFate::Unknown)]),
        ] {
            all.push(AdminAnswer::Done(now, done));
        }
        for answer in all {
            let bytes = answer.write();
            assert_eq!(AdminAnswer::read(&bytes), Ok(answer));
            for n in 0..bytes.len() {
                assert!(AdminAnswer::read(&bytes[..n]).is_err());
            }
            assert!(AdminAnswer::read(&[&bytes[..], b"x"].concat()).is_err());
        }
    }
}
