//! Which addresses the outbound relay may reach: global ones, and those that a destination lists (`networks`).
//!
//! Whoever chooses a name chooses its address, so names prove nothing. Every address that a name resolves to is checked here, and only a checked address is
//! dialled; nothing is resolved again in between, so a name that changes its answer (DNS rebinding) gains nothing. Sources of the table: the IANA registries of
//! special-purpose addresses for IPv4 and IPv6 (RFC 6890), and the metadata services of the clouds.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Why an address or a host is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// `0.0.0.0/8`, `::`: this host.
    #[error("an unspecified address")]
    Unspecified,
    /// `127.0.0.0/8`, `::1`, and the names that stand for them.
    #[error("a loopback address")]
    Loopback,
    /// RFC 1918, unique local (RFC 4193) and site-local IPv6.
    #[error("a private address")]
    Private,
    /// `169.254.0.0/16`, `fe80::/10`.
    #[error("a link-local address")]
    LinkLocal,
    /// `100.64.0.0/10` (RFC 6598).
    #[error("a shared address of a carrier (CGNAT)")]
    Carrier,
    /// `224.0.0.0/4`, `ff00::/8`.
    #[error("a multicast address")]
    Multicast,
    /// Reserved, for documentation, for measurements, not assigned.
    #[error("a reserved address")]
    Reserved,
    /// The metadata service of a cloud, which hands out credentials.
    #[error("the address of a metadata service")]
    Metadata,
    /// `::ffff:0:0/96` (RFC 4291 §2.5.5.2).
    #[error("an IPv4 address mapped into IPv6")]
    Mapped,
    /// `::/96` (RFC 4291 §2.5.5.1).
    #[error("an IPv4-compatible IPv6 address")]
    Compatible,
    /// `64:ff9b::/96`, `64:ff9b:1::/48`, `::ffff:0:0:0/96` (RFC 6052, RFC 8215, RFC 2765).
    #[error("an IPv4 address translated into IPv6 (NAT64)")]
    Translated,
    /// `2002::/16` (RFC 3056), and its relays `192.88.99.0/24`.
    #[error("a 6to4 address")]
    SixToFour,
    /// `2001::/32` (RFC 4380).
    #[error("a Teredo address")]
    Teredo,
    /// An interface identifier with an IPv4 address in it (RFC 5214).
    #[error("an ISATAP address")]
    Isatap,
    /// A global address, where only listed ones may be reached: opened values would go to it in plaintext.
    #[error("an address of the Internet, to which opened values would go in plaintext")]
    Plaintext,
    /// A number as some resolvers read it: octal, hexadecimal, short, one whole number.
    #[error("a number that some read as an address, in another spelling than four decimal numbers")]
    Spelling,
}

/// Addresses with a common prefix, `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A text that is no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadNetwork {
    /// No address before the slash.
    #[error(
        "an address, a slash and the number of its leading bits: 10.0.0.0/8 or fd00::/8; an address alone is itself"
    )]
    Address,
    /// More leading bits than an address has.
    #[error("an IPv4 address has 32 bits, an IPv6 address 128")]
    Prefix,
    /// Bits behind the prefix.
    #[error("bits are set behind the prefix: the network is written with zeros there")]
    HostBits,
}

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| BadNetwork::Address)?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => width,
            Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().map_err(|_| BadNetwork::Prefix)?,
            Some(_) => return Err(BadNetwork::Prefix),
        };
        if prefix > width {
            return Err(BadNetwork::Prefix);
        }
        let network = Self { address, prefix };
        if network.cut(address) == Some(bits(address)) { Ok(network) } else { Err(BadNetwork::HostBits) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The address at the low end of 128 bits.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl Network {
    /// The network of one address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self { address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// The bits of an address of the same kind that the prefix covers.
    fn cut(&self, address: IpAddr) -> Option<u128> {
        if address.is_ipv4() != self.address.is_ipv4() {
            return None;
        }
        let width: u32 = if address.is_ipv4() { 32 } else { 128 };
        let behind = width - u32::from(self.prefix);
        let cut = bits(address).checked_shr(behind).and_then(|bits| bits.checked_shl(behind));
        Some(cut.unwrap_or(0))
    }

    /// Whether the address is one of them. An IPv4 address mapped into IPv6 is not an IPv4 address.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        self.cut(address) == Some(bits(self.address))
    }

    /// Whether its addresses are none of the Internet's: loopback, private and the like.
    #[must_use]
    pub fn is_special(&self) -> bool {
        verdict(self.address).is_err()
    }

    fn is_one(&self) -> bool {
        self.prefix == if self.address.is_ipv4() { 32 } else { 128 }
    }
}

