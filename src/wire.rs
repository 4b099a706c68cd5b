//! The bytes that VMs exchange through shared data: keys, a common header, and little-endian fields.
//!
//! Two binaries of different age may run in one process while Envoy is being updated, so every blob says
//! what it is: four bytes of magic, one byte of version, eight bytes of generation. A reader that doesn't
//! know the magic or the version treats the blob as missing; a reader that runs past the end does as well.
//! Golden vectors in `tests/spec` pin the bytes.

/// The compare-and-swap version that no value has. A set with it succeeds only where nothing is stored yet,
/// since Envoy checks the version of an existing value and ignores it for a missing one.
pub const CREATE: u32 = u32::MAX;

/// Writes one blob.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Starts a blob with its header.
    pub fn new(magic: &[u8; 4], version: u8, generation: u64) -> Writer {
        let mut writer = Writer { bytes: Vec::with_capacity(64) };
        writer.bytes.extend_from_slice(magic);
        writer.u8(version);
        writer.u64(generation);
        writer
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Four bytes of IEEE 754.
    pub fn f32(&mut self, value: f32) {
        self.u32(value.to_bits());
    }

    /// A length in two bytes and the text; what is longer than 65,535 bytes is cut at a character.
    pub fn text(&mut self, text: &str) {
        let end = text.floor_char_boundary(usize::from(u16::MAX));
        let text = text.get(..end).unwrap_or_default();
        self.u16(u16::try_from(text.len()).unwrap_or(0));
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// The blob.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads one blob, field by field; `None` from any field means that the blob is not to be used.
#[derive(Debug)]
pub struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    /// Checks the header; gives the reader behind it and the generation.
    pub fn new(blob: &'b [u8], magic: &[u8; 4], version: u8) -> Option<(Reader<'b>, u64)> {
        let rest = blob.strip_prefix(magic)?.strip_prefix(&[version])?;
        let mut reader = Reader { rest };
        let generation = reader.u64()?;
        Some((reader, generation))
    }

    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(u8::from_le_bytes)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Four bytes of IEEE 754; nothing that is written is infinite or no number.
    pub fn f32(&mut self) -> Option<f32> {
        self.u32().map(f32::from_bits).filter(|value| value.is_finite())
    }

    /// A text with its length.
    pub fn text(&mut self) -> Option<&'b str> {
        let length = usize::from(self.u16()?);
        let (text, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        std::str::from_utf8(text).ok()
    }

    /// What follows, whatever it is.
    pub fn rest(&self) -> &'b [u8] {
        self.rest
    }

    /// True when every byte was read.
    pub fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*array)
    }
}
