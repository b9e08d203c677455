//! A connection, field by field.

use super::Damage;
use super::fields::{Value, layout};
use crate::reactor::{ConnectionPhase, ConnectionState, MovedId};
use crate::stats::Cause;
use hawk_time::Moment;

layout! { ConnectionState {
    0x81 session: must,
    0x82 phase: must,
    0x83 write_failed: may,
    0x84 undecoded: may,
} }

impl Value for MovedId {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
    }

    fn read(bytes: &[u8]) -> Result<Self, Damage> {
        u64::read(bytes).map(Self)
    }
}

/// The fields of a phase: its number, and while the server closes the connection, why and
/// when it is cut off.
#[derive(Clone, Copy)]
struct PhaseFields {
    stage: u8,
    ending: Option<EndingFields>,
}

layout! { PhaseFields {
    0x81 stage: must,
    0x82 ending: may,
} }

#[derive(Clone, Copy, PartialEq)]
struct EndingFields {
    cause: Cause,
    until: Moment,
}

layout! { EndingFields {
    0x81 cause: must,
    0x82 until: must,
} }

const OPEN: u8 = 1;
const FINISHING: u8 = 2;
const CLOSING: u8 = 3;
const LINGERING: u8 = 4;

impl Value for ConnectionPhase {
    fn write(&self, out: &mut Vec<u8>) {
        let (stage, ending) = match *self {
            Self::Open => (OPEN, None),
            Self::Finishing => (FINISHING, None),
            Self::Closing { cause, until } => (CLOSING, Some(EndingFields { cause, until })),
            Self::Lingering { cause, until } => (LINGERING, Some(EndingFields { cause, until })),
        };
        PhaseFields { stage, ending }.write(out);
    }

    fn read(bytes: &[u8]) -> Result<Self, Damage> {
        let PhaseFields { stage, ending } = Value::read(bytes)?;
        match (stage, ending) {
            (OPEN, None) => Ok(Self::Open),
            (FINISHING, None) => Ok(Self::Finishing),
            (CLOSING, Some(EndingFields { cause, until })) => Ok(Self::Closing { cause, until }),
            (LINGERING, Some(EndingFields { cause, until })) => {
                Ok(Self::Lingering { cause, until })
            }
            _ => Err(Damage::Value),
        }
    }
}
