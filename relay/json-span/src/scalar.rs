//! The portable pass: byte by byte, with the exact place and cause of what is wrong. The text is UTF-8.

use crate::automaton::{Automaton, DEAD, StateId};
use crate::error::{ScanCause, ScanError};
use crate::scan::{Frame, Hit, Kind, Scanner, is_white};

/// Checks the text against RFC 8259 and appends the automaton's hits.
pub(crate) fn scan(
    scratch: &mut Scanner,
    automaton: &Automaton,
    text: &[u8],
    depth: usize,
    hits: &mut Vec<Hit>,
) -> Result<(), ScanError> {
    let Scanner { frames, key, .. } = scratch;
    frames.clear();
    let mut walk = Walk { text, at: 0, automaton, frames, key, hits, depth };
    walk.value(automaton.start)?;
    walk.white();
    if walk.at == text.len() { Ok(()) } else { walk.fail(ScanCause::TrailingBytes) }
}

struct Walk<'a> {
    text: &'a [u8],
    at: usize,
    automaton: &'a Automaton,
    frames: &'a mut Vec<Frame>,
    key: &'a mut Vec<u8>,
    hits: &'a mut Vec<Hit>,
    depth: usize,
}

type Scanned<T> = Result<T, ScanError>;

impl Walk<'_> {
    fn fail<T>(&self, cause: ScanCause) -> Scanned<T> {
        let cause = if self.at >= self.text.len() { ScanCause::UnexpectedEnd } else { cause };
        Err(ScanError { offset: self.at, cause })
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn white(&mut self) {
        while self.peek().is_some_and(is_white) {
            self.at += 1;
        }
    }

    /// One value with all that it holds, from the white space before it.
    fn value(&mut self, mut state: StateId) -> Scanned<()> {
        loop {
            self.white();
            let start = self.at;
            let opened = match self.peek() {
                Some(b'{') => self.open(state, Kind::Object)?,
                Some(b'[') => self.open(state, Kind::Array)?,
                _ => {
                    let (kind, escaped) = self.scalar()?;
                    self.take(state, kind, start, escaped);
                    None
                }
            };
            let next = match opened {
                Some(child) => Some(child),
                None => self.after_value()?,
            };
            match next {
                Some(child) => state = child,
                None => return Ok(()),
            }
        }
    }

    /// Reports a scalar or a closed container, in the order of selectors.
    fn take(&mut self, state: StateId, kind: Kind, start: usize, escaped: bool) -> u32 {
        let before = self.hits.len();
        for &(selector, kinds) in &self.automaton.state(state).takes {
            if kinds.has(kind) {
                self.hits.push(Hit { selector, start, end: self.at, kind, escaped });
            }
        }
        (self.hits.len() - before) as u32
    }

    /// Enters a container; gives the state of its first child, or nothing when it is empty and closed again.
    fn open(&mut self, state: StateId, kind: Kind) -> Scanned<Option<StateId>> {
        if self.frames.len() == self.depth {
            return self.fail(ScanCause::Depth);
        }
        let first = self.hits.len();
        let hits = self.take(state, kind, self.at, false);
        let object = kind == Kind::Object;
        self.frames.push(Frame { state, hits, first, index: 0, object });
        self.at += 1;
        self.white();
        match self.peek() {
            Some(b'}') if object => self.close(),
            Some(b']') if !object => self.close(),
            _ if object => return self.member(state).map(Some),
            _ => return Ok(Some(self.automaton.state(state).element(0))),
        }
        Ok(None)
    }

    fn close(&mut self) {
        self.at += 1;
        if let Some(frame) = self.frames.pop() {
            for hit in &mut self.hits[frame.first..][..frame.hits as usize] {
                hit.end = self.at;
            }
        }
    }

    /// What follows a value: the state of the next one, or nothing at the end of the outermost.
    fn after_value(&mut self) -> Scanned<Option<StateId>> {
        while let Some(&Frame { state, object, .. }) = self.frames.last() {
            self.white();
            match self.peek() {
                Some(b',') if object => {
                    self.at += 1;
                    self.white();
                    return self.member(state).map(Some);
                }
                Some(b',') => {
                    self.at += 1;
                    let index = self.frames.last_mut().map_or(0, |frame| {
                        frame.index += 1;
                        frame.index
                    });
                    return Ok(Some(self.automaton.state(state).element(index)));
                }
                Some(b'}') if object => self.close(),
                Some(b']') if !object => self.close(),
                _ => return self.fail(ScanCause::UnexpectedByte),
            }
        }
        Ok(None)
    }

    /// A name and its colon; gives the state of the member's value.
    fn member(&mut self, state: StateId) -> Scanned<StateId> {
        if self.peek() != Some(b'"') {
            return self.fail(ScanCause::UnexpectedByte);
        }
        let start = self.at + 1;
        let escaped = self.string()?;
        let name = start..self.at - 1;
        self.white();
        if self.peek() != Some(b':') {
            return self.fail(ScanCause::UnexpectedByte);
        }
        self.at += 1;
        if state == DEAD {
            return Ok(DEAD);
        }
        Ok(self.automaton.state(state).member(&self.text[name], escaped, self.key))
    }

    fn scalar(&mut self) -> Scanned<(Kind, bool)> {
        match self.peek() {
            Some(b'"') => self.string().map(|escaped| (Kind::String, escaped)),
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| (Kind::Number, false)),
            Some(b't') => self.literal(b"true", Kind::Bool),
            Some(b'f') => self.literal(b"false", Kind::Bool),
            Some(b'n') => self.literal(b"null", Kind::Null),
            _ => self.fail(ScanCause::UnexpectedByte),
        }
    }

    fn literal(&mut self, word: &[u8], kind: Kind) -> Scanned<(Kind, bool)> {
        for expected in word {
            if self.peek() != Some(*expected) {
                return self.fail(ScanCause::UnexpectedByte);
            }
            self.at += 1;
        }
        Ok((kind, false))
    }

    fn digits(&mut self) -> Scanned<()> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { self.fail(ScanCause::Number) } else { Ok(()) }
    }

    fn number(&mut self) -> Scanned<()> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
            if matches!(self.peek(), Some(b'0'..=b'9')) {
                return self.fail(ScanCause::Number);
            }
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// A string from its opening quote; tells whether it has escapes.
    fn string(&mut self) -> Scanned<bool> {
        self.at += 1;
        let mut escaped = false;
        loop {
            while self.peek().is_some_and(|byte| PLAIN[usize::from(byte)]) {
                self.at += 1;
            }
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return self.fail(ScanCause::ControlCharacter),
            }
        }
    }

    fn escape(&mut self) -> Scanned<()> {
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                        return self.fail(ScanCause::Escape);
                    }
                    self.at += 1;
                }
            }
            _ => return self.fail(ScanCause::Escape),
        }
        Ok(())
    }
}

/// Bytes that may stand in a string as they are.
const PLAIN: [bool; 256] = {
    let mut plain = [true; 256];
    let mut byte = 0;
    while byte < 0x20 {
        plain[byte] = false;
        byte += 1;
    }
    plain[b'"' as usize] = false;
    plain[b'\\' as usize] = false;
    plain
};
