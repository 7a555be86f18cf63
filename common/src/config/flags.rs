//! What the command lines of both programs share: spelling of flags, lists of ports, addresses.

use std::{ffi::OsString, net::SocketAddr, ops::RangeInclusive};

/// Lets long flags be written with `_`, as frp's documentation does: `--bind_port` becomes `--bind-port`.
pub fn normalize(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut verbatim = false;
    let normal = |arg: OsString| {
        verbatim |= arg == "--";
        match arg.to_str() {
            Some(text) if !verbatim && text.starts_with("--") => {
                let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
                format!("{}{value}", name.replace('_', "-")).into()
            }
            _ => arg,
        }
    };
    args.into_iter().map(normal).collect()
}

/// Reads a list of ports such as `1000-2000,3000`.
pub fn port_ranges(text: &str) -> Result<Vec<RangeInclusive<u16>>, String> {
    let port = |text: &str| {
        let port = text.trim().parse::<u16>().ok().filter(|port| *port > 0);
        port.ok_or_else(|| format!("{:?} is not a port from 1 to 65535", text.trim()))
    };
    let range = |part: &str| {
        let (start, end) = part.split_once('-').unwrap_or((part, part));
        let (start, end) = (port(start)?, port(end)?);
        if start <= end { Ok(start..=end) } else { Err(format!("{part:?} ends before it starts")) }
    };
    text.split(',').map(range).collect()
}

/// Reads `HOST` or `HOST:PORT`; an IPv6 address needs brackets before a port.
pub fn host_and_port(text: &str) -> Result<(String, Option<u16>), String> {
    let port = |text: &str| {
        let port = text.parse::<u16>().ok().filter(|port| *port > 0);
        port.ok_or_else(|| format!("{text:?} is not a port from 1 to 65535"))
    };
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("the bracket is not closed")?;
        match rest.strip_prefix(':') {
            Some(text) => (host, Some(port(text)?)),
            None if rest.is_empty() => (host, None),
            None => return Err(format!("{rest:?} after the bracket is not a port")),
        }
    } else {
        match text.split_once(':') {
            Some((host, text)) if !text.contains(':') => (host, Some(port(text)?)),
            _ => (text, None),
        }
    };
    if host.is_empty() || host.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/') {
        return Err("this is not a host name or an IP address".to_owned());
    }
    Ok((host.to_owned(), port))
}

/// The port of DNS (RFC 1035).
const DNS_PORT: u16 = 53;

/// Reads `IP` or `IP:PORT`, an IPv6 address in brackets if there is a port; port 53 unless given.
///
/// # Errors
/// What it must be, to be put behind the name of the flag or key.
pub fn dns_server(text: &str) -> Result<SocketAddr, String> {
    let wrong = |_| format!("must be an IP address, perhaps with a port, not {text:?}");
    let (host, port) = host_and_port(text).map_err(wrong)?;
    let address = host.parse().map_err(|_| wrong(String::new()))?;
    Ok(SocketAddr::new(address, port.unwrap_or(DNS_PORT)))
}

/// Reads where to listen: `PORT` or `ADDR:PORT`, an IPv6 address in brackets. Port 0 is any free one.
pub fn listen_address(text: &str) -> Result<(Option<String>, u16), String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (Some(host), port),
        None => (None, text),
    };
    let port = port.parse::<u16>().map_err(|_| format!("{port:?} is not a port from 0 to 65535"))?;
    let host = match host {
        // An address without brackets might have lost its last part to the port.
        Some(host) if host.contains(':') && !host.starts_with('[') => {
            return Err("an IPv6 address needs brackets before its port".to_owned());
        }
        Some(host) => match host_and_port(host)? {
            (host, None) => Some(host),
            (_, Some(_)) => return Err("there are two ports".to_owned()),
        },
        None => None,
    };
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_flags_take_underscores_but_values_keep_theirs() {
        let args =
            ["tuns", "--bind_port=1", "--log_file", "a_b", "--token=x_y", "-c", "my_file", "--", "--a_b"];
        let normal = normalize(args.map(OsString::from));
        let want =
            ["tuns", "--bind-port=1", "--log-file", "a_b", "--token=x_y", "-c", "my_file", "--", "--a_b"];
        assert_eq!(normal, want.map(OsString::from));
    }

    #[test]
    fn port_lists_are_ranges_and_single_ports() {
        assert_eq!(port_ranges("1000-2000, 3000"), Ok(vec![1000..=2000, 3000..=3000]));
        for wrong in ["", "0", "5-4", "a", "1-2-3", "70000", "1,,2"] {
            assert!(port_ranges(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_place_to_listen_is_a_port_that_may_have_an_address() {
        let read = |text| listen_address(text).map(|(host, port)| format!("{host:?} {port}"));
        assert_eq!(read("9000"), Ok("None 9000".into()));
        assert_eq!(read("0"), Ok("None 0".into()));
        assert_eq!(read("0.0.0.0:0"), Ok("Some(\"0.0.0.0\") 0".into()));
        assert_eq!(read("[::1]:22"), Ok("Some(\"::1\") 22".into()));
        assert_eq!(read("localhost:22"), Ok("Some(\"localhost\") 22".into()));
        for wrong in
            ["", "a", ":1", "::1", "::1:22", "a:", "a:b", "a:70000", "[::1]", "[::1]:1:2", "a:1:2", "a b:1"]
        {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_address_may_carry_its_port() {
        let read = |text| host_and_port(text).map(|(host, port)| format!("{host} {port:?}"));
        assert_eq!(read("example.com:7001"), Ok("example.com Some(7001)".into()));
        assert_eq!(read("example.com"), Ok("example.com None".into()));
        assert_eq!(read("::1"), Ok("::1 None".into()));
        assert_eq!(read("[::1]:7001"), Ok("::1 Some(7001)".into()));
        assert_eq!(read("[::1]"), Ok("::1 None".into()));
        for wrong in ["", ":1", "a:0", "a:b", "[::1", "[::1]x", "a b", "http://a"] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
