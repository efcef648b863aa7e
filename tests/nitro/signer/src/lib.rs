//! An emulated Nitro machine does not sign its attestation documents. It writes them with libcbor's `cbor_serialize`; this library is loaded before libcbor
//! (`LD_PRELOAD`), lets the real function write, and signs what is an unsigned document with the test authority in the file that `E3_NITRO_AUTHORITY` names.
//! The signature is made inside the machine because the document later travels in channels that only the guest can open.

#[cfg(feature = "sign")]
mod preload;
