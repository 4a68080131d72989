//! FNV-1a, a number that tells contents apart.

pub(crate) struct Fnv(u64);

impl Fnv {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.add_word(u64::from(*b)));
    }

    pub(crate) fn add_word(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x100_0000_01b3);
    }

    pub(crate) fn number(&self) -> u64 {
        self.0
    }
}
