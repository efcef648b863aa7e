//! A sample shop and a sample payment provider: the two sides between which a card number travels.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::backend::{Backend, Request, answer};
use crate::client;

/// What the shop got from the provider, through the outbound relay.
#[derive(Debug, Clone)]
pub struct Charge {
    /// Status of the provider's answer.
    pub status: u16,
    /// The answer as the shop got it.
    pub body: String,
    /// `Server-Timing` of the outbound relay.
    pub timing: Option<String>,
}

/// The shop's own data.
#[derive(Debug, Default)]
pub struct Shop {
    orders: Mutex<Vec<Value>>,
    charges: Mutex<Vec<Charge>>,
}

impl Shop {
    /// The orders as stored.
    #[must_use]
    pub fn orders(&self) -> Vec<Value> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The charges made.
    #[must_use]
    pub fn charges(&self) -> Vec<Charge> {
        self.charges.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The shop's backend. `POST /v1/orders` stores the order as it came and charges its card through the outbound relay at `outbound`; `GET /v1/orders/N` answers the stored order.
///
/// It treats card numbers as the text it is given, and is not written for tokens.
#[must_use]
pub fn shop_backend(outbound: SocketAddr, provider: &'static str) -> (Backend, Arc<Shop>) {
    let shop = Arc::new(Shop::default());
    let own = Arc::clone(&shop);
    let backend = Backend::start(move |request| Some(own.serve(request, outbound, provider)));
    (backend, shop)
}

impl Shop {
    fn serve(&self, request: &Request, outbound: SocketAddr, provider: &str) -> Vec<u8> {
        match request.line() {
            ("POST", "/v1/orders") => self.place(request, outbound, provider),
            ("GET", path) => {
                let number = path.strip_prefix("/v1/orders/").and_then(|number| number.parse::<usize>().ok());
                match number.and_then(|number| self.orders().get(number.wrapping_sub(1)).cloned()) {
                    Some(order) => json_answer(200, &order),
                    None => json_answer(404, &json!({"error": "no such order"})),
                }
            }
            _ => json_answer(404, &json!({"error": "not here"})),
        }
    }

    fn place(&self, request: &Request, outbound: SocketAddr, provider: &str) -> Vec<u8> {
        let Ok(mut order) = serde_json::from_slice::<Value>(&request.body) else {
            return json_answer(400, &json!({"error": "not JSON"}));
        };
        let charge = json!({
            "amount": order["amount"],
            "source": {"number": order["card"]["number"], "cvc": order["card"]["cvc"]},
        });
        let charged = client::once(outbound, &client::json_request("POST", "/charges", provider, &charge.to_string()));
        let charge = Charge {
            status: charged.status,
            body: String::from_utf8_lossy(&charged.body).into_owned(),
            timing: charged.header("server-timing").map(str::to_owned),
        };
        self.charges.lock().unwrap_or_else(PoisonError::into_inner).push(charge);
        let receipt: Value = serde_json::from_slice(&charged.body).unwrap_or(Value::Null);
        order["receipt"] = receipt["receipt"].clone();
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        order["id"] = json!(orders.len() + 1);
        orders.push(order.clone());
        json_answer(if charged.status == 200 { 201 } else { 502 }, &order)
    }
}

/// The payment provider: `POST /charges` answers a receipt. What it received is in the backend's record.
#[must_use]
pub fn payment_provider() -> Backend {
    Backend::start(|request| {
        let charge: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
        let number = charge["source"]["number"].as_str().unwrap_or_default();
        let card = number.len() == 16 && number.bytes().all(|digit| digit.is_ascii_digit());
        Some(if card {
            json_answer(200, &json!({"paid": charge["amount"], "receipt": {"token": "rcpt_9f2c61"}}))
        } else {
            json_answer(422, &json!({"error": "not a card number"}))
        })
    })
}

fn json_answer(status: u16, body: &Value) -> Vec<u8> {
    answer(status, "application/json", body.to_string().as_bytes())
}
