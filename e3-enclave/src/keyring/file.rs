//! The keyring file (SPEC.md, "Keyring file").
//!
//! ```text
//! file  = "e3kr" ‖ version u8 = 1 ‖ id 16 ‖ root version u32 ‖ check 16 ‖ epoch u64 ‖ next kid u32 ‖ count u32 ‖ entry* ‖ mac 32
//! entry = kid u32 ‖ app s8 ‖ lineage u8 ‖ state u8 ‖ created u32 ‖ nonce 12 ‖ wrapped key 48
//! ```

use super::derive::{AuditKey, FileKeys, keyed};
use super::{AppKey, KeyState, Keyring, Lineage, RootKey, SecretKey};
use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{Aes256Gcm, KeyInit};
use e3_wire::App;
use hmac::Mac;
use std::collections::HashMap;
use std::sync::Arc;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const MAGIC: &[u8; 4] = b"e3kr";
const VERSION: u8 = 1;
const MAC: usize = 32;

/// Why a keyring file is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyringFault {
    /// It does not start as one.
    #[error("it is not a keyring file")]
    NotAKeyring,
    /// Written by a newer version.
    #[error("it is of a format that this version does not know")]
    UnknownVersion,
    /// The content ends early.
    #[error("it is truncated")]
    Truncated,
    /// The check value differs.
    #[error("the root key is not the one it was made under")]
    WrongRoot,
    /// The MAC differs.
    #[error("its MAC does not hold: the file was altered")]
    Altered,
    /// The MAC holds, the content is against SPEC.md.
    #[error("its content is not that of a keyring")]
    Malformed,
    /// A running engine has seen a higher epoch.
    #[error("its epoch is lower than one already seen: the file was rolled back")]
    RolledBack,
    /// A running engine holds another keyring.
    #[error("it is another keyring than the one in use")]
    AnotherKeyring,
    /// The same epoch with another content.
    #[error("its content differs although its epoch is the one in use")]
    Forked,
}

/// Writes the keyring and keeps the MAC in it. `None` when the system has no random numbers or a cipher refused.
pub(crate) fn encode(keyring: &mut Keyring, root: &RootKey) -> Option<Vec<u8>> {
    let file_keys = FileKeys::derive(root, &keyring.id, keyring.root_version);
    let mut out = Vec::new();
    out.extend_from_slice(MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&keyring.id);
    out.extend_from_slice(&keyring.root_version.to_be_bytes());
    out.extend_from_slice(&file_keys.check);
    out.extend_from_slice(&keyring.epoch.to_be_bytes());
    out.extend_from_slice(&keyring.next_kid.to_be_bytes());
    out.extend_from_slice(&u32::try_from(keyring.keys.len()).ok()?.to_be_bytes());
    let cipher = cipher(&file_keys.wrap);
    for key in &keyring.keys {
        out.extend_from_slice(&key.kid.to_be_bytes());
        out.push(key.app.as_bytes().len() as u8);
        out.extend_from_slice(key.app.as_bytes());
        out.extend_from_slice(&[key.lineage as u8, key.state as u8]);
        out.extend_from_slice(&key.created.to_be_bytes());
        let mut nonce = aes_gcm::Nonce::default();
        getrandom::fill(&mut nonce).ok()?;
        let mut wrapped = Zeroizing::new(*key.secret().as_bytes());
        let aad = wrap_aad(&keyring.id, key.kid, key.app, key.lineage);
        let tag = cipher.encrypt_inout_detached(&nonce, &aad, InOutBuf::from(wrapped.as_mut_slice())).ok()?;
        out.extend_from_slice(&nonce);
        out.extend_from_slice(wrapped.as_slice());
        out.extend_from_slice(&tag);
    }
    keyring.audit = AuditKey::derive(root, &keyring.id, keyring.root_version).map(Arc::new);
    keyring.mac = keyed(&file_keys.mac).chain_update(&out).finalize().into_bytes().into();
    out.extend_from_slice(&keyring.mac);
    Some(out)
}

