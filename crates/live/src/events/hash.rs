//! Identities of KV blocks, computed from token ids as vLLM 0.32 does.
//!
//! A block is identified by SHA-256 of its parent's digest, its token ids and what else its content depends on, as Python
//! pickles them or in canonical CBOR. Events have the last 8 bytes of a digest as a number.

use sha2::{Digest as _, Sha256};

/// What identifies a block, and all before it.
pub(crate) type Digest = [u8; 32];

/// How what is hashed is written down: `--prefix-caching-hash-algo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HashAlgorithm {
    /// As Python pickles it, protocol 5: `sha256`.
    #[default]
    Sha256,
    /// As canonical CBOR: `sha256_cbor`.
    Sha256Cbor,
}

/// Computes the digests of blocks.
#[derive(Debug, Clone)]
pub(crate) struct BlockDigests {
    algorithm: HashAlgorithm,
    /// Parent of blocks that begin a sequence.
    root: Digest,
}

impl BlockDigests {
    /// With a seed: vLLM has that of `PYTHONHASHSEED`, or else `vllm-none-hash`.
    pub(crate) fn new(algorithm: HashAlgorithm, seed: &str) -> Self {
        let mut bytes = Vec::new();
        match algorithm {
            HashAlgorithm::Sha256 => {
                let mut pickle = Pickle::new(&mut bytes);
                pickle.text(seed);
                pickle.end();
            }
            HashAlgorithm::Sha256Cbor => cbor_text(&mut bytes, seed),
        }
        Self { algorithm, root: Sha256::digest(bytes).into() }
    }

    /// Of a block that continues another one, or begins a sequence. What begins a sequence may have a salt.
    pub(crate) fn block(&self, parent: Option<&Digest>, tokens: &[u32], salt: Option<&str>) -> Digest {
        let parent = parent.unwrap_or(&self.root);
        let mut bytes = Vec::with_capacity(64 + 3 * tokens.len());
        match self.algorithm {
            HashAlgorithm::Sha256 => pickled(&mut bytes, parent, tokens, salt),
            HashAlgorithm::Sha256Cbor => cbor(&mut bytes, parent, tokens, salt),
        }
        Sha256::digest(bytes).into()
    }
}

/// The number by which events name a block.
pub(crate) fn published(digest: &Digest) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = *digest;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// What the extra key of a salted block is called.
const SALT: &str = "cache_salt";

/// `(parent, (token, …), (("cache_salt", salt),))` or with None at the end, as `pickle.dumps(…, protocol=5)` writes it.
fn pickled(out: &mut Vec<u8>, parent: &Digest, tokens: &[u32], salt: Option<&str>) {
    let mut pickle = Pickle::new(out);
    pickle.bytes(parent);
    pickle.tuple(tokens.len(), |pickle, at| pickle.number(tokens[at]));
    match salt {
        None => pickle.none(),
        Some(salt) => pickle.tuple(1, |pickle, _| {
            pickle.tuple(2, |pickle, at| pickle.text(if at == 0 { SALT } else { salt }));
        }),
    }
    pickle.close_tuple(3);
    pickle.end();
}

/// Writes Python objects as its pickler does, protocol 5.
struct Pickle<'a> {
    out: &'a mut Vec<u8>,
    /// Where the frame begins that is being written.
    frame: usize,
}

/// What a frame begins with: its opcode, and its length in 8 bytes.
const FRAME_HEAD: usize = 9;

impl<'a> Pickle<'a> {
    fn new(out: &'a mut Vec<u8>) -> Self {
        out.extend([0x80, 5]);
        let mut pickle = Self { out, frame: 0 };
        pickle.begin_frame();
        pickle
    }

