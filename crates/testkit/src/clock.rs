//! Time that passes, as an event.

use super::Server;

/// Another server, which measures a span of time by its frame timeout.
///
/// Tests use it to show what a server does not do within that span. At least the span
/// passes, by the clock that the server under test reads as well.
#[derive(Debug)]
pub struct Clock(Server);

impl Clock {
    /// A clock for spans of `span`, written as an option's value.
    #[track_caller]
    pub fn of(span: &str) -> Self {
        Self(Server::start(&["--frame-timeout", span]))
    }

    /// Waits until a span is over that begins now.
    #[track_caller]
    pub fn wait(&self) {
        let mut agent = self.0.connect();
        agent.send(b"\xFF\xFF");
        agent.expect_eof();
    }
}
