//! The journal's protobuf, read by field numbers (state/proto/journal.proto) with code of its own.
//!
//! in → bytes of a batch · out → [`Batch`] · invariant: shares nothing with the crate that writes them; what is malformed is
//! an error, whatever it is.

/// An attempt: job, index, number.
pub type Attempt = (String, u64, u64);
/// A task: job, index.
pub type Task = (String, u64);

/// One append, decoded.
#[derive(Debug)]
pub struct Batch {
    pub sequence: u64,
    pub time: u64,
    pub previous: Vec<u8>,
    pub events: Vec<Event>,
}

/// What of an event concerns the judge.
#[derive(Debug)]
pub enum Event {
    Created { journal: String },
    Leader { journal: String, revision: u64 },
    Token { id: String },
    Joined { node: String, owner: String },
    Revoked { node: String },
    Admitted { job: String, parallelism: u64, tasks: u64, queue: String },
    Updated { job: String, parallelism: u64 },
    Placed { attempt: Attempt, node: String, quote: i128, drawn: bool },
    Succeeded { attempt: Attempt },
    Failed { attempt: Attempt, reason: String, message: String, requeued: bool },
    Finished { job: String, how: Finish },
    Transferred { id: String, postings: Vec<(String, i128)>, why: Why },
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    Complete,
    Failed(String),
    Cancelled,
}

#[derive(Debug)]
pub enum Why {
    Settlement { attempt: Attempt, queue: String },
    Grant { queue: String },
}

/// A field's value.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// A message's fields, in order.
struct Fields<'a>(Vec<(u64, Value<'a>)>);

type Result<T> = std::result::Result<T, String>;

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or("it ends within a number")?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number of more than 64 bits".into())
}

impl<'a> Fields<'a> {
    fn of(mut bytes: &'a [u8]) -> Result<Self> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes)?;
            let value = match key & 7 {
                0 => Value::Number(varint(&mut bytes)?),
                2 => {
                    let length = usize::try_from(varint(&mut bytes)?).map_err(|e| e.to_string())?;
                    let (head, rest) = bytes.split_at_checked(length).ok_or("it ends within a field")?;
                    bytes = rest;
                    Value::Bytes(head)
                }
                other => return Err(format!("wire type {other}, which the journal does not use")),
            };
            all.push((key >> 3, value));
        }
        Ok(Self(all))
    }

    fn every(&self, number: u64) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter_map(move |(n, value)| match value {
            Value::Bytes(bytes) if *n == number => Some(*bytes),
            _ => None,
        })
    }

    fn bytes(&self, number: u64) -> &'a [u8] {
        self.every(number).next().unwrap_or_default()
    }

    fn number(&self, number: u64) -> u64 {
        let found = self.0.iter().find_map(|(n, value)| match value {
            Value::Number(value) if *n == number => Some(*value),
            _ => None,
        });
        found.unwrap_or_default()
    }

    fn has(&self, number: u64) -> bool {
        self.0.iter().any(|(n, _)| *n == number)
    }

    fn text(&self, number: u64) -> Result<String> {
        String::from_utf8(self.bytes(number).to_vec()).map_err(|_| format!("field {number} is no text"))
    }

    fn message(&self, number: u64) -> Result<Self> {
        let bytes = self.every(number).next().ok_or_else(|| format!("field {number} is missing"))?;
        Self::of(bytes)
    }

    fn attempt(&self, number: u64) -> Result<Attempt> {
        let all = self.message(number)?;
        Ok((all.text(2)?, all.number(3), all.number(4)))
    }

    fn points(&self, number: u64) -> Result<i128> {
        let bytes = self.bytes(number).try_into().map_err(|_| format!("field {number} is not 16 bytes of points"))?;
        Ok(i128::from_be_bytes(bytes))
    }
}

/// Reads one batch.
pub fn batch(bytes: &[u8]) -> Result<Batch> {
    let all = Fields::of(bytes)?;
    let mut events = Vec::new();
    for bytes in all.every(5) {
        let one = Fields::of(bytes)?;
        let [(kind, Value::Bytes(body))] = one.0.as_slice() else {
            return Err("an event that is not one message".into());
        };
        events.push(event(*kind, &Fields::of(body)?).map_err(|e| format!("event {kind}: {e}"))?);
    }
    let (sequence, time, previous) = (all.number(2), all.number(3), all.bytes(4).to_vec());
    Ok(Batch { sequence, time, previous, events })
}

fn event(kind: u64, all: &Fields<'_>) -> Result<Event> {
    Ok(match kind {
        1 => Event::Created { journal: all.text(1)? },
        2 => Event::Leader { journal: all.text(1)?, revision: all.number(2) },
        3 => Event::Token { id: all.text(1)? },
        6 => Event::Joined { node: all.text(1)?, owner: all.text(2)? },
        7 => Event::Revoked { node: all.text(1)? },
        9 => {
            let (job, spec) = (all.text(1)?, all.message(2)?);
            let tasks = spec.every(9).count() as u64;
            Event::Admitted { job, parallelism: spec.number(21), tasks, queue: spec.text(20)? }
        }
        10 => Event::Updated { job: all.text(1)?, parallelism: all.number(4) },
        11 => {
            let (attempt, node, quote) = (all.attempt(1)?, all.text(2)?, all.points(5)?);
            Event::Placed { attempt, node, quote, drawn: all.number(6) != 0 }
        }
        12 => Event::Succeeded { attempt: all.attempt(1)? },
        13 => {
            let (attempt, reason, message) = (all.attempt(1)?, all.text(2)?, all.text(3)?);
            Event::Failed { attempt, reason, message, requeued: all.has(4) }
        }
        14 => {
            let job = all.text(1)?;
            let how = match (all.has(2), all.has(3)) {
                (true, _) => Finish::Complete,
                (_, true) => Finish::Failed(all.message(3)?.text(1)?),
                _ => Finish::Cancelled,
            };
            Event::Finished { job, how }
        }
        16 => transferred(all)?,
        _ => Event::Other,
    })
}

fn transferred(all: &Fields<'_>) -> Result<Event> {
    let posting = |bytes| Fields::of(bytes).and_then(|p| Ok((p.text(1)?, p.points(2)?)));
    let postings = all.every(2).map(posting).collect::<Result<_>>()?;
    let why = if all.has(3) {
        let settlement = all.message(3)?;
        Why::Settlement { attempt: settlement.attempt(1)?, queue: settlement.text(2)? }
    } else {
        Why::Grant { queue: all.message(4)?.text(1)? }
    };
    Ok(Event::Transferred { id: all.text(1)?, postings, why })
}

/// Sequence and hash of a Head message.
pub fn head(bytes: &[u8]) -> Result<(u64, Vec<u8>)> {
    let all = Fields::of(bytes)?;
    Ok((all.number(1), all.bytes(2).to_vec()))
}
