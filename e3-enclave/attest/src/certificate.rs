//! What a certificate of the chain says about itself (RFC 5280), as far as the chain's own rules ask. Signatures, unknown critical extensions and the rest of the
//! structure are webpki's.

use crate::error::CertificateFault;
use crate::verifier::Validity;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

/// Content of the AlgorithmIdentifier of ECDSA with SHA-384 (RFC 5758 section 3.2).
const ECDSA_SHA384: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];

/// Everything before the point of an uncompressed P-384 key in the content of a SubjectPublicKeyInfo (RFC 5480 section 2), and the point's first byte.
const P384_KEY: [u8; 22] = [
    0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22, 0x03,
    0x62, 0x00, 0x04,
];

/// Bytes of an uncompressed P-384 point.
const P384_POINT: usize = 97;

const KEY_USAGE: [u8; 3] = [0x55, 0x1d, 0x0f];
const BASIC_CONSTRAINTS: [u8; 3] = [0x55, 0x1d, 0x13];
const EXTENDED_KEY_USAGE: [u8; 3] = [0x55, 0x1d, 0x25];

/// The bits of keyUsage that matter here, in its first byte.
const DIGITAL_SIGNATURE: u8 = 0x80;
const KEY_CERT_SIGN: u8 = 0x04;

/// What basicConstraints says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// cA is true and the extension is critical.
    Authority {
        /// How many authorities may follow.
        path_length: Option<u64>,
    },
    /// cA is false.
    EndEntity,
    /// The extension is absent, or not critical although cA is true.
    Unstated,
}

/// A certificate as it states itself; nothing about it has been verified.
pub(crate) struct Certificate<'a> {
    /// DER of the issuer's name.
    pub(crate) issuer: &'a [u8],
    /// DER of the subject's name.
    pub(crate) subject: &'a [u8],
    pub(crate) validity: Validity,
    /// The uncompressed P-384 point.
    pub(crate) point: &'a [u8],
    pub(crate) role: Role,
    key_usage: u8,
    pub(crate) extended_key_usage: bool,
}

impl<'a> Certificate<'a> {
    pub(crate) fn read(der: &'a [u8]) -> Result<Self, CertificateFault> {
        let mut file = Der(der);
        let mut certificate = Der(file.value(SEQUENCE)?);
        file.end()?;
        let mut tbs = Der(certificate.value(SEQUENCE)?);
        let outer = certificate.value(SEQUENCE)?;
        certificate.value(BIT_STRING)?;
        certificate.end()?;

        // Version 3 alone has extensions.
        if tbs.value(VERSION)? != [INTEGER, 1, 2] {
            return Err(CertificateFault::Malformed);
        }
        tbs.value(INTEGER)?;
        if tbs.value(SEQUENCE)? != ECDSA_SHA384 || outer != ECDSA_SHA384 {
            return Err(CertificateFault::Algorithm);
        }
        let issuer = tbs.value(SEQUENCE)?;
        let mut validity = Der(tbs.value(SEQUENCE)?);
        let validity = Validity { not_before: validity.time()?, not_after: validity.last_time()? };
        let subject = tbs.value(SEQUENCE)?;
        let key = tbs.value(SEQUENCE)?;
        let point = key.get(P384_KEY.len() - 1..).unwrap_or_default();
        if !key.starts_with(&P384_KEY) || point.len() != P384_POINT {
            return Err(CertificateFault::Key);
        }
        let mut found =
            Self { issuer, subject, validity, point, role: Role::Unstated, key_usage: 0, extended_key_usage: false };
        found.extensions(tbs.value(EXTENSIONS)?)?;
        tbs.end()?;
        Ok(found)
    }

