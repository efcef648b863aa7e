//! The PROXY protocol, versions 1 and 2 (HAProxy, `doc/proxy-protocol.txt`): a balancer says before the first byte for whom it opened the connection.
//!
//! Written here rather than taken from a library: it is part of what decides who a client is, it reads not one byte too many from the stream, and it checks the
//! checksum.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Most bytes of a header of version 1, line end included.
const V1_MAX: usize = 107;

/// The shortest header of version 1, `PROXY UNKNOWN` and its line end. Version 2 has none as short.
const SHORTEST: usize = 15;

const V1_START: &[u8] = b"PROXY ";

const V2_START: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of version 2 in front of the addresses.
const V2_FIXED: usize = 16;

/// Most bytes of version 2 behind that: addresses and a few short additions, never 64 KiB of them.
const V2_MAX: usize = 4096;

/// Type of the checksum among the additions of version 2.
const CRC32C: u8 = 3;

/// The two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Who opened it.
    pub source: SocketAddr,
    /// What it was opened to.
    pub destination: SocketAddr,
}

impl Ends {
    /// IPv4 addresses are written as such, never mapped into IPv6 as sockets of both kinds have them.
    #[must_use]
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        Self { source: plain(source), destination: plain(destination) }
    }
}

/// The address as IPv4 where it is one mapped into IPv6.
#[must_use]
pub fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// The sender speaks for itself, or does not know for whom: the socket's address counts.
    Local,
    /// The ends of the connection that is passed on.
    Passed(Ends),
}

/// Why there is no header that counts. The connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The first bytes are something else.
    #[error("no PROXY header, which this network has to send")]
    Missing,
    /// It is malformed.
    #[error("a malformed PROXY header")]
    Malformed,
    /// It is longer than any header in use.
    #[error("a PROXY header over its limit")]
    TooLong,
    /// The checksum of version 2 does not fit.
    #[error("a PROXY header with a wrong checksum")]
    Checksum,
    /// The connection ended or broke before.
    #[error("the connection ended inside a PROXY header")]
    Gone,
}

/// A version of the protocol, to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

