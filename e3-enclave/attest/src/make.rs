//! An authority that signs documents as a Nitro machine does, under a root of its own: for tests and for emulated machines, whose module does not sign.
//! [`Verifier::aws`](crate::Verifier::aws) refuses them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
};

use crate::cbor::made::{write_map, write_null, write_unsigned};
use crate::cbor::{Reader, write_array, write_bytes, write_text};
use crate::document::{ES384, Payload, SIGNATURE_LENGTH, Sign1, signed_bytes};
use crate::error::{AttestError, Field};
use crate::pcr::Pcr;
use crate::request::Request;

/// What a certificate says about itself in basicConstraints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An authority, and how many authorities may follow.
    Authority {
        /// pathLenConstraint.
        path_length: Option<u8>,
    },
    /// None.
    EndEntity,
    /// The extension is absent.
    Unstated,
}

/// One certificate of a chain, good or faulty.
#[derive(Debug, Clone)]
pub struct Link {
    /// basicConstraints.
    pub kind: Kind,
    /// keyUsage: certSign for authorities, digitalSignature for others; absent if false.
    pub key_usage: bool,
    /// P-384, else P-256.
    pub p384: bool,
    /// An extended key usage (server authentication), which real chains have not.
    pub extended_key_usage: bool,
    /// First second of its validity.
    pub not_before: SystemTime,
    /// Last second of its validity.
    pub not_after: SystemTime,
}

impl Link {
    /// A faultless certificate of this kind, valid from an hour before `now` for this long after it.
    #[must_use]
    pub fn new(kind: Kind, now: SystemTime, lifetime: Duration) -> Self {
        Self {
            kind,
            key_usage: true,
            p384: true,
            extended_key_usage: false,
            not_before: now - Duration::from_secs(3600),
            not_after: now + lifetime,
        }
    }

    /// A chain as AWS makes it: root, three authorities, leaf.
    #[must_use]
    pub fn chain(now: SystemTime, lifetime: Duration) -> Vec<Self> {
        let authority = |path_length| Self::new(Kind::Authority { path_length }, now, lifetime);
        let mut chain: Vec<Self> = [None, Some(2), Some(1), Some(0)].map(authority).into();
        chain.push(Self::new(Kind::EndEntity, now, lifetime));
        chain
    }

    fn params(&self, name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        let mut names = DistinguishedName::new();
        names.push(DnType::OrganizationName, "E3 test authority");
        names.push(DnType::CommonName, name);
        params.distinguished_name = names;
        let at =
            |time: SystemTime| rcgen::date_time_ymd(1970, 1, 1) + time.duration_since(UNIX_EPOCH).unwrap_or_default();
        params.not_before = at(self.not_before);
        params.not_after = at(self.not_after);
        params.is_ca = match self.kind {
            Kind::Authority { path_length: None } => IsCa::Ca(BasicConstraints::Unconstrained),
            Kind::Authority { path_length: Some(most) } => IsCa::Ca(BasicConstraints::Constrained(most)),
            Kind::EndEntity => IsCa::ExplicitNoCa,
            Kind::Unstated => IsCa::NoCa,
        };
        if self.key_usage {
            params.key_usages = match self.kind {
                Kind::EndEntity => vec![KeyUsagePurpose::DigitalSignature],
                Kind::Authority { .. } | Kind::Unstated => {
                    vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign]
                }
            };
        }
        if self.extended_key_usage {
            params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        }
        params
    }
}

/// The stated content of a document.
#[derive(Debug, Clone)]
pub struct Content {
    /// Which module made it.
    pub module_id: String,
    /// When.
    pub timestamp: SystemTime,
    /// What was measured.
    pub pcrs: BTreeMap<u8, Pcr>,
    /// What its maker chose.
    pub request: Request,
}

impl Content {
    /// A document of an emulated machine: made now, with these PCRs.
    #[must_use]
    pub fn new(timestamp: SystemTime, pcrs: impl IntoIterator<Item = (u8, Pcr)>, request: Request) -> Self {
        let module_id = "i-0123456789abcdef0-enc0123456789abcde".to_owned();
        Self { module_id, timestamp, pcrs: pcrs.into_iter().collect(), request }
    }