/// Reads, authenticates and unwraps a keyring file.
pub(crate) fn decode(bytes: &[u8], root: &RootKey) -> Result<Keyring, KeyringFault> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(KeyringFault::NotAKeyring)?;
    let mut r = Cursor(rest);
    if r.array::<1>()? != [VERSION] {
        return Err(KeyringFault::UnknownVersion);
    }
    let id = r.array::<16>()?;
    let root_version = r.u32()?;
    let check = r.array::<16>()?;
    let file_keys = FileKeys::derive(root, &id, root_version);
    if !bool::from(file_keys.check.ct_eq(&check)) {
        return Err(KeyringFault::WrongRoot);
    }
    let epoch = u64::from_be_bytes(r.array()?);
    let next_kid = r.u32()?;
    let count = r.u32()?;
    // The lengths are walked before the MAC is checked, to tell a file cut short from an altered one; nothing is believed yet.
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push(Entry::read(&mut r)?);
    }
    let mac = r.array::<MAC>()?;
    let signed = &bytes[..bytes.len() - r.0.len() - MAC];
    if !r.0.is_empty() || keyed(&file_keys.mac).chain_update(signed).verify_slice(&mac).is_err() {
        return Err(KeyringFault::Altered);
    }
    let cipher = cipher(&file_keys.wrap);
    let keys = entries.iter().map(|e| e.unwrap(&id, &cipher)).collect::<Result<Vec<_>, _>>()?;
    let ascending = keys.windows(2).all(|w| w[0].kid < w[1].kid);
    if !ascending || keys.last().is_some_and(|k| k.kid >= next_kid) || keys.first().is_some_and(|k| k.kid == 0) {
        return Err(KeyringFault::Malformed);
    }
    let active = keys.iter().filter(|k| k.state == KeyState::Active).count();
    let audit = AuditKey::derive(root, &id, root_version).map(Arc::new);
    let mut keyring = Keyring { id, root_version, epoch, next_kid, keys, active: HashMap::new(), mac, audit };
    keyring.index();
    if keyring.active.len() == active { Ok(keyring) } else { Err(KeyringFault::Malformed) }
}

/// The public id at the head of a keyring file, before anything of it is believed.
pub(crate) fn id_of(bytes: &[u8]) -> Result<[u8; 16], KeyringFault> {
    let mut r = Cursor(bytes.strip_prefix(MAGIC).ok_or(KeyringFault::NotAKeyring)?);
    if r.array::<1>()? == [VERSION] { r.array() } else { Err(KeyringFault::UnknownVersion) }
}

/// The root version beside it.
pub(crate) fn root_version_of(bytes: &[u8]) -> Result<u32, KeyringFault> {
    id_of(bytes)?;
    Cursor(bytes.get(MAGIC.len() + 1 + 16..).ok_or(KeyringFault::Truncated)?).u32()
}

struct Entry<'a> {
    kid: u32,
    app: &'a [u8],
    lineage: u8,
    state: u8,
    created: u32,
    nonce: [u8; 12],
    wrapped: [u8; 32],
    tag: [u8; 16],
}

impl<'a> Entry<'a> {
    fn read(r: &mut Cursor<'a>) -> Result<Self, KeyringFault> {
        let kid = r.u32()?;
        let [app_len] = r.array()?;
        let app = r.take(usize::from(app_len))?;
        let [lineage, state] = r.array()?;
        let created = r.u32()?;
        Ok(Self { kid, app, lineage, state, created, nonce: r.array()?, wrapped: r.array()?, tag: r.array()? })
    }

    fn unwrap(&self, id: &[u8; 16], cipher: &Aes256Gcm) -> Result<AppKey, KeyringFault> {
        let app = App::parse(self.app).map_err(|_| KeyringFault::Malformed)?;
        let lineage = match self.lineage {
            1 => Lineage::Random,
            2 => Lineage::Deterministic,
            3 => Lineage::Public,
            _ => return Err(KeyringFault::Malformed),
        };
        let state = match self.state {
            1 => KeyState::DecryptOnly,
            2 => KeyState::Active,
            _ => return Err(KeyringFault::Malformed),
        };
        let mut key = Zeroizing::new(self.wrapped);
        let aad = wrap_aad(id, self.kid, app, lineage);
        cipher
            .decrypt_inout_detached(&self.nonce.into(), &aad, InOutBuf::from(key.as_mut_slice()), &self.tag.into())
            .map_err(|_| KeyringFault::Altered)?;
        Ok(AppKey::new(self.kid, app, lineage, state, self.created, SecretKey::new(key)))
    }
}

/// `"e3v1/app-key" ‖ id ‖ kid ‖ lp(app) ‖ lineage`
fn wrap_aad(id: &[u8; 16], kid: u32, app: App, lineage: Lineage) -> Vec<u8> {
    let length = (app.as_bytes().len() as u16).to_be_bytes();
    [b"e3v1/app-key", id.as_slice(), &kid.to_be_bytes(), &length, app.as_bytes(), &[lineage as u8]].concat()
}

fn cipher(key: &SecretKey) -> Aes256Gcm {
    let mut bytes = aes_gcm::Key::<Aes256Gcm>::from(*key.as_bytes());
    let cipher = Aes256Gcm::new(&bytes);
    zeroize::Zeroize::zeroize(bytes.as_mut_slice());
    cipher
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], KeyringFault> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(KeyringFault::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], KeyringFault> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(KeyringFault::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, KeyringFault> {
        self.array().map(u32::from_be_bytes)
    }
}
