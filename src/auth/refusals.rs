//! Counts of refused credentials, by cause.

use enum_map::EnumMap;

use super::CredentialError;

/// Refused tokens and keys since start. All are counted, although the log is rate-limited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    by_cause: EnumMap<CredentialError, u64>,
    all: u64,
}

impl Refusals {
    /// Counts a refusal and returns its cause.
    pub fn count(&mut self, cause: CredentialError) -> CredentialError {
        self.by_cause[cause] += 1;
        self.all += 1;
        cause
    }

    /// Refusals of all causes.
    pub fn all(&self) -> u64 {
        self.all
    }

    /// Every cause with its count, in the order of [`CredentialError`].
    pub fn by_cause(&self) -> impl Iterator<Item = (CredentialError, u64)> {
        self.by_cause.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use enum_map::Enum;

    use super::*;

    #[test]
    fn every_refusal_counts_for_its_cause_alone() {
        let mut refusals = Refusals::default();
        let causes = || (0..CredentialError::LENGTH).map(CredentialError::from_usize);
        for (times, cause) in causes().enumerate() {
            (0..times).for_each(|_| assert_eq!(refusals.count(cause), cause));
        }
        assert!(refusals.by_cause().eq(causes().zip(0..)), "{refusals:?}");
        assert_eq!(refusals.all(), refusals.by_cause().map(|(_, count)| count).sum::<u64>());
    }
}
