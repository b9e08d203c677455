//! How a process hands everything to the one that replaces it: two processes and the
//! line between them. `docs/restart.md` tells the whole of it in prose.
//!
//! ```text
//! binary    which program the successor is made of
//! process   the successor's process, as its predecessor has it
//! socket    messages with descriptors, over a pair of sockets
//! message   what is said, in which bytes
//! order     when it may be said
//! line      all three together, one end for each process
//! sealed    a file in memory that cannot change any more: a snapshot on its way
//! token     what only one of the two processes can take
//! ```

mod binary;
mod line;
mod message;
mod order;
mod process;
mod sealed;
mod socket;
mod step;
mod token;

pub use binary::{Binary, BinaryError};
pub use line::{Line, LineError, Predecessor, Sending, Successor};
pub use message::{
    BUILD, BadMessage, Committed, Hello, MAX_SOCKETS, Mismatch, PROTOCOLS, ToPredecessor,
    ToSuccessor,
};
pub use order::{OutOfOrder, Phase};
pub use process::{Process, SUCCESSOR};
pub use sealed::{SealError, Sealed};
pub use socket::{Channel, MAX_DESCRIPTORS, MAX_MESSAGE, ReceiveError, Received, SendError};
pub use step::Step;
pub use token::{Ownership, Taken, Token};
