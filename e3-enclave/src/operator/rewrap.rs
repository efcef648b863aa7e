//! Rewrapping a list of tokens: read line by line, sent in batches, written in their order.

use super::{Engine, Operator, OperatorError};
use e3_link::attested::admin::AdminError;
use e3_wire::token::MAX_TOKEN_TEXT;
use e3_wire::{AdminAnswer, AdminRefusal, Answer, App, Context, ItemAnswer, RequestWriter};
use std::io::{BufRead, Read, Write};

/// Tokens, and their bytes, in one batch of a rewrap.
const BATCH: usize = 4096;
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Time of one batch in the engine, in milliseconds.
const BATCH_MS: u32 = 30_000;

impl Operator {
    /// Rewraps tokens, one a line, in their order; answers how many are new and how many were under the newest key already.
    ///
    /// # Errors
    /// A line is no token of the app, or the engine refuses. The lines before it are done and written.
    pub fn rewrap(
        &self,
        app: App,
        mut tokens: impl BufRead,
        mut out: impl Write,
    ) -> Result<(usize, usize), OperatorError> {
        self.runtime.block_on(async {
            let mut all = self.all().await?;
            let engine = self.first(&mut all)?;
            let (mut rewrapped, mut kept, mut line) = (0, 0, 0);
            loop {
                let batch = read_batch(&mut tokens)?;
                let first = line + 1;
                if !batch.tokens.is_empty() {
                    line += batch.tokens.len();
                    let done = engine.rewrap(app, &batch.tokens, first, &mut out).await;
                    out.flush().map_err(OperatorError::Io)?;
                    let (new, old) = done?;
                    rewrapped += new;
                    kept += old;
                }
                match batch.end {
                    None => {}
                    Some(Ok(())) => return Ok((rewrapped, kept)),
                    Some(Err(())) => return Err(OperatorError::NoToken { line: line + 1 }),
                }
            }
        })
    }
}

impl Engine<'_> {
    /// Rewraps one batch; writes what its tokens became, up to the first that is refused.
    async fn rewrap(
        &mut self,
        app: App,
        tokens: &[Vec<u8>],
        first: usize,
        out: &mut impl Write,
    ) -> Result<(usize, usize), OperatorError> {
        let mut request = RequestWriter::new(app, &Context::default(), tokens.iter().map(|t| t.len() + 5).sum());
        for (at, token) in tokens.iter().enumerate() {
            request.rewrap(token).map_err(|_| OperatorError::NoToken { line: first + at })?;
        }
        let body = request.finish(BATCH_MS);
        let mut tries = 0;
        let rewrapped = loop {
            tries += 1;
            let answer = self.session.rewrap(self.now.id, self.now.epoch, &body).await;
            match answer.map_err(|cause| self.failed(cause))? {
                Ok(rewrapped) => break rewrapped,
                // Somebody changed the keyring: the tokens are rewrapped under what it is now.
                Err(AdminAnswer::Refused(AdminRefusal::Epoch, _)) if tries < 8 => self.look().await?,
                Err(AdminAnswer::Refused(refusal, detail)) => return Err(self.refused(refusal, detail)),
                Err(AdminAnswer::Done(..)) => return Err(self.failed(AdminError::Protocol)),
            }
        };
        let items = match rewrapped.answer().map_err(|_| self.failed(AdminError::Protocol))? {
            Answer::Items(items) if items.len() == tokens.len() => items,
            Answer::Items(_) => return Err(self.failed(AdminError::Protocol)),
            Answer::Refused(refusal) => {
                return Err(OperatorError::Batch { first, last: first + tokens.len() - 1, refusal });
            }
        };
        let (mut new, mut kept) = (0, 0);
        for (at, (item, token)) in items.iter().zip(tokens).enumerate() {
            let token = match item {
                ItemAnswer::Token(token) => {
                    new += 1;
                    token
                }
                ItemAnswer::Kept => {
                    kept += 1;
                    &token[..]
                }
                ItemAnswer::Refused(refusal) => {
                    return Err(OperatorError::Line { line: first + at, refusal: *refusal });
                }
                _ => return Err(self.failed(AdminError::Protocol)),
            };
            out.write_all(token).and_then(|()| out.write_all(b"\n")).map_err(OperatorError::Io)?;
        }
        Ok((new, kept))
    }
}

/// Some lines, and whether they are the last, or the next one is none.
struct Batch {
    tokens: Vec<Vec<u8>>,
    end: Option<Result<(), ()>>,
}

fn read_batch(tokens: &mut impl BufRead) -> Result<Batch, OperatorError> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while batch.len() < BATCH && bytes < BATCH_BYTES {
        let mut line = Vec::new();
        let most = MAX_TOKEN_TEXT as u64 + 2;
        let read = tokens.by_ref().take(most).read_until(b'\n', &mut line).map_err(OperatorError::Io)?;
        if read == 0 {
            return Ok(Batch { tokens: batch, end: Some(Ok(())) });
        }
        while line.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
            line.pop();
        }
        if line.is_empty() || line.len() > MAX_TOKEN_TEXT {
            return Ok(Batch { tokens: batch, end: Some(Err(())) });
        }
        bytes += line.len();
        batch.push(line);
    }
    Ok(Batch { tokens: batch, end: None })
}