    fn stated<'a>(&'a self, certificate: &'a [u8], cabundle: Vec<&'a [u8]>) -> Payload<'a> {
        let since = self.timestamp.duration_since(UNIX_EPOCH).unwrap_or_default();
        Payload {
            module_id: &self.module_id,
            timestamp_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            pcrs: self.pcrs.clone(),
            certificate,
            cabundle,
            public_key: self.request.public_key(),
            user_data: self.request.user_data(),
            nonce: self.request.nonce(),
        }
    }
}

/// A root, its chain, and the leaf key that signs documents.
#[derive(Debug)]
pub struct Authority {
    cabundle: Vec<Vec<u8>>,
    leaf: Vec<u8>,
    /// PKCS #8 of the leaf's key.
    key: Vec<u8>,
}

impl Authority {
    /// A new authority with a faultless chain, valid from an hour before `now` for this long after it.
    ///
    /// # Errors
    /// [`AttestError::Authority`]: no keys could be made.
    pub fn new(now: SystemTime, lifetime: Duration) -> Result<Self, AttestError> {
        Self::of(&Link::chain(now, lifetime))
    }

    /// A new authority with this chain, root first and leaf last.
    ///
    /// # Errors
    /// [`AttestError::Authority`]: fewer than two certificates, or no keys could be made.
    pub fn of(chain: &[Link]) -> Result<Self, AttestError> {
        Self::make(chain).map_err(|_| AttestError::Authority)
    }

    fn make(chain: &[Link]) -> Result<Self, rcgen::Error> {
        let mut certificates: Vec<Vec<u8>> = Vec::new();
        let mut issuer: Option<Issuer<'static, KeyPair>> = None;
        let mut key = Vec::new();
        for (index, link) in chain.iter().enumerate() {
            let params = link.params(&format!("{index}.nitro-enclaves.test"));
            let pair =
                KeyPair::generate_for(if link.p384 { &PKCS_ECDSA_P384_SHA384 } else { &PKCS_ECDSA_P256_SHA256 })?;
            let certificate = match &issuer {
                None => params.self_signed(&pair)?,
                Some(issuer) => params.signed_by(&pair, issuer)?,
            };
            certificates.push(certificate.der().to_vec());
            key = pair.serialize_der();
            issuer = Some(Issuer::new(params, pair));
        }
        match certificates.pop() {
            Some(leaf) if !certificates.is_empty() => Ok(Self { cabundle: certificates, leaf, key }),
            _ => Err(rcgen::Error::CouldNotParseCertificate),
        }
    }

    /// DER of the root.
    #[must_use]
    pub fn root(&self) -> &[u8] {
        self.cabundle.first().map_or(&[], Vec::as_slice)
    }

    /// DER of the authorities, root first.
    #[must_use]
    pub fn cabundle(&self) -> &[Vec<u8>] {
        &self.cabundle
    }

    /// DER of the leaf.
    #[must_use]
    pub fn leaf(&self) -> &[u8] {
        &self.leaf
    }

    /// A genuine document of this content.
    ///
    /// # Errors
    /// [`AttestError::Authority`]: the leaf's key does not sign ES384.
    pub fn sign(&self, content: &Content) -> Result<Vec<u8>, AttestError> {
        self.sign_as(&self.leaf, &self.cabundle, content)
    }

    /// A document that this authority's leaf key signs, with any certificates in it: for faulty documents.
    ///
    /// # Errors
    /// As [`Authority::sign`].
    pub fn sign_as(&self, leaf: &[u8], cabundle: &[Vec<u8>], content: &Content) -> Result<Vec<u8>, AttestError> {
        self.sign_payload(&payload(&content.stated(leaf, cabundle.iter().map(Vec::as_slice).collect())))
    }

    /// Signs the document of an emulated machine, which came unsigned: the same content, with this authority's chain.
    ///
    /// # Errors
    /// The document cannot be read, or [`AttestError::Authority`] as in [`Authority::sign`].
    pub fn sign_emulated(&self, document: &[u8]) -> Result<Vec<u8>, AttestError> {
        let sign1 = Sign1::read(document)?;
        let stated = Payload::read(sign1.payload())?;
        let cabundle = self.cabundle.iter().map(Vec::as_slice).collect();
        self.sign_payload(&payload(&Payload { certificate: &self.leaf, cabundle, ..stated }))
    }