impl Version {
    /// The header for a connection with these ends, or for one of the sender's own.
    #[must_use]
    pub fn write(self, ends: Option<&Ends>) -> Vec<u8> {
        let both = ends.map(|ends| (ends.source, ends.destination, Addresses::of(ends)));
        match (self, both) {
            (Self::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
            (Self::V1, Some((from, to, addresses))) => match addresses {
                Addresses::V4(a, b) => format!("PROXY TCP4 {a} {b} {} {}\r\n", from.port(), to.port()).into_bytes(),
                Addresses::V6(a, b) => format!("PROXY TCP6 {a} {b} {} {}\r\n", from.port(), to.port()).into_bytes(),
            },
            (Self::V2, None) => [&V2_START[..], &[0x20, 0, 0, 0]].concat(),
            (Self::V2, Some((from, to, addresses))) => {
                let (family, length, addresses) = match addresses {
                    Addresses::V4(a, b) => (0x11, 12, [a.octets(), b.octets()].concat()),
                    Addresses::V6(a, b) => (0x21, 36, [a.octets(), b.octets()].concat()),
                };
                let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
                [&V2_START[..], &[0x21, family, 0, length], &addresses, &ports].concat()
            }
        }
    }
}

/// Two addresses of one kind.
enum Addresses {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

impl Addresses {
    fn of(ends: &Ends) -> Self {
        let wide = |address: IpAddr| match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        match (ends.source.ip(), ends.destination.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => Self::V4(a, b),
            (a, b) => Self::V6(wide(a), wide(b)),
        }
    }
}

/// Reads the header, and nothing of what follows it. The caller bounds the time.
///
/// # Errors
/// There is none, or it is not beyond doubt.
pub async fn receive<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Header, Fault> {
    let mut bytes = Vec::with_capacity(V1_MAX + 1);
    loop {
        match next(&bytes)? {
            Next::Header(header) => return Ok(header),
            Next::Read(most) => {
                let from = bytes.len();
                bytes.resize(from + most, 0);
                let n = stream.read(&mut bytes[from..]).await.map_err(|_| Fault::Gone)?;
                bytes.truncate(from + n);
                if n == 0 {
                    return Err(Fault::Gone);
                }
            }
        }
    }
}

/// What to do with the bytes that have come.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Read at most this many: all of them belong to the header.
    Read(usize),
    Header(Header),
}

fn next(bytes: &[u8]) -> Result<Next, Fault> {
    if bytes.starts_with(&V2_START) {
        return binary(bytes);
    }
    if !bytes.starts_with(V1_START) {
        let may_become = V1_START.starts_with(bytes) || V2_START.starts_with(bytes);
        return if may_become { Ok(Next::Read(SHORTEST - bytes.len())) } else { Err(Fault::Missing) };
    }
    if let Some(line) = bytes.strip_suffix(b"\r\n") {
        return text(line).map(Next::Header).ok_or(Fault::Malformed);
    }
    let ended = bytes.last() == Some(&b'\r');
    let line = if ended { &bytes[..bytes.len() - 1] } else { bytes };
    if line.iter().any(|b| matches!(b, b'\r' | b'\n')) {
        return Err(Fault::Malformed);
    }
    // Its end is two bytes away at least, or one after the CR.
    let most = if ended { 1 } else { SHORTEST.saturating_sub(bytes.len()).max(2) };
    if bytes.len() + most > V1_MAX { Err(Fault::TooLong) } else { Ok(Next::Read(most)) }
}

/// Version 1, without its line end.
fn text(line: &[u8]) -> Option<Header> {
    if line.iter().any(|b| matches!(b, b'\r' | b'\n')) {
        return None;
    }
    let line = std::str::from_utf8(line).ok()?.strip_prefix("PROXY ")?;
    // What follows is to be overlooked.
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Some(Header::Local);
    }
    let mut words = line.split(' ');
    let (kind, from, to) = (words.next()?, words.next()?, words.next()?);
    let (from_port, to_port) = (port(words.next()?)?, port(words.next()?)?);
    if words.next().is_some() {
        return None;
    }
    let (from, to): (IpAddr, IpAddr) = match kind {
        "TCP4" => (from.parse::<Ipv4Addr>().ok()?.into(), to.parse::<Ipv4Addr>().ok()?.into()),
        "TCP6" => (from.parse::<Ipv6Addr>().ok()?.into(), to.parse::<Ipv6Addr>().ok()?.into()),
        _ => return None,
    };
    Some(Header::Passed(Ends::new(SocketAddr::new(from, from_port), SocketAddr::new(to, to_port))))
}

/// Digits without leading zeros.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

