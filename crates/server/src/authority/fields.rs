//! The fields of a header block, as far as it takes to find a literal `:authority` (HPACK, RFC 7541, section 6).
//!
//! Names are known by their index alone: `:authority` is the first entry of the table that both sides have from the start,
//! and encoders refer to it. A client that would spell the name out is served as if this module were not there.

use super::value::Authority;

/// The index of `:authority` in the static table.
const AUTHORITY: u32 = 1;

/// Shifts of the last byte of an integer that still fits into 32 bits; longer ones, hyper refuses.
const SHIFT_MAX: u32 = 21;

/// Where in a header block we are.
#[derive(Debug, Default)]
pub struct Fields {
    at: At,
}

#[derive(Debug, Default)]
enum At {
    /// Before a field.
    #[default]
    Field,
    /// Within an integer that did not fit into its first byte.
    Integer { of: Integer, value: u32, shift: u32 },
    /// Before the length of a string.
    Length(Text),
    /// Within a string.
    Text { text: Text, left: u32, authority: Authority },
    /// What came cannot be; the rest of the block passes.
    Lost,
}

/// What an integer stands for.
#[derive(Clone, Copy, Debug)]
enum Integer {
    /// A whole field: one of the table, or a change of the table's size.
    Whole,
    /// The index of a literal's name; 0: the name follows.
    Name,
    /// The length of a string, and whether it is Huffman-coded.
    Length(Text, bool),
}

/// What a string is.
#[derive(Clone, Copy, Debug)]
enum Text {
    Name,
    Value,
    Authority,
}

impl Fields {
    /// Follows the next bytes of the block, and overwrites in them what must be.
    pub fn pass(&mut self, mut block: &mut [u8]) {
        while let Some(&first) = block.first() {
            let mut taken = 1;
            match &mut self.at {
                At::Field => self.field(first),
                At::Integer { of, value, shift } => {
                    let of = *of;
                    *value += u32::from(first & 0x7f) << *shift;
                    if first & 0x80 == 0 {
                        let value = *value;
                        self.integer(of, value);
                    } else if *shift == SHIFT_MAX {
                        self.at = At::Lost;
                    } else {
                        *shift += 7;
                    }
                }
                At::Length(text) => {
                    let of = Integer::Length(*text, first & 0x80 != 0);
                    self.first_byte(of, first, 0x7f);
                }
                At::Text { text, left, authority } => {
                    let text = *text;
                    taken = block.len().min(*left as usize);
                    if let Text::Authority = text {
                        authority.pass(&mut block[..taken]);
                    }
                    // At most `left`.
                    *left -= taken as u32;
                    if *left == 0 {
                        self.at = after(text);
                    }
                }
                At::Lost => return,
            }
            block = &mut block[taken..];
        }
    }

    /// The first byte of a field.
    fn field(&mut self, first: u8) {
        match first {
            // One of the table.
            0x80.. => self.first_byte(Integer::Whole, first, 0x7f),
            // A literal that enters the table.
            0x40.. => self.first_byte(Integer::Name, first, 0x3f),
            // A change of the table's size.
            0x20.. => self.first_byte(Integer::Whole, first, 0x1f),
            // A literal that does not enter it, or never may.
            _ => self.first_byte(Integer::Name, first, 0x0f),
        }
    }

    /// The first byte of an integer, which has the bits of `mask` in it.
    fn first_byte(&mut self, of: Integer, byte: u8, mask: u8) {
        let value = u32::from(byte & mask);
        if byte & mask == mask {
            self.at = At::Integer { of, value, shift: 0 };
        } else {
            self.integer(of, value);
        }
    }

    fn integer(&mut self, of: Integer, value: u32) {
        self.at = match of {
            Integer::Whole => At::Field,
            Integer::Name if value == 0 => At::Length(Text::Name),
            Integer::Name if value == AUTHORITY => At::Length(Text::Authority),
            Integer::Name => At::Length(Text::Value),
            Integer::Length(text, _) if value == 0 => after(text),
            Integer::Length(text, huffman) => At::Text { text, left: value, authority: Authority::new(huffman) },
        };
    }
}

/// What comes after a string.
fn after(text: Text) -> At {
    match text {
        Text::Name => At::Length(Text::Value),
        Text::Value | Text::Authority => At::Field,
    }
}