    /// Signs any payload, good or faulty.
    ///
    /// # Errors
    /// As [`Authority::sign`].
    pub fn sign_payload(&self, payload: &[u8]) -> Result<Vec<u8>, AttestError> {
        let mut encoded_header = Vec::new();
        write_bytes(&mut encoded_header, &ES384);
        let mut encoded_payload = Vec::new();
        write_bytes(&mut encoded_payload, payload);
        let signature = self.signature(&signed_bytes(&encoded_header, &encoded_payload))?;
        Ok(sign1(&encoded_header, &encoded_payload, &signature))
    }

    fn signature(&self, message: &[u8]) -> Result<Vec<u8>, AttestError> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &self.key)
            .map_err(|_| AttestError::Authority)?;
        Ok(key.sign(&random, message).map_err(|_| AttestError::Authority)?.as_ref().to_vec())
    }

    /// The authority as bytes, its key included, for another process of the same test.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        write_array(&mut out, self.cabundle.len() as u64 + 2);
        for part in self.cabundle.iter().chain([&self.leaf, &self.key]) {
            write_bytes(&mut out, part);
        }
        out
    }

    /// Reads what [`Authority::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`AttestError::Authority`] or [`AttestError::Malformed`]: it is something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AttestError> {
        let mut reader = Reader::new(bytes);
        let count = reader.array()?;
        let mut parts: Vec<Vec<u8>> = Vec::new();
        for _ in 0..count {
            parts.push(reader.bytes()?.content.to_vec());
        }
        reader.end()?;
        match (parts.pop(), parts.pop()) {
            (Some(key), Some(leaf)) if !parts.is_empty() => Ok(Self { cabundle: parts, leaf, key }),
            _ => Err(AttestError::Authority),
        }
    }
}

/// The document of a stock emulated machine: algorithm −1, no signature, certificates of zeros.
#[must_use]
pub fn unsigned(content: &Content) -> Vec<u8> {
    let mut header = Vec::new();
    write_bytes(&mut header, &[0xa1, 0x01, 0x20]);
    let mut encoded_payload = Vec::new();
    let zeros = [0; 64];
    write_bytes(&mut encoded_payload, &payload(&content.stated(&zeros, vec![&zeros])));
    sign1(&header, &encoded_payload, &[0; 64])
}

fn sign1(encoded_header: &[u8], encoded_payload: &[u8], signature: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(encoded_payload.len() + SIGNATURE_LENGTH + 16);
    write_array(&mut out, 4);
    out.extend_from_slice(encoded_header);
    write_map(&mut out, 0);
    out.extend_from_slice(encoded_payload);
    write_bytes(&mut out, signature);
    out
}

/// The payload as a Nitro Secure Module writes it, absent values as null.
fn payload(stated: &Payload<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    write_map(&mut out, Field::ALL.len() as u64);
    for field in Field::ALL {
        write_text(&mut out, field.key());
        match field {
            Field::ModuleId => write_text(&mut out, stated.module_id),
            Field::Digest => write_text(&mut out, "SHA384"),
            Field::Timestamp => write_unsigned(&mut out, stated.timestamp_ms),
            Field::Pcrs => {
                write_map(&mut out, stated.pcrs.len() as u64);
                for (index, pcr) in &stated.pcrs {
                    write_unsigned(&mut out, u64::from(*index));
                    write_bytes(&mut out, pcr.as_bytes());
                }
            }
            Field::Certificate => write_bytes(&mut out, stated.certificate),
            Field::CaBundle => {
                write_array(&mut out, stated.cabundle.len() as u64);
                stated.cabundle.iter().for_each(|der| write_bytes(&mut out, der));
            }
            Field::PublicKey => write_optional(&mut out, stated.public_key),
            Field::UserData => write_optional(&mut out, stated.user_data),
            Field::Nonce => write_optional(&mut out, stated.nonce),
        }
    }
    out
}

fn write_optional(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        Some(value) => write_bytes(out, value),
        None => write_null(out),
    }
}
