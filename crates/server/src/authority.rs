//! Makes the `:authority` of Go's etcd clients one that HTTP/2 allows, before hyper reads it. Knows the layout of frames
//! and of header blocks; remembers no header, and answers nothing. Tells, too, that a client speaks HTTP/2, and the heads of its
//! frames.
//!
//! etcdctl 3.4 names an endpoint to the server as it was given on its command line: `:authority: http://127.0.0.1:2379`,
//! or `unix:///run/etcd.sock`; later versions still send the path of a socket. Go's server takes any text there. The h2
//! crate takes what RFC 3986 calls an authority and resets the stream with PROTOCOL_ERROR, long before a request could be
//! seen and put right. So it happens here, on the bytes that come from the socket: in a literal `:authority`, each slash
//! and the colon of a leading scheme are overwritten ([`value`] tells with what, and why no byte has to be held back).
//! Nothing in this server reads the authority.
//!
//! Guarantees: no byte is added, removed, held back or copied; decoded lengths stay, so that the header table of the
//! client and ours stay the same; what is not a literal `:authority` is untouched, and so are connections that are not
//! HTTP/2. What is malformed passes as it is, for hyper to refuse. The state is of fixed size. Reads may be split
//! anywhere. A request costs a look at each of its header fields, and most are one byte; bodies are stepped over.

mod fields;
#[cfg(test)]
mod tests;
mod value;

use fields::Fields;

/// What each client begins an HTTP/2 connection with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's length, type, flags and stream.
pub const HEAD_BYTES: usize = 9;
const PRIORITY_BYTES: u32 = 5;

/// The type of HEADERS.
pub const TYPE_HEADERS: u8 = 1;
const TYPE_CONTINUATION: u8 = 9;
const FLAG_PADDED: u8 = 0x8;
const FLAG_PRIORITY: u8 = 0x20;

/// What a frame's head says, but its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream, 0 for the connection.
    pub stream: u32,
}

impl Head {
    /// With the length of the payload.
    pub fn read(bytes: [u8; HEAD_BYTES]) -> (Self, u32) {
        let [high, middle, low, kind, flags, a, b, c, d] = bytes;
        // The first bit of the stream is reserved.
        let stream = u32::from_be_bytes([a & 0x7f, b, c, d]);
        (Self { kind, flags, stream }, u32::from_be_bytes([0, high, middle, low]))
    }
}

/// The parts of a client's stream of bytes, in their order. After the preface, frames follow each other; those of a frame
/// may be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Preface,
    /// A frame's length, type, flags and stream.
    Head,
    /// In HEADERS with padding: how much padding there is.
    PadLength,
    /// In HEADERS: what comes before the block.
    Priority,
    /// In HEADERS and CONTINUATION: encoded header fields.
    Block,
    /// Padding, or the payload of any other frame.
    Rest,
    /// The connection is not HTTP/2; this part does not end.
    Foreign,
}

/// Where in its frames a client's stream of bytes is.
#[derive(Debug)]
pub struct Frames {
    part: Part,
    /// Bytes of the part that are still to come.
    left: u32,
    head: [u8; HEAD_BYTES],
    /// Lengths of parts of this frame.
    priority: u32,
    block: u32,
    rest: u32,
    /// The header block, which may span frames.
    fields: Fields,
    /// Whether a whole frame has come.
    greeted: bool,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            part: Part::Preface,
            left: PREFACE.len() as u32,
            head: [0; HEAD_BYTES],
            priority: 0,
            block: 0,
            rest: 0,
            fields: Fields::default(),
            greeted: false,
        }
    }
}

impl Frames {
    /// Follows the next bytes, overwrites in them what must be, and shows the heads that end in them.
    pub fn pass(&mut self, mut bytes: &mut [u8], mut each: impl FnMut(Head)) {
        while !bytes.is_empty() && self.part != Part::Foreign {
            let taken = bytes.len().min(self.left as usize);
            let (part, after) = bytes.split_at_mut(taken);
            self.take(part);
            bytes = after;
            // At most `left`.
            self.left -= taken as u32;
            if self.left == 0 {
                self.advance(&mut each);
            }
        }
    }

    /// Some bytes of the current part.
    fn take(&mut self, bytes: &mut [u8]) {
        match self.part {
            Part::Preface => {
                let at = PREFACE.len() - self.left as usize;
                if !PREFACE[at..].starts_with(bytes) {
                    self.part = Part::Foreign;
                }
            }
            Part::Head => {
                let at = HEAD_BYTES - self.left as usize;
                self.head[at..at + bytes.len()].copy_from_slice(bytes);
            }
            Part::PadLength => {
                // More padding than payload is an error that hyper finds.
                self.rest = u32::from(bytes[0]).min(self.block);
                self.block -= self.rest;
            }
            Part::Block => self.fields.pass(bytes),
            Part::Priority | Part::Rest | Part::Foreign => {}
        }
    }

    /// Whether the client has said that it speaks HTTP/2: its preface and a first frame, which are its settings.
    pub fn has_greeted(&self) -> bool {
        self.greeted
    }

    /// The current part is over: goes to the next one that is not empty.
    fn advance(&mut self, each: &mut impl FnMut(Head)) {
        while self.left == 0 && self.part != Part::Foreign {
            self.greeted |= self.part == Part::Rest;
            (self.part, self.left) = match self.part {
                Part::Preface | Part::Rest => (Part::Head, HEAD_BYTES as u32),
                Part::Head => (Part::PadLength, self.begin(each)),
                Part::PadLength => (Part::Priority, self.priority),
                Part::Priority => (Part::Block, self.block),
                Part::Block => (Part::Rest, self.rest),
                Part::Foreign => (Part::Foreign, 0),
            };
        }
    }

    /// Reads a frame's head; the length of [`Part::PadLength`].
    fn begin(&mut self, each: &mut impl FnMut(Head)) -> u32 {
        let (head, payload) = Head::read(self.head);
        each(head);
        let Head { kind, flags, .. } = head;
        (self.priority, self.block, self.rest) = (0, 0, 0);
        let mut pad_length = 0;
        match kind {
            TYPE_HEADERS => {
                self.fields = Fields::default();
                pad_length = u32::from(flags & FLAG_PADDED != 0).min(payload);
                let has_priority = flags & FLAG_PRIORITY != 0;
                self.priority = if has_priority { PRIORITY_BYTES.min(payload - pad_length) } else { 0 };
                self.block = payload - pad_length - self.priority;
            }
            TYPE_CONTINUATION => self.block = payload,
            _ => self.rest = payload,
        }
        pad_length
    }
}
