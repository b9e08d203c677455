//! hawk, the TCP server to which a company's machines report.
pub mod session;
pub mod time;
pub mod wire;
