//! Sizes as people of this field write them. Pure.

/// `64 KiB`, `1 MiB`, `1000 B`: in the largest binary unit that divides it.
pub fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = |shift: u32| bytes > 0 && bytes.is_multiple_of(1 << shift);
    match units.into_iter().find(|(shift, _)| whole(*shift)) {
        Some((shift, unit)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} B"),
    }
}

/// Microseconds with three digits: `9.87`, `98.7`, `987`, `1,234`.
pub fn micros(us: f64) -> String {
    match us {
        us if us < 10.0 => format!("{us:.2}"),
        us if us < 100.0 => format!("{us:.1}"),
        us => crate::repro::words::grouped(us.round() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_short() {
        let sizes = [4096, 65_536, 1 << 20, 3 << 30, 1536, 1000].map(size);
        assert_eq!(sizes, ["4 KiB", "64 KiB", "1 MiB", "3 GiB", "1536 B", "1000 B"]);
        assert_eq!([9.876, 98.76, 987.6, 1234.0].map(micros), ["9.88", "98.8", "988", "1,234"]);
    }
}