/// Version 2.
fn binary(bytes: &[u8]) -> Result<Next, Fault> {
    let Some((fixed, rest)) = bytes.split_at_checked(V2_FIXED) else {
        return Ok(Next::Read(V2_FIXED - bytes.len()));
    };
    let &[command, kind, high, low] = &fixed[V2_START.len()..] else { return Err(Fault::Malformed) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let passed = match command {
        0x20 => false,
        0x21 => true,
        _ => return Err(Fault::Malformed),
    };
    // Unspecified, or a stream over IPv4, IPv6 or a Unix socket; a datagram comes over no connection.
    let addresses = match kind {
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        _ if !passed => 0,
        _ => return Err(Fault::Malformed),
    };
    if length > V2_MAX {
        return Err(Fault::TooLong);
    }
    if rest.len() < length {
        return Ok(Next::Read(length - rest.len()));
    }
    if !passed {
        // Whatever else stands there is to be overlooked.
        return Ok(Next::Header(Header::Local));
    }
    let (addresses, additions) = rest.split_at_checked(addresses).ok_or(Fault::Malformed)?;
    check(bytes, additions)?;
    let ends = match kind {
        0x11 => ends::<4>(addresses),
        0x21 => ends::<16>(addresses),
        _ => return Ok(Next::Header(Header::Local)),
    };
    Ok(Next::Header(Header::Passed(ends.ok_or(Fault::Malformed)?)))
}

/// Two addresses of `N` bytes, and two ports.
fn ends<const N: usize>(bytes: &[u8]) -> Option<Ends>
where
    IpAddr: From<[u8; N]>,
{
    let (from, rest) = bytes.split_first_chunk::<N>()?;
    let (to, ports) = rest.split_first_chunk::<N>()?;
    let &[a, b, c, d] = ports else { return None };
    let (from_port, to_port) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    Some(Ends::new(SocketAddr::new((*from).into(), from_port), SocketAddr::new((*to).into(), to_port)))
}

/// Reads the additions of version 2 (type, length, value) to the last byte, and holds the checksum, if there is one, against the whole header.
fn check(header: &[u8], additions: &[u8]) -> Result<(), Fault> {
    let mut rest = additions;
    let mut checksum = None;
    while !rest.is_empty() {
        let &[kind, high, low, ref behind @ ..] = rest else { return Err(Fault::Malformed) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, after) = behind.split_at_checked(length).ok_or(Fault::Malformed)?;
        if kind == CRC32C {
            let value = <[u8; 4]>::try_from(value).map_err(|_| Fault::Malformed)?;
            let at = header.len() - after.len() - value.len();
            if checksum.replace((u32::from_be_bytes(value), at)).is_some() {
                return Err(Fault::Malformed);
            }
        }
        rest = after;
    }
    let Some((stated, at)) = checksum else { return Ok(()) };
    let mut zeroed = header.to_vec();
    zeroed[at..at + 4].fill(0);
    if crc32c(&zeroed) == stated { Ok(()) } else { Err(Fault::Checksum) }
}

/// CRC-32C (RFC 3720, appendix B.4), bit by bit: a header has few bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a header that is followed by a request, in pieces of this many bytes; what was left unread.
    fn read(header: &[u8], piece: usize) -> (Result<Header, Fault>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let all = [header, b"GET /"].concat();
            let (mut sender, mut stream) = tokio::io::duplex(piece);
            let sent = tokio::spawn(async move {
                use tokio::io::AsyncWriteExt;
                let _ = sender.write_all(&all).await;
            });
            let heard = receive(&mut stream).await;
            let mut left = Vec::new();
            if heard.is_ok() {
                stream.read_to_end(&mut left).await.unwrap();
            }
            drop(stream);
            sent.await.unwrap();
            (heard, left)
        })
    }

    /// The same verdict however it comes, and not one byte too many is read.
    fn verdict(header: &[u8]) -> Result<Header, Fault> {
        let (heard, left) = read(header, 65_536);
        for piece in [1, 2, 3, 7, 16] {
            assert_eq!(read(header, piece).0, heard, "{header:?} in pieces of {piece}");
        }
        if heard.is_ok() {
            assert_eq!(left, b"GET /", "{header:?}");
        }
        heard
    }

    fn passed(from: &str, to: &str) -> Result<Header, Fault> {
        Ok(Header::Passed(Ends { source: from.parse().unwrap(), destination: to.parse().unwrap() }))
    }

    fn v2(command: u8, kind: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&V2_START[..], &[command, kind], &length, rest].concat()
    }

    const IPV4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x34, 0, 80];

    #[test]
    fn a_line_says_who_the_client_is_in_one_way_only() {
        assert_eq!(
            verdict(b"PROXY TCP4 192.0.2.7 198.51.100.1 4660 80\r\n"),
            passed("192.0.2.7:4660", "198.51.100.1:80")
        );
        assert_eq!(
            verdict(b"PROXY TCP6 2001:db8::7 2001:DB8::1 0 65535\r\n"),
            passed("[2001:db8::7]:0", "[2001:db8::1]:65535")
        );
        assert_eq!(verdict(b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n"), passed("192.0.2.7:1", "[::1]:2"));
        let longest = "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        assert!(matches!(verdict(longest.as_bytes()), Ok(Header::Passed(_))));
        for local in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN ffff::1 \u{1} what ever\r\n"] {
            assert_eq!(verdict(local.as_bytes()), Ok(Header::Local));
        }
        assert_eq!(verdict(format!("PROXY UNKNOWN {}\r\n", "x".repeat(91)).as_bytes()), Ok(Header::Local), "107 bytes");
        assert_eq!(verdict(format!("PROXY UNKNOWN {}\r\n", "x".repeat(92)).as_bytes()), Err(Fault::TooLong));
        for bad in [
            "PROXY TCP4 192.0.2.7 198.51.100.1 4660 80\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 4660 80\r \r\n",
            "PROXY  TCP4 192.0.2.7 198.51.100.1 4660 80\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 4660 80 \r\n",
            "PROXY TCP4 192.0.2.7  198.51.100.1 4660 80\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 4660\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 04660 80\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 +1 80\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 65536 80\r\n",
            "PROXY TCP4 192.0.2.07 198.51.100.1 1 80\r\n",
            "PROXY TCP4 192.0.2 198.51.100.1 1 80\r\n",
            "PROXY TCP4 2001:db8::7 2001:db8::1 1 80\r\n",
            "PROXY TCP6 192.0.2.7 198.51.100.1 1 80\r\n",
            "PROXY TCP6 [2001:db8::7] 2001:db8::1 1 80\r\n",
            "PROXY TCP5 192.0.2.7 198.51.100.1 1 80\r\n",
            "PROXY tcp4 192.0.2.7 198.51.100.1 1 80\r\n",
            "PROXY UNKNOWNS and more\r\n",
        ] {
            assert_eq!(verdict(bad.as_bytes()), Err(Fault::Malformed), "{bad:?}");
        }
        for other in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n", "\u{16}\u{3}\u{1}tls"]
        {
            assert_eq!(verdict(other.as_bytes()), Err(Fault::Missing), "{other:?}");
        }
        assert_eq!(read(b"PROXY TCP4 1.1.1.1", 64).0, Err(Fault::Gone), "no line end");
    }

    #[test]
    fn the_binary_form_is_read_to_its_last_byte() {
        assert_eq!(verdict(&v2(0x21, 0x11, &IPV4)), passed("192.0.2.7:4660", "198.51.100.1:80"));
        let mut wide = [0u8; 36];
        wide[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        (wide[15], wide[31], wide[33], wide[35]) = (7, 1, 9, 80);
        assert_eq!(verdict(&v2(0x21, 0x21, &wide)), passed("[2001:db8::7]:9", "[::1]:80"));
        for (command, kind, rest) in [
            (0x20, 0x00, &[][..]),
            (0x20, 0x11, &IPV4[..]),
            (0x20, 0x77, &[1, 2, 3]),
            (0x21, 0x00, &[]),
            (0x21, 0x31, &[0; 216]),
        ] {
            assert_eq!(verdict(&v2(command, kind, rest)), Ok(Header::Local), "{command:x} {kind:x}");
        }
        let more = |additions: &[u8]| verdict(&v2(0x21, 0x11, &[&IPV4[..], additions].concat()));
        assert!(more(&[4, 0, 2, 0, 0, 1, 0, 2, b'h', b'2']).is_ok());
        for bad in [&[4][..], &[4, 0], &[4, 0, 1], &[3, 0, 3, 1, 2, 3], &[4, 0, 0, 9]] {
            assert_eq!(more(bad), Err(Fault::Malformed), "{bad:?}");
        }
        for (command, kind, rest) in [
            (0x11, 0x11, &IPV4[..]),
            (0x22, 0x11, &IPV4),
            (0x21, 0x12, &IPV4),
            (0x21, 0x41, &IPV4),
            (0x21, 0x11, &IPV4[..11]),
        ] {
            assert_eq!(verdict(&v2(command, kind, rest)), Err(Fault::Malformed), "{command:x} {kind:x}");
        }
        assert_eq!(verdict(&v2(0x21, 0x11, &[0; 4097])), Err(Fault::TooLong));
        assert_eq!(read(&[&V2_START[..11], b"\rmore"].concat(), 64).0, Err(Fault::Missing));
    }

    #[test]
    fn a_checksum_is_held_against_the_whole_header() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let mut header = v2(0x21, 0x11, &[&IPV4[..], &[3, 0, 4, 0, 0, 0, 0], &[4, 0, 1, 0]].concat());
        let sum = crc32c(&header).to_be_bytes();
        header[31..35].copy_from_slice(&sum);
        assert!(verdict(&header).is_ok());
        for at in [16, 20, 24, 31, 34, 38] {
            let mut other = header.clone();
            other[at] ^= 1;
            assert_eq!(verdict(&other), Err(Fault::Checksum), "byte {at}");
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        for (source, destination) in [
            ("192.0.2.7:4660", "198.51.100.1:80"),
            ("[2001:db8::7]:1", "[2001:db8::1]:443"),
            ("192.0.2.7:4660", "[2001:db8::1]:443"),
        ] {
            let ends = Ends::new(source.parse().unwrap(), destination.parse().unwrap());
            for version in [Version::V1, Version::V2] {
                assert_eq!(verdict(&version.write(Some(&ends))), Ok(Header::Passed(ends)), "{version:?}");
            }
        }
        for version in [Version::V1, Version::V2] {
            assert_eq!(verdict(&version.write(None)), Ok(Header::Local));
        }
    }
}
