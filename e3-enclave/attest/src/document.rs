//! The bytes of a document, read strictly and not yet believed: COSE_Sign1 (RFC 9052) around the payload that a Nitro Secure Module writes.

use std::collections::BTreeMap;

use crate::MAX_DOCUMENT;
use crate::cbor::{self, ByteString, Reader};
use crate::error::{AttestError, Field};
use crate::pcr::{LAST_PCR, PCR_LENGTH, Pcr};
use crate::request::{MAX_NONCE, MAX_PUBLIC_KEY, MAX_USER_DATA};

/// The protected header `{1: -35}`: ES384 (RFC 9053 section 2.1).
pub(crate) const ES384: [u8; 4] = [0xa1, 0x01, 0x38, 0x22];

/// Bytes of an ES384 signature: r ‖ s.
pub(crate) const SIGNATURE_LENGTH: usize = 96;

/// Most bytes of a certificate.
const MAX_CERTIFICATE: usize = 1024;

/// Most authorities of a chain, the root included; real chains have four.
pub(crate) const MAX_AUTHORITIES: usize = 6;

/// Most characters of a module id.
const MAX_MODULE_ID: usize = 128;

/// The four parts of COSE_Sign1.
pub(crate) struct Sign1<'a> {
    protected: ByteString<'a>,
    payload: ByteString<'a>,
    pub(crate) signature: &'a [u8],
}

impl<'a> Sign1<'a> {
    /// Takes the document apart, whatever it is signed with.
    pub(crate) fn read(document: &'a [u8]) -> Result<Self, AttestError> {
        if document.is_empty() || document.len() > MAX_DOCUMENT {
            return Err(AttestError::Size { found: document.len() });
        }
        let mut reader = Reader::new(document);
        if !reader.next_is_array() || reader.array()? != 4 {
            return Err(AttestError::NotSign1);
        }
        let protected = reader.bytes()?;
        if reader.map()? != 0 {
            return Err(AttestError::UnprotectedHeader);
        }
        let payload = reader.bytes()?;
        let signature = reader.bytes()?.content;
        reader.end()?;
        Ok(Self { protected, payload, signature })
    }

    /// Only a document signed with ES384, with a signature of its length.
    pub(crate) fn read_signed(document: &'a [u8]) -> Result<Self, AttestError> {
        let sign1 = Self::read(document)?;
        if sign1.protected.content != ES384 {
            return Err(AttestError::Algorithm);
        }
        if sign1.signature.len() != SIGNATURE_LENGTH {
            return Err(AttestError::SignatureLength { found: sign1.signature.len() });
        }
        Ok(sign1)
    }

    pub(crate) fn payload(&self) -> &'a [u8] {
        self.payload.content
    }

    /// What the signature covers (RFC 9052 section 4.4), around the header and payload as they came.
    pub(crate) fn signed_bytes(&self) -> Vec<u8> {
        signed_bytes(self.protected.raw, self.payload.raw)
    }
}

/// `Sig_structure` around an encoded protected header and an encoded payload.
pub(crate) fn signed_bytes(protected: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 32);
    cbor::write_array(&mut out, 4);
    cbor::write_text(&mut out, "Signature1");
    out.extend_from_slice(protected);
    cbor::write_bytes(&mut out, b"");
    out.extend_from_slice(payload);
    out
}

/// The payload, as stated.
pub(crate) struct Payload<'a> {
    pub(crate) module_id: &'a str,
    pub(crate) timestamp_ms: u64,
    pub(crate) pcrs: BTreeMap<u8, Pcr>,
    pub(crate) certificate: &'a [u8],
    pub(crate) cabundle: Vec<&'a [u8]>,
    pub(crate) public_key: Option<&'a [u8]>,
    pub(crate) user_data: Option<&'a [u8]>,
    pub(crate) nonce: Option<&'a [u8]>,
}

/// The payload's values as they come in, in any order.
#[derive(Default)]
struct Values<'a> {
    module_id: Option<&'a str>,
    digest: Option<()>,
    timestamp_ms: Option<u64>,
    pcrs: Option<BTreeMap<u8, Pcr>>,
    certificate: Option<&'a [u8]>,
    cabundle: Option<Vec<&'a [u8]>>,
    // Outer: whether the key stands there. Inner: whether its value is not null.
    public_key: Option<Option<&'a [u8]>>,
    user_data: Option<Option<&'a [u8]>>,
    nonce: Option<Option<&'a [u8]>>,
}

