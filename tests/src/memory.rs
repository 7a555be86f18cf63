//! Looking for words in the memory of a running program.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// True if `needle` is somewhere in `haystack`.
pub fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Which of the needles the memory of a process holds.
pub fn memory_holds<const N: usize>(pid: i32, needles: [&[u8]; N]) -> [bool; N] {
    const PART: usize = 1 << 20;
    const OVERLAP: u64 = 64;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process runs");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("its memory can be read");
    let (mut found, mut read) = ([false; N], 0);
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, access) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let (start, end) = range.split_once('-').expect("a region has two ends");
        let number = |digits| u64::from_str_radix(digits, 16).expect("an address");
        let (mut at, end) = (number(start), number(end));
        // The kernel's own pages ([vvar] and such) cannot be read this way.
        if !access.starts_with('r') || line.ends_with("[vvar]") || line.ends_with("[vsyscall]") {
            continue;
        }
        let mut part = vec![0; PART];
        while at < end {
            let wanted = (end - at).min(PART as u64) as usize;
            let Ok(n @ 1..) = memory.read_at(&mut part[..wanted], at) else { break };
            read += n;
            for (found, needle) in found.iter_mut().zip(needles) {
                *found = *found || holds(&part[..n], needle);
            }
            // What lies across two parts is seen in the second.
            at += if n == PART { n as u64 - OVERLAP } else { n as u64 };
        }
    }
    assert!(read > 1 << 20, "{read} bytes of memory");
    found
}
