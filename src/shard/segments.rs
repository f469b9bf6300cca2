//! A table that only grows, in segments: nothing is ever copied, so no growth takes long, and what
//! is not used is less than a segment.

/// Entries of a segment; a power of two.
const SEGMENT: usize = 256;

/// Entries by number. Bounded by its owner.
#[derive(Debug)]
pub struct Segments<T> {
    /// All full but the last one; none is empty.
    segments: Vec<Vec<T>>,
}

impl<T> Default for Segments<T> {
    fn default() -> Self {
        Segments { segments: Vec::new() }
    }
}

impl<T> Segments<T> {
    pub fn len(&self) -> usize {
        self.segments.last().map_or(0, |last| (self.segments.len() - 1) * SEGMENT + last.len())
    }

    pub fn push(&mut self, entry: T) {
        match self.segments.last_mut() {
            Some(last) if last.len() < SEGMENT => last.push(entry),
            _ => {
                let mut segment = Vec::with_capacity(SEGMENT);
                segment.push(entry);
                self.segments.push(segment);
            }
        }
    }

    pub fn get(&self, at: usize) -> Option<&T> {
        self.segments.get(at / SEGMENT)?.get(at % SEGMENT)
    }

    pub fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        self.segments.get_mut(at / SEGMENT)?.get_mut(at % SEGMENT)
    }

    /// The number of the first entry from `from` on that is wanted.
    pub fn position(&self, from: usize, is_wanted: impl Fn(&T) -> bool) -> Option<usize> {
        let mut skip = from % SEGMENT;
        for (segment, entries) in self.segments.iter().enumerate().skip(from / SEGMENT) {
            let found = entries.get(skip..)?.iter().position(&is_wanted);
            if let Some(found) = found {
                return Some(segment * SEGMENT + skip + found);
            }
            skip = 0;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_numbers() {
        let mut table = Segments::default();
        for number in 0..3 * SEGMENT + 7 {
            assert_eq!(table.len(), number);
            assert!(table.get(number).is_none());
            table.push(number);
        }
        for number in 0..table.len() {
            assert_eq!(table.get(number), Some(&number));
            *table.get_mut(number).unwrap() += 1;
        }
        assert_eq!(table.get(SEGMENT), Some(&(SEGMENT + 1)));
    }

    #[test]
    fn the_first_wanted_entry_is_found_from_wherever_one_begins() {
        let mut table = Segments::default();
        (0..2 * SEGMENT + 3).for_each(|number| table.push(number));
        let last = table.len() - 1;
        for wanted in [0, 5, SEGMENT - 1, SEGMENT, last] {
            for from in [0, wanted / 2, wanted] {
                assert_eq!(table.position(from, |&entry| entry >= wanted), Some(wanted));
            }
            assert_eq!(table.position(wanted + 1, |&entry| entry == wanted), None);
        }
        assert_eq!(table.position(10 * SEGMENT, |_| true), None);
    }
}
