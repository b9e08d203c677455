//! hawk, the TCP server to which a company's machines report.
