//! AWS Signature Version 4 of a request, checked.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::{Credentials, REGION};

/// Who signed, or the error that KMS answers with.
pub(super) fn signer(head: &str, body: &[u8], known: &[Credentials]) -> Result<Credentials, &'static str> {
    let header = |name: &str| e3_tests::client::header(head, name);
    let authorization = header("authorization").ok_or("MissingAuthenticationTokenException")?;
    let parameters = authorization.strip_prefix("AWS4-HMAC-SHA256 ").ok_or("IncompleteSignatureException")?;
    let parameter = |name: &str| {
        parameters
            .split(',')
            .find_map(|p| p.trim().strip_prefix(name)?.strip_prefix('='))
            .ok_or("IncompleteSignatureException")
    };
    let (credential, signed, signature) =
        (parameter("Credential")?, parameter("SignedHeaders")?, parameter("Signature")?);
    let [id, date, region, service, end] = credential.split('/').collect::<Vec<_>>()[..] else {
        return Err("IncompleteSignatureException");
    };
    if (region, service, end) != (REGION, "kms", "aws4_request") {
        return Err("InvalidSignatureException");
    }
    let known = known.iter().find(|c| c.id == id).ok_or("UnrecognizedClientException")?;
    if header("x-amz-security-token") != Some(known.token.as_str()) {
        return Err("UnrecognizedClientException");
    }
    let time = header("x-amz-date").ok_or("IncompleteSignatureException")?;
    let names: Vec<&str> = signed.split(';').collect();
    for needed in ["host", "x-amz-date", "x-amz-target", "x-amz-security-token"] {
        if !names.contains(&needed) {
            return Err("IncompleteSignatureException");
        }
    }
    let mut canonical = "POST\n/\n\n".to_owned();
    for name in &names {
        canonical += &format!("{name}:{}\n", header(name).ok_or("IncompleteSignatureException")?.trim());
    }
    canonical += &format!("\n{signed}\n{}", hex(&Sha256::digest(body)));
    let scope = format!("{date}/{region}/{service}/{end}");
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
    let key = [date, region, service, end]
        .iter()
        .fold(format!("AWS4{}", known.secret).into_bytes(), |key, part| hmac(&key, part.as_bytes()));
    if hex(&hmac(&key, text.as_bytes())) != signature {
        return Err("InvalidSignatureException");
    }
    if known.expired {
        return Err("ExpiredTokenException");
    }
    Ok(known.clone())
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
