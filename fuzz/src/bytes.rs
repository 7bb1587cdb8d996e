//! Choices out of bytes: the same bytes make the same choices, and where they end all choices are zero.

/// What is left of the bytes.
#[derive(Clone, Debug)]
pub struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    /// Choices out of `data`.
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Whether nothing is left.
    pub fn are_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// Yes or no.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A number below `limit`, which is at most 256.
    pub fn below(&mut self, limit: u64) -> u64 {
        u64::from(self.byte()) % limit
    }

    /// A number below 65536.
    pub fn short(&mut self) -> u64 {
        u64::from(self.byte()) << 8 | u64::from(self.byte())
    }

    /// So many of the next bytes, or what there is.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A number that hurts: a small one, near others, or one at the end of a scale.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..=239 => u64::from(small % 16),
            240..=243 => u64::MAX - self.below(4),
            244..=247 => (1 << 62) - 1 + self.below(4),
            248..=249 => 1 << self.below(64),
            _ => self.short(),
        }
    }
}
