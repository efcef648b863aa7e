//! Why an engine that runs serves nobody yet. It says so in its certificate, beside a document without a keyring, so that whoever dials it learns the cause.

/// Why the engine has no keyring in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum Locked {
    /// It has just begun.
    #[error("the engine is asking for its keys")]
    Starting = 1,
    /// Its host does not serve.
    #[error("the engine is locked: its host's services do not answer; is `e3 host run` up?")]
    Host = 2,
    /// Its host hands over no credentials.
    #[error(
        "the engine is locked: its host hands over no AWS credentials that KMS takes; the instance's role is missing or expired"
    )]
    Credentials = 3,
    /// KMS cannot be reached.
    #[error("the engine is locked: KMS cannot be reached through its host")]
    Unreachable = 4,
    /// KMS denies access.
    #[error(
        "the engine is locked: KMS denies this image the key; compare the key policy's PCR and encryption context conditions with the image's"
    )]
    Denied = 5,
    /// KMS refuses for another reason, or the engine cannot ask it.
    #[error("the engine is locked: KMS gives no root key; the host's log says why")]
    Refused = 6,
    /// KMS, or what poses as it, is not believed.
    #[error(
        "the engine is locked: what answers as KMS is not believed (another key, plaintext, or a foreign certificate)"
    )]
    Unbelieved = 7,
    /// There is no keyring yet.
    #[error("the engine is locked: there is no keyring yet; `e3 keys init` makes it, once")]
    Uninitialised = 8,
    /// The stored keys are refused.
    #[error("the engine is locked: the keyring that its host stores is refused (truncated, mixed or changed)")]
    Keyring = 9,
    /// It is for another keyring.
    #[error("the engine is locked: its host stores another keyring than the image is for")]
    OtherKeyring = 10,
}

impl Locked {
    const ALL: [Self; 10] = [
        Self::Starting,
        Self::Host,
        Self::Credentials,
        Self::Unreachable,
        Self::Denied,
        Self::Refused,
        Self::Unbelieved,
        Self::Uninitialised,
        Self::Keyring,
        Self::OtherKeyring,
    ];

    /// The cause with this number; `None` for one of a later version.
    #[must_use]
    pub fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| *cause as u8 == number)
    }
}