/// What a host is, before any name is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelled {
    /// A name: what it resolves to is checked.
    Name,
    /// An address in its usual spelling.
    Address(IpAddr),
    /// A name that stands for this host everywhere (RFC 6761 §6.3).
    Localhost,
}

/// Reads a host as it was written, IPv6 with or without brackets.
///
/// # Errors
/// It is a number in a spelling that some resolvers take for an address: `0177.0.0.1`, `0x7f000001`, `127.1`, `2130706433`.
pub fn spelled(host: &str) -> Result<Spelled, Refused> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = bare.parse() {
        return Ok(Spelled::Address(address));
    }
    // As the URL standard has it: a host whose last label is a number is an address or nothing.
    let last = host.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let decimal = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit());
    if decimal || hex.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit())) {
        return Err(Refused::Spelling);
    }
    let local = last.eq_ignore_ascii_case("localhost");
    Ok(if local { Spelled::Localhost } else { Spelled::Name })
}

/// What one destination may reach.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Egress {
    networks: Vec<Network>,
    listed_alone: bool,
}

impl Egress {
    /// Global addresses and these networks. A metadata service has to be listed as the one address that it is.
    #[must_use]
    pub fn new(networks: Vec<Network>) -> Self {
        Self { networks, listed_alone: false }
    }

    /// From now on global addresses are refused too: only what is listed, and is none, may be reached.
    pub fn allow_listed_alone(&mut self) {
        self.listed_alone = true;
    }

    /// One more network may be reached.
    pub fn list(&mut self, network: Network) {
        self.networks.push(network);
    }

    /// The networks that are listed.
    #[must_use]
    pub fn networks(&self) -> &[Network] {
        &self.networks
    }

    /// Whether an address may be dialled.
    ///
    /// # Errors
    /// It is no global address, and no network that is listed has it; or it has an IPv4 address in it of which that is true.
    pub fn check(&self, address: IpAddr) -> Result<(), Refused> {
        match verdict(address) {
            Ok(()) if self.listed_alone => Err(Refused::Plaintext),
            Ok(()) => Ok(()),
            Err(Refused::Metadata) => {
                let listed = self.networks.iter().any(|network| network.is_one() && network.has(address));
                if listed { Ok(()) } else { Err(Refused::Metadata) }
            }
            Err(refused) if !self.networks.iter().any(|network| network.has(address)) => Err(refused),
            // A listed translation carries on to the address in it.
            Err(_) => embedded(address).map_or(Ok(()), |inner| self.check(inner.into())),
        }
    }
}

/// The IPv4 address at the end, or in the place where its kind has it.
fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let s = address.segments();
    let of = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match verdict(address.into()) {
        Err(Refused::Mapped | Refused::Compatible | Refused::Translated | Refused::Isatap) => Some(of(s[6], s[7])),
        Err(Refused::SixToFour) => Some(of(s[1], s[2])),
        // Teredo has the client's address inverted.
        Err(Refused::Teredo) => Some(of(!s[6], !s[7])),
        _ => None,
    }
}

/// Whether an address is a global one.
///
/// # Errors
/// What it is instead.
pub fn verdict(address: IpAddr) -> Result<(), Refused> {
    match address {
        IpAddr::V4(address) => verdict_v4(address),
        IpAddr::V6(address) => verdict_v6(address),
    }
}