impl<'a> Payload<'a> {
    pub(crate) fn read(payload: &'a [u8]) -> Result<Self, AttestError> {
        let mut reader = Reader::new(payload);
        let mut values = Values::default();
        for _ in 0..reader.map()? {
            let key = reader.text()?;
            let Some(field) = Field::ALL.into_iter().find(|field| field.key() == key) else {
                return Err(AttestError::UnknownKey);
            };
            values.read(field, &mut reader)?;
        }
        reader.end()?;
        fn needed<T>(field: Field, value: Option<T>) -> Result<T, AttestError> {
            value.ok_or(AttestError::Missing(field))
        }
        let () = needed(Field::Digest, values.digest)?;
        Ok(Self {
            module_id: needed(Field::ModuleId, values.module_id)?,
            timestamp_ms: needed(Field::Timestamp, values.timestamp_ms)?,
            pcrs: needed(Field::Pcrs, values.pcrs)?,
            certificate: needed(Field::Certificate, values.certificate)?,
            cabundle: needed(Field::CaBundle, values.cabundle)?,
            public_key: values.public_key.flatten(),
            user_data: values.user_data.flatten(),
            nonce: values.nonce.flatten(),
        })
    }
}

impl<'a> Values<'a> {
    fn read(&mut self, field: Field, reader: &mut Reader<'a>) -> Result<(), AttestError> {
        match field {
            Field::ModuleId => once(field, &mut self.module_id, module_id(reader)?),
            Field::Digest => once(field, &mut self.digest, digest(reader)?),
            Field::Timestamp => once(field, &mut self.timestamp_ms, typed(field, reader.unsigned())?),
            Field::Pcrs => once(field, &mut self.pcrs, pcrs(reader)?),
            Field::Certificate => once(field, &mut self.certificate, bytes(field, reader, 1, MAX_CERTIFICATE)?),
            Field::CaBundle => once(field, &mut self.cabundle, cabundle(reader)?),
            Field::PublicKey => once(field, &mut self.public_key, optional(field, reader, 1, MAX_PUBLIC_KEY)?),
            Field::UserData => once(field, &mut self.user_data, optional(field, reader, 0, MAX_USER_DATA)?),
            Field::Nonce => once(field, &mut self.nonce, optional(field, reader, 0, MAX_NONCE)?),
        }
    }
}

fn once<T>(field: Field, place: &mut Option<T>, value: T) -> Result<(), AttestError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(AttestError::Duplicate(field)),
    }
}

/// Says which field has a value of another type.
fn typed<T>(field: Field, read: Result<T, AttestError>) -> Result<T, AttestError> {
    use crate::error::CborFault;
    match read {
        Err(AttestError::Malformed { fault: CborFault::Type, .. }) => Err(AttestError::FieldType(field)),
        read => read,
    }
}

fn module_id<'a>(reader: &mut Reader<'a>) -> Result<&'a str, AttestError> {
    let field = Field::ModuleId;
    let id = typed(field, reader.text())?;
    length(field, id.len(), 1, MAX_MODULE_ID)?;
    // It is printed and logged.
    if id.bytes().all(|b| b.is_ascii_graphic()) { Ok(id) } else { Err(AttestError::FieldType(field)) }
}

fn digest(reader: &mut Reader<'_>) -> Result<(), AttestError> {
    match typed(Field::Digest, reader.text())? {
        "SHA384" => Ok(()),
        _ => Err(AttestError::FieldType(Field::Digest)),
    }
}

fn length(field: Field, found: usize, least: usize, most: usize) -> Result<(), AttestError> {
    if (least..=most).contains(&found) { Ok(()) } else { Err(AttestError::FieldLength { field, found, least, most }) }
}

fn bytes<'a>(field: Field, reader: &mut Reader<'a>, least: usize, most: usize) -> Result<&'a [u8], AttestError> {
    let content = typed(field, reader.bytes())?.content;
    length(field, content.len(), least, most)?;
    Ok(content)
}

fn optional<'a>(
    field: Field,
    reader: &mut Reader<'a>,
    least: usize,
    most: usize,
) -> Result<Option<&'a [u8]>, AttestError> {
    if reader.null() { Ok(None) } else { bytes(field, reader, least, most).map(Some) }
}

fn pcrs(reader: &mut Reader<'_>) -> Result<BTreeMap<u8, Pcr>, AttestError> {
    let field = Field::Pcrs;
    let count = typed(field, reader.map())?;
    length(field, count, 1, usize::from(LAST_PCR) + 1)?;
    let mut pcrs = BTreeMap::new();
    for _ in 0..count {
        let found = typed(field, reader.unsigned())?;
        let index = u8::try_from(found).ok().filter(|index| *index <= LAST_PCR);
        let index = index.ok_or(AttestError::PcrIndex { found })?;
        let content = bytes(field, reader, PCR_LENGTH, PCR_LENGTH)?;
        let mut pcr = [0; PCR_LENGTH];
        pcr.copy_from_slice(content);
        if pcrs.insert(index, Pcr::new(pcr)).is_some() {
            return Err(AttestError::Duplicate(field));
        }
    }
    Ok(pcrs)
}

fn cabundle<'a>(reader: &mut Reader<'a>) -> Result<Vec<&'a [u8]>, AttestError> {
    let field = Field::CaBundle;
    let count = typed(field, reader.array())?;
    length(field, count, 1, MAX_AUTHORITIES)?;
    (0..count).map(|_| bytes(field, reader, 1, MAX_CERTIFICATE)).collect()
}
