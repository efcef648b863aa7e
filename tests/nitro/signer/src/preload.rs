//! The function in libcbor's place.

// A C function is replaced and the real one is called: there is no safe way to do either.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};
use std::{fs, io, mem, ptr, slice};

use e3_attest::AttestError;
use e3_attest::make::Authority;

/// How an unsigned document begins: an array of four, whose protected header says algorithm −1. libcbor calls itself for what is nested; nothing else begins so.
const UNSIGNED: [u8; 5] = [0x84, 0x43, 0xa1, 0x01, 0x20];

/// Names the file with the authority: what [`Authority::to_bytes`] wrote.
const AUTHORITY: &str = "E3_NITRO_AUTHORITY";

/// `size_t cbor_serialize(const cbor_item_t *, unsigned char *, size_t)`: bytes written, or 0.
type CborSerialize = unsafe extern "C" fn(*const c_void, *mut u8, usize) -> usize;

/// glibc's `RTLD_NEXT`: the symbol of the library loaded after this one.
const RTLD_NEXT: *mut c_void = ptr::without_provenance_mut(usize::MAX);

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void;
}

/// Writes an item as libcbor does; an unsigned document comes out signed. 0, as libcbor's own failure, if it could not be signed.
///
/// # Safety
/// As libcbor's: `item` is an item of its own, `buffer` has `size` writable bytes.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn cbor_serialize(item: *const c_void, buffer: *mut u8, size: usize) -> usize {
    const NAME: &CStr = c"cbor_serialize";
    // SAFETY: the name is a C string, and the handle is one that dlsym defines.
    let found = unsafe { dlsym(RTLD_NEXT, NAME.as_ptr()) };
    if found.is_null() {
        eprintln!("nitro signer: libcbor is not loaded");
        return 0;
    }
    // SAFETY: libcbor declares a function of this name with this signature.
    let real: CborSerialize = unsafe { mem::transmute::<*mut c_void, CborSerialize>(found) };
    // SAFETY: the caller keeps libcbor's contract.
    let length = unsafe { real(item, buffer, size) };
    if length < UNSIGNED.len() || length > size {
        return length;
    }
    // SAFETY: the buffer has `size` bytes, of which libcbor has just written the first `length`.
    let document = unsafe { slice::from_raw_parts(buffer, length) };
    if !document.starts_with(&UNSIGNED) {
        return length;
    }
    match sign(document) {
        Ok(signed) if signed.len() <= size => {
            // SAFETY: `signed` fits into the buffer and is memory of its own.
            unsafe { ptr::copy_nonoverlapping(signed.as_ptr(), buffer, signed.len()) };
            signed.len()
        }
        Ok(signed) => refuse(&format!("a signed document of {} bytes does not fit into {size}", signed.len())),
        Err(Fault::Authority(cause)) => refuse(&format!("the file that {AUTHORITY} names: {cause}")),
        Err(Fault::Document(cause)) => refuse(&cause.to_string()),
    }
}

enum Fault {
    Authority(io::Error),
    Document(AttestError),
}

fn sign(document: &[u8]) -> Result<Vec<u8>, Fault> {
    let path = std::env::var_os(AUTHORITY).ok_or_else(|| Fault::Authority(io::ErrorKind::NotFound.into()))?;
    let authority = fs::read(path).map_err(Fault::Authority)?;
    Authority::from_bytes(&authority).and_then(|authority| authority.sign_emulated(document)).map_err(Fault::Document)
}

fn refuse(cause: &str) -> usize {
    eprintln!("nitro signer: {cause}");
    0
}
