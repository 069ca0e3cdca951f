//! Chance, and the bits it picks: those that floats are most likely to go wrong with.

use std::fmt::Write as _;

/// A source of numbers that are the same for the same seed.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(super) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// NaNs of every kind, infinities, subnormals and numbers.
pub(super) fn bits_32(random: &mut Random) -> u32 {
    let some = random.next() as u32;
    let mixed = (some & 0x803f_ffff) | 0x7f80_0000;
    random.pick(&[
        0x7fc0_0000,
        0xffc0_0000,
        0x7fc0_0001,
        0x7f80_0001,
        0xffa1_2345,
        0x7f80_0000,
        0xff80_0000,
        0,
        0x8000_0000,
        1,
        0x007f_ffff,
        0x3f80_0000,
        0xbf80_0000,
        0x7f7f_ffff,
        some,
        mixed,
        0x4000_0000,
        0x3f00_0000,
    ])
}

pub(super) fn bits_64(random: &mut Random) -> u64 {
    let some = random.next();
    let mixed = (some & 0x8007_ffff_ffff_ffff) | 0x7ff0_0000_0000_0000;
    random.pick(&[
        0x7ff8_0000_0000_0000,
        0xfff8_0000_0000_0000,
        0x7ff8_0000_0000_0001,
        0x7ff0_0000_0000_0001,
        0xfff4_1234_5678_9abc,
        0x7ff0_0000_0000_0000,
        0xfff0_0000_0000_0000,
        0,
        0x8000_0000_0000_0000,
        1,
        0x000f_ffff_ffff_ffff,
        0x3ff0_0000_0000_0000,
        0xbff0_0000_0000_0000,
        0x7fc0_0000_7fc0_0000,
        0x7fef_ffff_ffff_ffff,
        some,
        mixed,
        0x4000_0000_0000_0000,
    ])
}

pub(super) fn bits_128(random: &mut Random) -> u128 {
    let mut bits = 0;
    for _ in 0..2 {
        let narrow = u64::from(bits_32(random)) << 32 | u64::from(bits_32(random));
        let half = if random.percent(50) { narrow } else { bits_64(random) };
        bits = bits << 64 | u128::from(half);
    }
    bits
}

/// The first KiB of memory, as text.
pub(super) fn memory(random: &mut Random) -> String {
    let bytes = (0..64).flat_map(|_| bits_128(random).to_le_bytes());
    bytes.fold(String::new(), |mut text, byte| {
        write!(text, "\\{byte:02x}").unwrap();
        text
    })
}

/// A constant with these bits, as text.
pub(super) fn float(name: &str, bits: u64, fraction: u32, exponent: u32) -> String {
    let sign = if bits >> (fraction + exponent) & 1 == 1 { "-" } else { "" };
    let payload = bits & ((1 << fraction) - 1);
    if bits >> fraction & ((1 << exponent) - 1) == (1 << exponent) - 1 && payload != 0 {
        return format!("{name}.const {sign}nan:0x{payload:x}");
    }
    match name {
        "f32" => format!("f32.const {:?}", f32::from_bits(bits as u32)),
        _ => format!("f64.const {:?}", f64::from_bits(bits)),
    }
}
