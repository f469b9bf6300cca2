//! A table that only grows, in segments: nothing is ever copied, so no growth takes long, and what
//! is not used is less than a segment.

/// Entries of a segment; a power of two.
const SEGMENT: usize = 256;

/// Entries by number. Bounded by its owner.
#[derive(Debug)]
pub struct SegmentedVec<T> {
    segments: Vec<Box<[T; SEGMENT]>>,
    len: usize,
}

impl<T> Default for SegmentedVec<T> {
    fn default() -> Self {
        SegmentedVec { segments: Vec::new(), len: 0 }
    }
}

impl<T: Default> SegmentedVec<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds an entry of no content; returns its number.
    pub fn grow(&mut self) -> usize {
        let at = self.len;
        if at == self.segments.len() * SEGMENT {
            let entries: Box<[T]> = (0..SEGMENT).map(|_| T::default()).collect();
            self.segments.extend(entries.try_into());
        }
        self.len += 1;
        at
    }

    /// The entry; what was not added yet has no content, or is not there.
    pub fn get(&self, at: usize) -> Option<&T> {
        self.segments.get(at / SEGMENT).map(|segment| &segment[at % SEGMENT])
    }

    pub fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        self.segments.get_mut(at / SEGMENT).map(|segment| &mut segment[at % SEGMENT])
    }

    /// The number of the first entry from `from` on that is wanted.
    pub fn position(&self, from: usize, is_wanted: impl Fn(&T) -> bool) -> Option<usize> {
        let mut begin = from;
        while begin < self.len {
            let segment = begin / SEGMENT;
            let end = self.len.min((segment + 1) * SEGMENT);
            let entries = &self.segments[segment][begin % SEGMENT..][..end - begin];
            if let Some(found) = entries.iter().position(&is_wanted) {
                return Some(begin + found);
            }
            begin = end;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_numbers() {
        let mut table = SegmentedVec::default();
        for number in 0..3 * SEGMENT + 7 {
            assert_eq!((table.len(), table.grow()), (number, number));
            *table.get_mut(number).unwrap() = number;
        }
        for number in 0..table.len() {
            assert_eq!(table.get(number), Some(&number));
        }
        assert_eq!(table.get(4 * SEGMENT), None);
    }

    #[test]
    fn the_first_wanted_entry_is_found_from_wherever_one_begins() {
        let mut table = SegmentedVec::default();
        for number in 0..2 * SEGMENT + 3 {
            table.grow();
            *table.get_mut(number).unwrap() = number;
        }
        let last = table.len() - 1;
        for wanted in [0, 5, SEGMENT - 1, SEGMENT, last] {
            for from in [0, wanted / 2, wanted] {
                assert_eq!(table.position(from, |&entry| entry >= wanted), Some(wanted));
            }
            assert_eq!(table.position(wanted + 1, |&entry| entry == wanted), None);
        }
        assert_eq!(table.position(last + 1, |_| true), None, "only what was added");
        assert_eq!(table.position(10 * SEGMENT, |_| true), None);
    }
}
