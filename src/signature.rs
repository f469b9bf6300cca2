//! Ed25519 signatures of the graph extension (`docs/protocol.md`): of a peer's metadata by the
//! peer, and the proof that a client holds the key that it names.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

/// Bytes of a public key, which is the key of a peer that signs.
pub const PUBLIC_KEY_BYTES: usize = 32;

pub const SIGNATURE_BYTES: usize = 64;

/// Bytes that the server chooses for one connection.
pub const NONCE_BYTES: usize = 32;

/// The public key of a client, with the signature over the server's nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProvenKey {
    pub public: [u8; PUBLIC_KEY_BYTES],
    pub proof: [u8; SIGNATURE_BYTES],
}

/// A peer's signature of its metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataSignature {
    /// Greater with each value of the metadata.
    pub version: u64,
    /// When it was signed, milliseconds since the Unix epoch by the clock of the signer.
    pub issued_ms: u64,
    pub bytes: [u8; SIGNATURE_BYTES],
}

impl ProvenKey {
    pub fn new(key: &SigningKey, nonce: &[u8]) -> Self {
        let public = key.verifying_key().to_bytes();
        ProvenKey { public, proof: key.sign(&proof_text(nonce, &public)).to_bytes() }
    }

    /// Whether the client holds the key.
    pub fn is_proven(&self, nonce: &[u8]) -> bool {
        verify(&self.public, &proof_text(nonce, &self.public), &self.proof)
    }
}

impl MetadataSignature {
    pub fn new(key: &SigningKey, version: u64, issued_ms: u64, metadata: &[u8]) -> Self {
        let public = key.verifying_key().to_bytes();
        let bytes = key.sign(&metadata_text(&public, version, issued_ms, metadata)).to_bytes();
        MetadataSignature { version, issued_ms, bytes }
    }

    /// Whether the peer with this key has signed this metadata.
    pub fn is_valid(&self, key: &[u8], metadata: &[u8]) -> bool {
        verify(key, &metadata_text(key, self.version, self.issued_ms, metadata), &self.bytes)
    }
}

fn proof_text(nonce: &[u8], public: &[u8]) -> Vec<u8> {
    [b"headcount peer proof 1", nonce, public].concat()
}

fn metadata_text(key: &[u8], version: u64, issued_ms: u64, metadata: &[u8]) -> Vec<u8> {
    let numbers = [version.to_be_bytes(), issued_ms.to_be_bytes()].concat();
    [b"headcount peer metadata 1", key, &numbers, metadata].concat()
}

/// Refuses weak keys, which would let a signature fit other texts.
fn verify(key: &[u8], text: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
    let key = key.try_into().ok().and_then(|key| VerifyingKey::from_bytes(key).ok());
    key.is_some_and(|key| key.verify_strict(text, &Signature::from_bytes(signature)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    #[test]
    fn a_signature_is_of_one_key_version_time_and_metadata() {
        let signed = MetadataSignature::new(&key(1), 7, 1_000, b"{}");
        let public = key(1).verifying_key().to_bytes();
        assert!(signed.is_valid(&public, b"{}"));
        assert!(!signed.is_valid(&public, b"{ }"));
        assert!(!signed.is_valid(&key(2).verifying_key().to_bytes(), b"{}"));
        assert!(!signed.is_valid(&public[..16], b"{}"));
        assert!(!MetadataSignature { version: 8, ..signed }.is_valid(&public, b"{}"));
        assert!(!MetadataSignature { issued_ms: 999, ..signed }.is_valid(&public, b"{}"));
    }

    #[test]
    fn a_key_is_proven_for_one_nonce() {
        let proven = ProvenKey::new(&key(1), &[3; NONCE_BYTES]);
        assert!(proven.is_proven(&[3; NONCE_BYTES]));
        assert!(!proven.is_proven(&[4; NONCE_BYTES]));
        let public = key(2).verifying_key().to_bytes();
        assert!(!ProvenKey { public, ..proven }.is_proven(&[3; NONCE_BYTES]));
    }

    #[test]
    fn a_weak_key_proves_nothing() {
        // The neutral element: its signatures fit every text.
        let mut public = [0; PUBLIC_KEY_BYTES];
        public[0] = 1;
        let mut proof = [0; SIGNATURE_BYTES];
        proof[0] = 1;
        assert!(!ProvenKey { public, proof }.is_proven(&[0; NONCE_BYTES]));
    }
}
