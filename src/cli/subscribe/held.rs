//! Messages that arrived before their predecessors.

use std::collections::BTreeMap;

use super::line::Line;

/// Most bytes of lines that are held for one channel; a single message may be larger. A message
/// beyond that is dropped and fetched later.
const BYTES_MAX: usize = 8 * 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct Held {
    /// By serial.
    lines: BTreeMap<u64, Vec<Line>>,
    bytes: usize,
}

impl Held {
    /// Keeps a message if there is room.
    pub fn keep(&mut self, serial: u64, lines: Vec<Line>) {
        let bytes = bytes(&lines);
        if self.lines.is_empty() || self.bytes + bytes <= BYTES_MAX {
            self.bytes += bytes;
            let before = self.lines.insert(serial, lines);
            self.bytes -= before.map_or(0, |before| self::bytes(&before));
        }
    }

    /// Serial of the first message.
    pub fn first(&self) -> Option<u64> {
        self.lines.first_key_value().map(|(serial, _)| *serial)
    }

    /// Takes the first message out.
    pub fn pop(&mut self) -> Option<Vec<Line>> {
        let (_, lines) = self.lines.pop_first()?;
        self.bytes -= bytes(&lines);
        Some(lines)
    }
}

fn bytes(lines: &[Line]) -> usize {
    lines.iter().map(|line| line.text().len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: usize) -> Vec<Line> {
        vec![Line::Message("x".repeat(bytes))]
    }

    #[test]
    fn messages_leave_in_the_order_of_their_serials_once() {
        let mut held = Held::default();
        for serial in [9, 7, 8, 7] {
            held.keep(serial, lines(10));
        }
        assert_eq!(held.bytes, 30);
        let mut order = Vec::new();
        while let Some(serial) = held.first() {
            order.push(serial);
            held.pop();
        }
        assert_eq!((order, held.bytes), (vec![7, 8, 9], 0));
    }

    #[test]
    fn what_does_not_fit_is_let_go() {
        let mut held = Held::default();
        held.keep(1, lines(BYTES_MAX + 1));
        held.keep(2, lines(1));
        assert_eq!(held.lines.len(), 1);
        held.pop();
        held.keep(3, lines(BYTES_MAX));
        held.keep(4, lines(1));
        assert_eq!(held.first(), Some(3));
        assert_eq!(held.lines.len(), 1);
    }
}