    fn extensions(&mut self, extensions: &'a [u8]) -> Result<(), CertificateFault> {
        let mut wrapper = Der(extensions);
        let mut extensions = Der(wrapper.value(SEQUENCE)?);
        wrapper.end()?;
        let mut seen: Vec<&[u8]> = Vec::new();
        while !extensions.0.is_empty() {
            let mut extension = Der(extensions.value(SEQUENCE)?);
            let id = extension.value(OBJECT_ID)?;
            let critical = extension.flag()?;
            let value = extension.value(OCTET_STRING)?;
            extension.end()?;
            if seen.contains(&id) {
                return Err(CertificateFault::Malformed);
            }
            seen.push(id);
            if id == KEY_USAGE {
                self.key_usage = key_usage(value)?;
            } else if id == BASIC_CONSTRAINTS {
                self.role = role(value, critical)?;
            } else if id == EXTENDED_KEY_USAGE {
                self.extended_key_usage = true;
            }
        }
        Ok(())
    }

    /// Whether its key may sign certificates.
    pub(crate) fn signs_certificates(&self) -> bool {
        self.key_usage & KEY_CERT_SIGN != 0
    }

    /// Whether its key may sign other things.
    pub(crate) fn signs_documents(&self) -> bool {
        self.key_usage & DIGITAL_SIGNATURE != 0
    }
}

fn role(value: &[u8], critical: bool) -> Result<Role, CertificateFault> {
    let mut wrapper = Der(value);
    let mut constraints = Der(wrapper.value(SEQUENCE)?);
    wrapper.end()?;
    let authority = constraints.flag()?;
    let path_length = if constraints.0.is_empty() { None } else { Some(constraints.small_number()?) };
    constraints.end()?;
    Ok(match (authority, critical) {
        (true, true) => Role::Authority { path_length },
        (false, _) if path_length.is_none() => Role::EndEntity,
        _ => Role::Unstated,
    })
}

fn key_usage(value: &[u8]) -> Result<u8, CertificateFault> {
    let mut wrapper = Der(value);
    let bits = wrapper.value(BIT_STRING)?;
    wrapper.end()?;
    match bits {
        // How many bits of the last byte are unused, then one or two bytes.
        [0..=7, first] | [0..=7, first, _] => Ok(*first),
        _ => Err(CertificateFault::Malformed),
    }
}

/// What is left of a DER value (X.690).
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Content of the next element, which must have this tag.
    fn value(&mut self, tag: u8) -> Result<&'a [u8], CertificateFault> {
        let fault = CertificateFault::Malformed;
        let (first, rest) = self.0.split_first().ok_or(fault)?;
        if *first != tag {
            return Err(fault);
        }
        let (length, rest) = match rest {
            [length @ 0..=0x7f, rest @ ..] => (usize::from(*length), rest),
            [0x81, length @ 0x80..=0xff, rest @ ..] => (usize::from(*length), rest),
            [0x82, high @ 1..=0xff, low, rest @ ..] => (usize::from(*high) << 8 | usize::from(*low), rest),
            _ => return Err(fault),
        };
        let (content, rest) = rest.split_at_checked(length).ok_or(fault)?;
        self.0 = rest;
        Ok(content)
    }

    fn end(&self) -> Result<(), CertificateFault> {
        if self.0.is_empty() { Ok(()) } else { Err(CertificateFault::Malformed) }
    }

    /// A boolean that is false where it is absent; DER never writes that default.
    fn flag(&mut self) -> Result<bool, CertificateFault> {
        if self.0.first() != Some(&BOOLEAN) {
            return Ok(false);
        }
        if self.value(BOOLEAN)? == [0xff] { Ok(true) } else { Err(CertificateFault::Malformed) }
    }

    /// A number from 0 to 127.
    fn small_number(&mut self) -> Result<u64, CertificateFault> {
        match self.value(INTEGER)? {
            [number @ 0..=0x7f] => Ok(u64::from(*number)),
            _ => Err(CertificateFault::Malformed),
        }
    }

    /// The last element, a time.
    fn last_time(&mut self) -> Result<u64, CertificateFault> {
        let time = self.time()?;
        self.end()?;
        Ok(time)
    }

    /// Unix seconds of a UTCTime (1950 to 2049) or GeneralizedTime, of the one form that RFC 5280 section 4.1.2.5 allows.
    fn time(&mut self) -> Result<u64, CertificateFault> {
        let fault = CertificateFault::Malformed;
        let (text, year_digits) = match self.0.first() {
            Some(&UTC_TIME) => (self.value(UTC_TIME)?, 2),
            Some(&GENERALIZED_TIME) => (self.value(GENERALIZED_TIME)?, 4),
            _ => return Err(fault),
        };
        let digits = text.strip_suffix(b"Z").ok_or(fault)?;
        if digits.len() != year_digits + 10 || !digits.iter().all(u8::is_ascii_digit) {
            return Err(fault);
        }
        let number = |part: &[u8]| part.iter().fold(0_u64, |n, digit| n * 10 + u64::from(digit - b'0'));
        let (year, rest) = digits.split_at(year_digits);
        let year = match (year_digits, number(year)) {
            (2, year @ 0..50) => 2000 + year,
            (2, year) => 1900 + year,
            (_, year) => year,
        };
        let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(|at| number(&rest[at..at + 2]));
        let valid = (1970..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days_in(year, month)).contains(&day)
            && hour < 24
            && minute < 60
            && second < 60;
        if !valid {
            return Err(fault);
        }
        let days = days_before_year(year) - days_before_year(1970)
            + (1..month).map(|month| days_in(year, month)).sum::<u64>()
            + (day - 1);
        Ok(((days * 24 + hour) * 60 + minute) * 60 + second)
    }
}

