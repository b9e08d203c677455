//! Single operations of hawk on fixed inputs, to be timed and to have their
//! instructions counted. No clock, no random number, no socket: an operation does
//! the same each time.

mod books;
#[allow(dead_code)] // Tests need more of it.
#[path = "../../tests/support/in_process.rs"]
mod in_process;
mod packets;
mod sessions;
#[allow(dead_code)] // Only one of the programs compares them.
pub(crate) mod unusual;

/// Something that hawk does for a frame, a buffer or an agent.
pub(crate) struct Operation {
    /// What belongs together, such as `decode`.
    pub(crate) group: &'static str,
    /// What is done, to what.
    pub(crate) name: &'static str,
    /// How often one run does it.
    pub(crate) times: u64,
    /// Makes ready whatever is needed.
    pub(crate) prepare: Box<dyn Fn() -> Run>,
}

/// Runs an operation once; a call costs some five instructions.
pub(crate) type Run = Box<dyn FnMut()>;

impl Operation {
    fn new<R: FnMut() + 'static>(
        group: &'static str,
        name: &'static str,
        times: u64,
        prepare: impl Fn() -> R + 'static,
    ) -> Self {
        Self {
            group,
            name,
            times,
            prepare: Box::new(move || Box::new(prepare())),
        }
    }
}

/// All of them, in the order of the report.
pub(crate) fn all() -> Vec<Operation> {
    let mut all = packets::operations();
    all.extend(sessions::operations());
    all.extend(books::operations());
    all.extend(unusual::operations());
    all
}
