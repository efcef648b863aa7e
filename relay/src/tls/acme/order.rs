//! One certificate: account, order, proof of each host, key and request, certificate.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Error, ExternalAccountKey, Identifier, NewAccount,
    NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tokio_rustls::rustls::ClientConfig;
use zeroize::Zeroizing;

use super::challenge::Challenges;
use super::client::{Https, NoAnswer};
use super::store::Store;
use super::{AcmeFault, Challenge, Settings};
use crate::tls::certificate::Certificate;

/// Longest time that the authority may take to look at the proofs, and then to sign.
const PATIENCE: Duration = Duration::from_secs(90);

/// Problem types (RFC 8555 §6.7, and those of its extensions).
const PROBLEMS: [&str; 25] = [
    "accountDoesNotExist",
    "alreadyReplaced",
    "alreadyRevoked",
    "badCSR",
    "badNonce",
    "badPublicKey",
    "badRevocationReason",
    "badSignatureAlgorithm",
    "caa",
    "compound",
    "connection",
    "dns",
    "externalAccountRequired",
    "incorrectResponse",
    "invalidContact",
    "malformed",
    "orderNotReady",
    "rateLimited",
    "rejectedIdentifier",
    "serverInternal",
    "tls",
    "unauthorized",
    "unsupportedContact",
    "unsupportedIdentifier",
    "userActionRequired",
];

/// Orders a certificate for these hosts, and keeps it in the store.
pub(super) async fn certificate(
    settings: &Settings,
    store: &Store,
    tls: &Arc<ClientConfig>,
    challenges: &Challenges,
    hosts: &[Box<str>],
) -> Result<Certificate, AcmeFault> {
    let account = account(settings, store, tls).await?;
    let identifiers: Vec<_> = hosts.iter().map(|host| Identifier::Dns(host.to_string())).collect();
    let mut order = match account.new_order(&NewOrder::new(&identifiers)).await {
        Ok(order) => order,
        Err(error) => {
            let fault = fault(&error);
            if fault == AcmeFault::Refused("accountDoesNotExist") {
                store.forget_account();
            }
            return Err(fault);
        }
    };
    prove(settings, challenges, &mut order).await?;
    let (key, request) = request(hosts).map_err(|_| AcmeFault::Make)?;
    order.finalize_csr(&request).await.map_err(|error| fault(&error))?;
    let chain = order.poll_certificate(&patience()).await.map_err(|error| fault(&error))?;
    let certificate = Certificate::read(chain.as_bytes(), key.as_bytes()).map_err(|_| AcmeFault::Answer)?;
    if !hosts.iter().all(|host| certificate.is_for(host)) {
        return Err(AcmeFault::Answer);
    }
    store.save_certificate(hosts, &key, &chain)?;
    Ok(certificate)
}

/// The store's account, or a new one.
async fn account(settings: &Settings, store: &Store, tls: &Arc<ClientConfig>) -> Result<Account, AcmeFault> {
    let builder = || Account::builder_with_http(Box::new(Https(Arc::clone(tls))));
    if let Some(known) = store.account()? {
        let credentials: AccountCredentials = serde_json::from_slice(&known).map_err(|_| AcmeFault::Store)?;
        return builder().from_credentials(credentials).await.map_err(|error| fault(&error));
    }
    let contact: Vec<&str> = settings.contact.iter().map(|url| &**url).collect();
    let wanted = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let binding = settings.binding.as_ref().map(|b| ExternalAccountKey::new(b.id.to_string(), &b.key));
    let made = builder().create(&wanted, settings.directory.to_string(), binding.as_ref()).await;
    let (account, credentials) = made.map_err(|error| fault(&error))?;
    let text = Zeroizing::new(serde_json::to_vec(&credentials).map_err(|_| AcmeFault::Make)?);
    store.save_account(&text)?;
    Ok(account)
}

/// Has the authority look at every host that it does not know to be served here.
async fn prove(settings: &Settings, challenges: &Challenges, order: &mut Order) -> Result<(), AcmeFault> {
    let kind = match settings.challenge {
        Challenge::TlsAlpn => ChallengeType::TlsAlpn01,
        Challenge::Http => ChallengeType::Http01,
    };
    let mut answering = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(|error| fault(&error))?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            _ => return Err(AcmeFault::Refused("unauthorized")),
        }
        let mut challenge = authorization.challenge(kind.clone()).ok_or(AcmeFault::NoChallenge)?;
        let proof = challenge.key_authorization();
        answering.push(match settings.challenge {
            Challenge::Http => challenges.answer_http(&challenge.token, proof.as_str()),
            Challenge::TlsAlpn => {
                let Identifier::Dns(host) = challenge.identifier().identifier else { return Err(AcmeFault::Answer) };
                let digest = proof.digest();
                let digest = digest.as_ref().try_into().map_err(|_| AcmeFault::Make)?;
                challenges.answer_tls(&host.to_ascii_lowercase(), digest)?
            }
        });
        challenge.set_ready().await.map_err(|error| fault(&error))?;
    }
    let status = order.poll_ready(&patience()).await.map_err(|error| fault(&error))?;
    drop(answering);
    match status {
        OrderStatus::Ready | OrderStatus::Valid | OrderStatus::Processing => Ok(()),
        OrderStatus::Pending => Err(AcmeFault::Slow),
        OrderStatus::Invalid => Err(reason(order).await),
    }
}

/// Why the authority holds an order for invalid: it says so with the challenge that failed.
async fn reason(order: &mut Order) -> AcmeFault {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() {
            break;
        }
        if let Some(error) = authorization.challenges.iter().find_map(|challenge| challenge.error.as_ref()) {
            return AcmeFault::Refused(problem(error));
        }
    }
    AcmeFault::Refused("unauthorized")
}

fn patience() -> RetryPolicy {
    RetryPolicy::new().backoff(1.5).timeout(PATIENCE)
}

/// A fresh key in PEM, and the request for its certificate in DER.
fn request(hosts: &[Box<str>]) -> Result<(Zeroizing<String>, Vec<u8>), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(hosts.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key)?.der().to_vec();
    Ok((Zeroizing::new(key.serialize_pem()), request))
}

/// The problem's type, as one of those that are known.
fn problem(problem: &Problem) -> &'static str {
    let name = problem.r#type.as_deref().and_then(|urn| urn.strip_prefix("urn:ietf:params:acme:error:"));
    name.and_then(|name| PROBLEMS.into_iter().find(|known| *known == name)).unwrap_or("other")
}

fn fault(error: &Error) -> AcmeFault {
    match error {
        Error::Api(refusal) => AcmeFault::Refused(problem(refusal)),
        Error::Timeout(_) => AcmeFault::Slow,
        Error::Crypto | Error::KeyRejected => AcmeFault::Make,
        Error::Other(other) if other.is::<NoAnswer>() => AcmeFault::Away,
        _ => AcmeFault::Answer,
    }
}