fn leap(year: u64) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from the year 1 to this one (Gregorian).
fn days_before_year(year: u64) -> u64 {
    let past = year - 1;
    past * 365 + past / 4 - past / 100 + past / 400
}

#[cfg(test)]
mod tests {
    use super::{Certificate, Der};

    #[test]
    fn times_are_unix_seconds_or_refused() {
        let time = |tag: u8, text: &str| {
            let der = [&[tag, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
            Der(&der).time().ok()
        };
        assert_eq!(time(0x17, "191028132805Z"), Some(1_572_269_285));
        assert_eq!(time(0x17, "491028142805Z"), Some(2_519_044_085));
        assert_eq!(time(0x17, "700101000000Z"), Some(0));
        assert_eq!(time(0x18, "20240229235959Z"), Some(1_709_251_199));
        assert_eq!(time(0x18, "99991231235959Z"), Some(253_402_300_799));
        for text in ["230229000000Z", "231301000000Z", "230100000000Z", "230101240000Z", "2301010000Z", "2301010000000"]
        {
            assert_eq!(time(0x17, text), None, "{text}");
        }
        assert_eq!(time(0x17, "690101000000Z"), None, "before the epoch");
        assert_eq!(time(0x18, "20230101000000+0100"), None);
    }

    #[test]
    fn lengths_have_one_form() {
        assert_eq!(Der(&[0x04, 0x01, 0xaa]).value(0x04).unwrap(), [0xaa]);
        for der in [
            &[0x04, 0x81, 0x01, 0xaa][..],
            &[0x04, 0x82, 0x00, 0x01, 0xaa],
            &[0x04, 0x80, 0x00],
            &[0x04, 0x02, 0xaa],
            &[0x04],
        ] {
            assert!(Der(der).value(0x04).is_err(), "{der:?}");
        }
    }

    #[test]
    fn the_root_states_what_the_chain_asks() {
        let root = Certificate::read(crate::chain::AWS_NITRO_ROOT_G1).unwrap();
        assert!(root.signs_certificates());
        assert_eq!(root.issuer, root.subject);
        assert_eq!((root.validity.not_before, root.validity.not_after), (1_572_269_285, 2_519_044_085));
    }
}
