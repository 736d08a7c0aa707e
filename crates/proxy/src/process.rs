//! Figures of this process, from `/proc` (proc(5)).

/// CPU time used since the start in milliseconds, user and system, and resident memory in bytes; zero where the system
/// does not tell.
pub(crate) fn usage() -> (u64, u64) {
    (cpu_ms().unwrap_or_default(), resident_bytes().unwrap_or_default())
}

fn cpu_ms() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the command in parentheses and may hold anything; fields 14 and 15 are the times in ticks.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    // USER_HZ is 100 on every Linux that there is.
    Some(ticks * 10)
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_uses_memory() {
        let (_, resident) = super::usage();
        assert!(resident > 100_000, "{resident}");
    }
}