    fn begin_frame(&mut self) {
        self.frame = self.out.len();
        self.out.extend([0x95, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    fn end_frame(&mut self) {
        let length = self.out.len() - self.frame - FRAME_HEAD;
        if length < 4 {
            // It is not worth a frame.
            self.out.drain(self.frame..self.frame + FRAME_HEAD);
        } else {
            self.out[self.frame + 1..self.frame + FRAME_HEAD].copy_from_slice(&(length as u64).to_le_bytes());
        }
    }

    /// An object is complete: a frame that is long enough ends.
    fn complete(&mut self) {
        if self.out.len() - self.frame - FRAME_HEAD >= 1 << 16 {
            self.end_frame();
            self.begin_frame();
        }
    }

    /// It could be referred to.
    fn memoize(&mut self) {
        self.out.push(0x94);
    }

    fn none(&mut self) {
        self.out.push(b'N');
        self.complete();
    }

    fn number(&mut self, number: u32) {
        let [a, b, c, d] = number.to_le_bytes();
        match number {
            0..=0xff => self.out.extend([b'K', a]),
            0x100..=0xffff => self.out.extend([b'M', a, b]),
            0x1_0000..=0x7fff_ffff => self.out.extend([b'J', a, b, c, d]),
            // It has a sign, so it takes a byte more.
            _ => self.out.extend([0x8a, 5, a, b, c, d, 0]),
        }
        self.complete();
    }

    fn bytes(&mut self, digest: &Digest) {
        self.out.extend([b'C', digest.len() as u8]);
        self.out.extend(digest);
        self.memoize();
        self.complete();
    }

    fn text(&mut self, text: &str) {
        if let Ok(length) = u8::try_from(text.len()) {
            self.out.extend([0x8c, length]);
        } else {
            self.out.push(b'X');
            self.out.extend((text.len() as u32).to_le_bytes());
        }
        self.out.extend(text.as_bytes());
        self.memoize();
        self.complete();
    }

    fn tuple(&mut self, len: usize, mut item: impl FnMut(&mut Self, usize)) {
        if len > 3 {
            self.out.push(b'(');
        }
        (0..len).for_each(|at| item(self, at));
        self.close_tuple(len);
    }

    /// Makes a tuple of what came before.
    fn close_tuple(&mut self, len: usize) {
        self.out.push(match len {
            1 => 0x85,
            2 => 0x86,
            3 => 0x87,
            _ => b't',
        });
        self.memoize();
        self.complete();
    }

    fn end(&mut self) {
        self.out.push(b'.');
        self.end_frame();
    }
}

/// The same as `[parent, [token, …], [["cache_salt", salt]]]`, or with null at the end.
fn cbor(out: &mut Vec<u8>, parent: &Digest, tokens: &[u32], salt: Option<&str>) {
    cbor_head(out, ARRAY, 3);
    cbor_head(out, BYTES, parent.len() as u64);
    out.extend(parent);
    cbor_head(out, ARRAY, tokens.len() as u64);
    for &token in tokens {
        cbor_head(out, NUMBER, token.into());
    }
    match salt {
        None => out.push(0xf6),
        Some(salt) => {
            cbor_head(out, ARRAY, 1);
            cbor_head(out, ARRAY, 2);
            cbor_text(out, SALT);
            cbor_text(out, salt);
        }
    }
}

/// Kinds of CBOR.
const NUMBER: u8 = 0 << 5;
const BYTES: u8 = 2 << 5;
const TEXT: u8 = 3 << 5;
const ARRAY: u8 = 4 << 5;

fn cbor_text(out: &mut Vec<u8>, text: &str) {
    cbor_head(out, TEXT, text.len() as u64);
    out.extend(text.as_bytes());
}

/// A kind with a number, in as few bytes as it needs.
fn cbor_head(out: &mut Vec<u8>, kind: u8, number: u64) {
    let bytes = number.to_be_bytes();
    let (code, len) = match number {
        0..=23 => {
            out.push(kind | number as u8);
            return;
        }
        24..=0xff => (24, 1),
        0x100..=0xffff => (25, 2),
        0x1_0000..=0xffff_ffff => (26, 4),
        _ => (27, 8),
    };
    out.push(kind | code);
    out.extend(&bytes[8 - len..]);
}
