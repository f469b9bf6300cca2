//! Masking: XOR with a repeating four-byte key.

/// Bytes per step; wide enough for vector registers.
const STRIDE: usize = 32;

/// Masks or unmasks `bytes` in place: RFC 6455 section 5.3, octet i is XORed with key octet i mod
/// 4. `offset` is the position of the first byte of `bytes` in the payload, so that a payload can
/// be masked in pieces.
pub fn apply_mask(bytes: &mut [u8], key: [u8; 4], offset: usize) {
    let wide: [u8; STRIDE] = std::array::from_fn(|i| key[(offset % 4 + i) % 4]);
    let (strides, rest) = bytes.as_chunks_mut::<STRIDE>();
    for stride in strides {
        xor(stride, &wide);
    }
    xor(rest, &wide);
}

fn xor(bytes: &mut [u8], key: &[u8; STRIDE]) {
    for (byte, key) in bytes.iter_mut().zip(key) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    fn masked_byte_by_byte(bytes: &[u8]) -> Vec<u8> {
        bytes.iter().enumerate().map(|(i, byte)| byte ^ KEY[i % 4]).collect()
    }

    #[test]
    fn the_example_of_the_rfc_unmasks() {
        let mut bytes = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        apply_mask(&mut bytes, KEY, 0);
        assert_eq!(&bytes, b"Hello");
    }

    #[test]
    fn every_length_around_the_stride_equals_the_definition() {
        for len in 0..=3 * STRIDE + 5 {
            let plain: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut masked = plain.clone();
            apply_mask(&mut masked, KEY, 0);
            assert_eq!(masked, masked_byte_by_byte(&plain), "length {len}");
        }
    }

    #[test]
    fn masking_in_two_pieces_equals_masking_at_once() {
        let plain: Vec<u8> = (0..100).collect();
        for cut in 0..plain.len() {
            let mut masked = plain.clone();
            let (head, tail) = masked.split_at_mut(cut);
            apply_mask(head, KEY, 0);
            apply_mask(tail, KEY, cut);
            assert_eq!(masked, masked_byte_by_byte(&plain), "cut at {cut}");
        }
    }
}
