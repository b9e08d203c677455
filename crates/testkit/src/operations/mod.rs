//! Single operations of hawk on fixed inputs, to be timed and to have their
//! instructions counted. No clock, no random number, no socket: an operation does
//! the same each time.

mod books;
mod packets;
mod sessions;
pub mod unusual;

/// Something that hawk does for a frame, a buffer or an agent.
pub struct Operation {
    /// What belongs together, such as `decode`.
    pub group: &'static str,
    /// What is done, to what.
    pub name: &'static str,
    /// How often one run does it.
    pub times: u64,
    /// Makes ready whatever is needed.
    pub prepare: Box<dyn Fn() -> Run>,
}

/// Runs an operation once; a call costs some five instructions.
pub type Run = Box<dyn FnMut()>;

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
pub fn all() -> Vec<Operation> {
    let mut all = packets::operations();
    all.extend(sessions::operations());
    all.extend(books::operations());
    all.extend(unusual::operations());
    all
}
