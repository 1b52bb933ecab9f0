//! Lines out of chunks, and where to go on after a break. *In*: chunks of one connection or several. *Out*: pieces to write.
//! *Invariant*: a line that fits is one piece, so that what is written ends with a whole line; of a longer one each byte is
//! written once.

use crate::gateway::Range;
use crate::output;
use anyhow::Context;

/// Longer lines are written in pieces as they come.
const WHOLE: usize = 8 << 20;
const HEAD: &[u8] = b"{\"index\":";

/// A part of a line.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// With the line break, at the end.
    pub bytes: Vec<u8>,
    /// The line's task.
    pub index: u64,
    /// The line begins with it.
    pub begins: bool,
    /// The line ends with it.
    pub ends: bool,
}

/// Puts lines together.
#[derive(Debug)]
pub struct Lines {
    range: Range,
    /// Of the current line and not handed out.
    held: Vec<u8>,
    /// The task of the current line, of which something was handed out.
    within: Option<u64>,
    received: u64,
    whole: usize,
}

impl Lines {
    /// Of what is asked for.
    pub fn new(range: Range) -> Self {
        // Only lines whose outputs are bounded are held whatever their length.
        let whole = if range.largest.is_some() { usize::MAX } else { WHOLE };
        Self { range, held: Vec::new(), within: None, received: 0, whole }
    }

    /// What to ask for now: all that is not [`Lines::done`]; it comes again.
    pub fn range(&mut self) -> &Range {
        self.held.clear();
        self.within = (self.range.skip > 0).then_some(self.range.from);
        &self.range
    }

    /// The task whose line is not done.
    pub fn next(&self) -> u64 {
        self.range.from
    }

    /// Nothing came.
    pub fn is_empty(&self) -> bool {
        self.received == 0
    }

    /// Bytes that came.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Nothing of a line is missing.
    pub fn at_end_of_line(&self) -> bool {
        self.held.is_empty() && self.within.is_none()
    }

    /// Takes a chunk in.
    pub fn feed(&mut self, chunk: &[u8]) -> anyhow::Result<Vec<Piece>> {
        self.received += chunk.len() as u64;
        let mut pieces = Vec::new();
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            self.held.extend(part);
            let ends = part.ends_with(b"\n");
            if !ends && self.held.len() < self.whole {
                continue;
            }
            let bytes = std::mem::take(&mut self.held);
            let begins = self.within.is_none();
            let index = self.within.map_or_else(|| index(&bytes), Ok)?;
            self.within = (!ends).then_some(index);
            pieces.push(Piece { bytes, index, begins, ends });
        }
        Ok(pieces)
    }

    /// A piece was written: it need not come again.
    pub fn done(&mut self, piece: &Piece) {
        let Range { from, count, skip, .. } = &mut self.range;
        let next = piece.index + u64::from(piece.ends);
        *count = count.map(|count| (*from + count).saturating_sub(next));
        *skip = if piece.ends { 0 } else { *skip + piece.bytes.len() as u64 };
        *from = next;
    }
}

/// A line begins with its task's number.
fn index(line: &[u8]) -> anyhow::Result<u64> {
    let digits = line.strip_prefix(HEAD).and_then(|rest| rest.split(|byte| !byte.is_ascii_digit()).next());
    let number = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    number.context("the gateway's results cannot be read: are CLI and pool of the same version?")
}

/// Where pieces go: as lines, or as one array.
#[derive(Debug)]
pub struct Sink {
    array: bool,
    begun: bool,
    torn: bool,
}

impl Sink {
    /// One document, or lines.
    pub fn new(array: bool) -> Self {
        Self { array, begun: false, torn: false }
    }

    /// Writes a piece.
    pub fn write(&mut self, piece: &Piece) -> anyhow::Result<()> {
        self.torn = !piece.ends;
        if !self.array {
            return output::write(&piece.bytes);
        }
        if piece.begins {
            output::write(if self.begun { b",\n" } else { b"[\n" })?;
            self.begun = true;
        }
        output::write(piece.bytes.strip_suffix(b"\n").unwrap_or(&piece.bytes))
    }

    /// Closes a document, unless it is torn.
    pub fn end(&self) -> anyhow::Result<()> {
        if self.array && self.begun && !self.torn { output::write(b"\n]\n") } else { Ok(()) }
    }

    /// What to say of a line that is not whole.
    pub fn torn(&self) -> &'static str {
        if self.torn { " in the midst of a long line, which is cut off" } else { "" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(pieces: Vec<Piece>) -> Vec<String> {
        pieces.into_iter().map(|piece| String::from_utf8(piece.bytes).unwrap()).collect()
    }

    #[test]
    fn lines_are_whole_and_a_break_repeats_nothing() {
        let mut lines = Lines::new(Range { from: 3, ..Range::default() });
        assert!(lines.is_empty() && lines.next() == 3);
        let pieces = lines.feed(b"{\"index\":3,\"output\":1}\n{\"index\":7,\"o").unwrap();
        assert_eq!((pieces.len(), lines.next()), (1, 3), "it is not written yet");
        lines.done(&pieces[0]);
        assert_eq!(text(pieces), ["{\"index\":3,\"output\":1}\n"]);
        assert!(!lines.at_end_of_line());
        let range = lines.range();
        assert_eq!((range.from, range.skip), (4, 0), "of the line that broke nothing was written");
        let pieces = lines.feed(b"{\"index\":7,\"output\":2}\n").unwrap();
        lines.done(&pieces[0]);
        assert!(lines.at_end_of_line() && lines.next() == 8);
        assert!(Lines::new(Range::default()).feed(b"{\"i\":1}\n").is_err());
    }

    #[test]
    fn a_long_line_goes_on_where_it_broke() {
        let mut lines = Lines::new(Range { count: Some(10), ..Range::default() });
        lines.whole = 16;
        let first = lines.feed(b"{\"index\":5,\"outputBase64\":\"AAAA").unwrap();
        assert_eq!((first.len(), first[0].begins, first[0].ends), (1, true, false));
        lines.done(&first[0]);
        assert!(lines.feed(b"BB").unwrap().is_empty());
        let range = lines.range();
        assert_eq!((range.from, range.count, range.skip), (5, Some(5), 31));
        let rest = lines.feed(b"BB\"}\n").unwrap();
        assert_eq!(rest, [Piece { bytes: b"BB\"}\n".to_vec(), index: 5, begins: false, ends: true }]);
        lines.done(&rest[0]);
        let range = lines.range();
        assert_eq!((range.from, range.count, range.skip), (6, Some(4), 0));
    }

    #[test]
    fn lines_that_must_be_whole_are_whatever_their_length() {
        let mut lines = Lines::new(Range { largest: Some(1), ..Range::default() });
        assert!(
            lines
                .feed(&[b"{\"index\":1,\"outputBase64\":\"".as_slice(), &[b'A'; 2 * WHOLE]].concat())
                .unwrap()
                .is_empty()
        );
        assert_eq!(lines.feed(b"\"}\n").unwrap().len(), 1);
    }
}