fn verdict_v4(address: Ipv4Addr) -> Result<(), Refused> {
    Err(match address.octets() {
        // AWS and most others; tasks and pods on AWS; Alibaba; Azure's host; Oracle.
        [169, 254, 169, 254]
        | [169, 254, 170, 2 | 23]
        | [100, 100, 100, 200]
        | [168, 63, 129, 16]
        | [192, 0, 0, 192] => Refused::Metadata,
        [0, ..] => Refused::Unspecified,
        [127, ..] => Refused::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Refused::Private,
        [169, 254, ..] => Refused::LinkLocal,
        [100, 64..=127, ..] => Refused::Carrier,
        [192, 88, 99, _] => Refused::SixToFour,
        [192, 0, 0 | 2, _] | [198, 18..=19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => Refused::Reserved,
        [224..=239, ..] => Refused::Multicast,
        [240..=255, ..] => Refused::Reserved,
        _ => return Ok(()),
    })
}

fn verdict_v6(address: Ipv6Addr) -> Result<(), Refused> {
    let s = address.segments();
    Err(match s {
        // AWS, its pods; Google.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254 | 0x23] | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254] => Refused::Metadata,
        [0, 0, 0, 0, 0, 0, 0, 0] => Refused::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Refused::Loopback,
        [0, 0, 0, 0, 0, 0, ..] => Refused::Compatible,
        [0, 0, 0, 0, 0, 0xffff, ..] => Refused::Mapped,
        [0, 0, 0, 0, 0xffff, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] => Refused::Translated,
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Refused::Private,
        [0xfe80..=0xfebf, ..] => Refused::LinkLocal,
        [0xff00..=0xffff, ..] => Refused::Multicast,
        [0x2002, ..] => Refused::SixToFour,
        [0x2001, 0, ..] => Refused::Teredo,
        // Protocol assignments, documentation.
        [0x2001, 1..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Refused::Reserved,
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => Refused::Isatap,
        [0x2000..=0x3fff, ..] => return Ok(()),
        // All that is assigned globally lies in 2000::/3.
        _ => Refused::Reserved,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_opened_values_go_in_plaintext_only_listed_addresses_are_reached() {
        let mut egress = Egress::new(vec!["10.0.0.0/8".parse().unwrap(), "93.184.216.0/24".parse().unwrap()]);
        assert_eq!(egress.check("93.184.216.34".parse().unwrap()), Ok(()));
        egress.allow_listed_alone();
        assert_eq!(egress.check("10.1.2.3".parse().unwrap()), Ok(()));
        for internet in ["93.184.216.34", "8.8.8.8", "2606:2800:220:1::1"] {
            assert_eq!(egress.check(internet.parse().unwrap()), Err(Refused::Plaintext), "{internet}");
        }
    }

    #[test]
    fn only_global_addresses_are_reached() {
        use Refused as R;
        let refused: &[(&str, R)] = &[
            ("0.0.0.0", R::Unspecified),
            ("0.1.2.3", R::Unspecified),
            ("127.0.0.1", R::Loopback),
            ("127.255.255.254", R::Loopback),
            ("10.0.0.1", R::Private),
            ("172.16.0.1", R::Private),
            ("172.31.255.255", R::Private),
            ("192.168.1.1", R::Private),
            ("169.254.1.1", R::LinkLocal),
            ("169.254.169.254", R::Metadata),
            ("169.254.170.2", R::Metadata),
            ("169.254.170.23", R::Metadata),
            ("100.100.100.200", R::Metadata),
            ("168.63.129.16", R::Metadata),
            ("192.0.0.192", R::Metadata),
            ("100.64.0.1", R::Carrier),
            ("100.127.255.255", R::Carrier),
            ("192.0.0.8", R::Reserved),
            ("192.0.2.1", R::Reserved),
            ("192.88.99.1", R::SixToFour),
            ("198.18.0.1", R::Reserved),
            ("198.19.255.255", R::Reserved),
            ("198.51.100.1", R::Reserved),
            ("203.0.113.1", R::Reserved),
            ("224.0.0.1", R::Multicast),
            ("239.255.255.255", R::Multicast),
            ("240.0.0.1", R::Reserved),
            ("255.255.255.255", R::Reserved),
            ("::", R::Unspecified),
            ("::1", R::Loopback),
            ("::ffff:127.0.0.1", R::Mapped),
            ("::ffff:93.184.216.34", R::Mapped),
            ("::ffff:a9fe:a9fe", R::Mapped),
            ("::127.0.0.1", R::Compatible),
            ("::ffff:0:7f00:1", R::Translated),
            ("64:ff9b::7f00:1", R::Translated),
            ("64:ff9b::8.8.8.8", R::Translated),
            ("64:ff9b:1::10.0.0.1", R::Translated),
            ("100::1", R::Reserved),
            ("fc00::1", R::Private),
            ("fd12:3456::1", R::Private),
            ("fd00:ec2::254", R::Metadata),
            ("fd00:ec2::23", R::Metadata),
            ("fd20:ce::254", R::Metadata),
            ("fe80::1", R::LinkLocal),
            ("febf::1", R::LinkLocal),
            ("fec0::1", R::Private),
            ("ff02::1", R::Multicast),
            ("2002:7f00:1::", R::SixToFour),
            ("2002:a00:1::1", R::SixToFour),
            ("2001::1", R::Teredo),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", R::Teredo),
            ("2001:2::1", R::Reserved),
            ("2001:10::1", R::Reserved),
            ("2001:20::1", R::Reserved),
            ("2001:db8::1", R::Reserved),
            ("3fff::1", R::Reserved),
            ("2a00:1::5efe:a00:1", R::Isatap),
            ("2a00:1::200:5efe:a00:1", R::Isatap),
            ("4000::1", R::Reserved),
            ("1::1", R::Reserved),
            ("5f00::1", R::Reserved),
        ];
        assert!(refused.len() >= 41);
        let nothing = Egress::default();
        for (text, reason) in refused {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(nothing.check(address), Err(*reason), "{text}");
            // Listed as itself it may be reached, but not what it would be translated to.
            let listed = Egress::new(vec![Network::of(address)]).check(address);
            let within = embedded(address).map_or(Ok(()), |inner| verdict(inner.into()));
            assert_eq!(listed, within, "{text}");
        }
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "2003::1",
            "2a00::1",
        ] {
            assert_eq!(nothing.check(text.parse().unwrap()), Ok(()), "{text}");
        }
    }

    #[test]
    fn numbers_have_one_spelling_as_addresses() {
        for odd in [
            "0177.0.0.1",
            "127.1",
            "127.0.1",
            "2130706433",
            "0x7f000001",
            "0X7F000001",
            "0x7f.0.0.1",
            "127.0.0.0x1",
            "017700000001",
            "127.0.0.01",
            "127.0.0.256",
            "1.2.3.4.5",
            "0",
            "0x",
            "169.254.43518",
            "api.example.1",
            "2130706433.",
        ] {
            assert_eq!(spelled(odd), Err(Refused::Spelling), "{odd}");
        }
        let loopback = Spelled::Address(Ipv4Addr::LOCALHOST.into());
        assert_eq!(spelled("127.0.0.1"), Ok(loopback));
        assert_eq!(spelled("127.0.0.1."), Ok(loopback));
        for six in ["[::1]", "::1", "[0:0:0:0:0:0:0:1]"] {
            assert_eq!(spelled(six), Ok(Spelled::Address(Ipv6Addr::LOCALHOST.into())), "{six}");
        }
        for local in ["localhost", "LOCALHOST.", "a.localhost"] {
            assert_eq!(spelled(local), Ok(Spelled::Localhost), "{local}");
        }
        for name in ["api.example", "0x7g.example", "1password.com", "a1", "x0"] {
            assert_eq!(spelled(name), Ok(Spelled::Name), "{name}");
        }
    }

    #[test]
    fn a_listed_network_opens_itself_and_nothing_else() {
        let lists = |networks: &[&str]| Egress::new(networks.iter().map(|n| n.parse().unwrap()).collect());
        let check = |egress: &Egress, text: &str| egress.check(text.parse().unwrap());
        let private = lists(&["10.0.0.0/8", "fd00::/8"]);
        for (text, verdict) in [
            ("10.255.0.1", Ok(())),
            ("fd00::1", Ok(())),
            ("1.1.1.1", Ok(())),
            ("172.16.0.1", Err(Refused::Private)),
            ("fc00::1", Err(Refused::Private)),
            ("::ffff:10.0.0.1", Err(Refused::Mapped)),
            // A metadata service among them is still none of them.
            ("fd00:ec2::254", Err(Refused::Metadata)),
        ] {
            assert_eq!(check(&private, text), verdict, "{text}");
        }
        assert_eq!(check(&lists(&["0.0.0.0/0"]), "169.254.169.254"), Err(Refused::Metadata));
        assert_eq!(check(&lists(&["169.254.169.254"]), "169.254.169.254"), Ok(()));
        // NAT64 for global addresses alone, and for a private network too.
        let nat64 = lists(&["64:ff9b::/96"]);
        assert_eq!(check(&nat64, "64:ff9b::8.8.8.8"), Ok(()));
        assert_eq!(check(&nat64, "64:ff9b::10.0.0.1"), Err(Refused::Private));
        assert_eq!(check(&nat64, "64:ff9b::169.254.169.254"), Err(Refused::Metadata));
        assert_eq!(check(&lists(&["64:ff9b::/96", "10.0.0.0/8"]), "64:ff9b::10.0.0.1"), Ok(()));
        assert_eq!(check(&lists(&["::/0"]), "2002:7f00:1::"), Err(Refused::Loopback));
    }

    #[test]
    fn a_network_has_one_spelling() {
        for (text, same) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("fd00::/8", "fd00::/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), same);
        }
        for (text, fault) in [
            ("10.0.0.1/8", BadNetwork::HostBits),
            ("10.0.0.0/33", BadNetwork::Prefix),
            ("::/129", BadNetwork::Prefix),
            ("10.0.0.0/", BadNetwork::Prefix),
            ("10.0.0.0/+8", BadNetwork::Prefix),
            ("10/8", BadNetwork::Address),
            ("private", BadNetwork::Address),
        ] {
            assert_eq!(text.parse::<Network>(), Err(fault), "{text}");
        }
    }
}
