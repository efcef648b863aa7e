//! The root record: what the host keeps of root keys. Nothing of it is secret, and nothing believed before KMS has opened it for this very context.
//!
//! ```text
//! root record = "e3rt" ‖ 1 u8 ‖ keyring id 16 ‖ root version u32 ‖ KMS ciphertext                                  one root
//!             | "e3rt" ‖ 2 u8 ‖ keyring id 16 ‖ count u8 ‖ (root version u32 ‖ length u16 ‖ KMS ciphertext)*       several
//! ```

use super::unlock::{Expected, UnlockError};
use crate::kms::RootContext;
use crate::kms::client::WrappedRoot;

const MAGIC: &[u8; 4] = b"e3rt";

/// Most roots in a record: the present one, and replaced ones that KMS does not deny yet.
pub(crate) const MAX_ROOTS: usize = 16;

/// Longest ciphertext of KMS, in bytes (`CiphertextBlob`); those of a root have about 200.
const WRAPPED_MAX: usize = 6144;

/// Wrapped roots of one keyring, ascending by version. At least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RootRecord {
    pub(crate) keyring: [u8; 16],
    pub(crate) roots: Vec<(u32, WrappedRoot)>,
}

impl RootRecord {
    pub(crate) fn new(keyring: [u8; 16], version: u32, wrapped: WrappedRoot) -> Self {
        Self { keyring, roots: vec![(version, wrapped)] }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        if let [(version, wrapped)] = &self.roots[..] {
            out.push(1);
            out.extend_from_slice(&self.keyring);
            out.extend_from_slice(&version.to_be_bytes());
            out.extend_from_slice(&wrapped.0);
            return out;
        }
        out.push(2);
        out.extend_from_slice(&self.keyring);
        out.push(self.roots.len() as u8);
        for (version, wrapped) in &self.roots {
            out.extend_from_slice(&version.to_be_bytes());
            // At most WRAPPED_MAX: KMS makes no longer ones, and none were read.
            out.extend_from_slice(&(wrapped.0.len() as u16).to_be_bytes());
            out.extend_from_slice(&wrapped.0);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, UnlockError> {
        Self::read(bytes).ok_or(UnlockError::BadRoot)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (format, rest) = bytes.strip_prefix(MAGIC)?.split_first()?;
        let (keyring, mut rest) = rest.split_first_chunk()?;
        let mut roots = Vec::new();
        match format {
            1 => {
                let (version, wrapped) = rest.split_first_chunk()?;
                roots.push((u32::from_be_bytes(*version), WrappedRoot(wrapped.to_vec())));
            }
            2 => {
                let count;
                (count, rest) = rest.split_first()?;
                for _ in 0..*count {
                    let (version, after) = rest.split_first_chunk()?;
                    let (length, after) = after.split_first_chunk()?;
                    let (wrapped, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
                    roots.push((u32::from_be_bytes(*version), WrappedRoot(wrapped.to_vec())));
                    rest = after;
                }
                // One root has one spelling.
                if !rest.is_empty() || roots.len() < 2 || roots.len() > MAX_ROOTS {
                    return None;
                }
            }
            _ => return None,
        }
        let ascending = roots.windows(2).all(|w| w[0].0 < w[1].0);
        let fits = |wrapped: &WrappedRoot| (1..=WRAPPED_MAX).contains(&wrapped.0.len());
        let good = ascending && roots.iter().all(|(version, wrapped)| *version != 0 && fits(wrapped));
        good.then_some(Self { keyring: *keyring, roots })
    }

    /// The root of this version.
    pub(crate) fn root(&self, version: u32) -> Option<&WrappedRoot> {
        self.roots.iter().find(|(found, _)| *found == version).map(|(_, wrapped)| wrapped)
    }

    /// The encryption context of this version.
    pub(crate) fn context(&self, version: u32, expected: &Expected) -> RootContext {
        RootContext { environment: expected.environment.clone(), keyring: self.keyring, root_version: version }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_in_its_one_spelling() {
        let one = RootRecord::new([7; 16], 3, WrappedRoot(vec![1; 200]));
        assert_eq!(one.encode()[4], 1);
        let mut two = one.clone();
        two.roots.push((4, WrappedRoot(vec![2; 10])));
        for record in [&one, &two] {
            let bytes = record.encode();
            assert_eq!(RootRecord::decode(&bytes).unwrap(), *record);
            for n in 0..bytes.len() {
                let cut = RootRecord::decode(&bytes[..n]);
                // Whether KMS's ciphertext is whole is for KMS to say.
                assert!(cut.is_err() || (record.roots.len() == 1 && n > 25), "cut at {n}");
            }
        }
        assert!(RootRecord::decode(&[&two.encode()[..], b"x"].concat()).is_err());
        let sized = |length| RootRecord::decode(&RootRecord::new([7; 16], 1, WrappedRoot(vec![1; length])).encode());
        assert!(sized(WRAPPED_MAX).is_ok() && sized(WRAPPED_MAX + 1).is_err());
        let spelled = |roots: Vec<(u32, WrappedRoot)>| {
            let mut bytes = RootRecord { keyring: [7; 16], roots: [roots.clone(), roots].concat() }.encode();
            bytes[21] = bytes[21].wrapping_div(1);
            RootRecord::decode(&bytes)
        };
        assert!(spelled(vec![(1, WrappedRoot(vec![1]))]).is_err(), "a version twice");
        for versions in [[0, 1], [2, 1]] {
            let roots = versions.map(|version| (version, WrappedRoot(vec![1]))).into();
            assert!(RootRecord::decode(&RootRecord { keyring: [7; 16], roots }.encode()).is_err());
        }
    }
}
