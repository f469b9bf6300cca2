//! How many credentials were refused, by cause.

use super::CredentialError;

/// Refused tokens and keys since start. A cause is counted every time, however often it is logged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    by_cause: [u64; CredentialError::ALL.len()],
    all: u64,
}

impl Refusals {
    /// Counts one refusal and hands its cause on.
    pub fn count(&mut self, cause: CredentialError) -> CredentialError {
        self.by_cause[cause as usize] += 1;
        self.all += 1;
        cause
    }

    /// Refusals of every cause together.
    pub fn all(&self) -> u64 {
        self.all
    }

    /// Every cause with its count, in the order of [`CredentialError::ALL`].
    pub fn by_cause(&self) -> impl Iterator<Item = (CredentialError, u64)> {
        CredentialError::ALL.into_iter().zip(self.by_cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_counts_for_its_cause_alone() {
        let mut refusals = Refusals::default();
        for (times, cause) in CredentialError::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| assert_eq!(refusals.count(cause), cause));
        }
        let expected = CredentialError::ALL.into_iter().zip(0..);
        assert!(refusals.by_cause().eq(expected), "{refusals:?}");
        assert_eq!(refusals.all(), refusals.by_cause().map(|(_, count)| count).sum::<u64>());
    }
}
