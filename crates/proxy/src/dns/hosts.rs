//! The file `/etc/hosts` (hosts(5)).

use std::net::IpAddr;

/// The addresses that the text of the file gives a name, in order.
pub(super) fn addresses(text: &str, name: &str) -> Vec<IpAddr> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let of_line = |line: &str| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let ip = words.next()?.parse::<IpAddr>().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(ip)
    };
    text.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files() {
        let text = "127.0.0.1 localhost\n::1\tlocalhost ip6-localhost # a remark\n10.0.0.1 a.test A\n#10.0.0.2 b.test\nx c.test\n";
        let check = |name: &str, expected: &[&str]| {
            let shown: Vec<String> = addresses(text, name).iter().map(ToString::to_string).collect();
            assert_eq!(shown, expected, "{name}");
        };
        check("localhost", &["127.0.0.1", "::1"]);
        check("A.Test.", &["10.0.0.1"]);
        check("a", &["10.0.0.1"]);
        for name in ["b.test", "c.test", "remark", "10.0.0.1", ""] {
            check(name, &[]);
        }
    }
}
