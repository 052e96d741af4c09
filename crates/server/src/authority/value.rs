//! The text of an `:authority`, plain or Huffman-coded (RFC 7541, section 5.2 and appendix B).
//!
//! A slash becomes a `3` and a scheme's colon a `B`: `http://127.0.0.1:2379` arrives as `httpB33127.0.0.1:2379`. The code
//! of each pair differs in its last bit alone. So lengths stay, coded and decoded; and when it is known which character it
//! is, the bit to change is in the byte at hand, although the start of its code may have been passed on before.

/// Schemes that etcd's endpoints have. A host that is called so loses the colon before its port, which harms nobody.
const SCHEMES: [&[u8]; 4] = [b"http", b"https", b"unix", b"unixs"];
/// The longest of them.
const SCHEME_BYTES_MAX: usize = 5;

/// The codes of ASCII's characters: their length in bits, the first code of that length, and whose it and the following
/// ones are. What is not here has longer codes, and is in no authority.
pub const CODES: [(u8, u16, &[u8]); 10] = [
    (5, 0x0, b"012aceiost"),
    (6, 0x14, b" %-./3456789=A_bdfghlmnpru"),
    (7, 0x5c, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, 0xf8, b"&*,;XZ"),
    (10, 0x3f8, b"!\"()?"),
    (11, 0x7fa, b"'+|"),
    (12, 0xffa, b"#>"),
    (13, 0x1ff8, b"\0$@[]~"),
    (14, 0x3ffc, b"^}"),
    (15, 0x7ffc, b"<`{"),
];

fn decode(bits: u8, code: u16) -> Option<u8> {
    let (_, first, characters) = CODES.iter().find(|(length, ..)| *length == bits)?;
    characters.get(usize::from(code.checked_sub(*first)?)).copied()
}

/// A value of which a part has passed.
#[derive(Debug)]
pub struct Authority {
    huffman: bool,
    /// The bits of a character that is not yet complete, and their number.
    code: u16,
    bits: u8,
    /// The first characters.
    start: [u8; SCHEME_BYTES_MAX],
    /// How many characters there have been.
    length: usize,
}

impl Authority {
    /// Nothing of it yet.
    pub fn new(huffman: bool) -> Self {
        Self { huffman, code: 0, bits: 0, start: [0; SCHEME_BYTES_MAX], length: 0 }
    }

    /// Follows the next bytes of the value, and overwrites in them what must be.
    pub fn pass(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if self.huffman {
                self.pass_coded(byte);
            } else if self.is_misplaced(*byte) {
                *byte = if *byte == b'/' { b'3' } else { b'B' };
            }
        }
    }

    fn pass_coded(&mut self, byte: &mut u8) {
        for place in (0..8).rev() {
            let bit = 1 << place;
            self.code = self.code << 1 | u16::from(*byte & bit != 0);
            // Beyond the longest code it never decodes again, and the rest passes.
            self.bits = self.bits.saturating_add(1);
            if let Some(character) = decode(self.bits, self.code) {
                if self.is_misplaced(character) {
                    *byte ^= bit;
                }
                (self.code, self.bits) = (0, 0);
            }
        }
    }

    /// Takes the next character; whether it must be overwritten.
    fn is_misplaced(&mut self, character: u8) -> bool {
        let misplaced = match character {
            b'/' => true,
            b':' => self.start.get(..self.length).is_some_and(|start| SCHEMES.contains(&start)),
            _ => false,
        };
        if let Some(place) = self.start.get_mut(self.length) {
            *place = character;
        }
        self.length += 1;
        misplaced
    }
}
