//! An agent: a socket with a deadline on everything.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::{HEARTBEAT, PATIENCE, heartbeat, kernel};

/// The source address of the connection of this number, where they take turns: 127.0.0.2 to
/// 127.0.0.17, so that no address has more than its default share.
pub fn source(number: usize) -> IpAddr {
    let last = u8::try_from(2 + number % 16).unwrap();
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// One agent's connection.
#[derive(Debug)]
pub struct Agent {
    stream: BufReader<TcpStream>,
}

impl Agent {
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect_timeout(&address, PATIENCE).expect("it listens"))
    }

    /// With a receive buffer as small as the kernel allows: its replies soon
    /// back up to the server.
    #[track_caller]
    pub fn connect_narrow(address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        // Only before connecting does it bind the window that is offered.
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&address.into()).expect("it listens");
        Self::over(socket.into())
    }

    /// From this address of the machine's own.
    #[track_caller]
    pub fn connect_from(from: IpAddr, address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
        socket.connect(&address.into()).expect("it listens");
        Self::over(socket.into())
    }

    /// From the source address of this [number](source).
    #[track_caller]
    pub fn connect_as(number: usize, address: SocketAddr) -> Self {
        Self::connect_from(source(number), address)
    }

    /// Makes room for what has backed up.
    pub fn widen(&self) {
        let socket = SockRef::from(self.socket());
        socket.set_recv_buffer_size(1 << 20).unwrap();
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// Another handle to the same socket, for a thread that only sends.
    pub fn sender(&self) -> TcpStream {
        self.socket().try_clone().unwrap()
    }

    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the server takes it");
    }

    /// For when the server may have closed the connection.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Sends a byte of urgent data, which is not part of the stream. A read ends before its
    /// place in the stream.
    #[track_caller]
    pub fn send_urgent(&self, byte: u8) {
        let socket = SockRef::from(self.socket());
        let sent = socket.send_out_of_band(&[byte]);
        assert_eq!(sent.expect("the kernel takes it"), 1);
    }

    /// A write for every `size` bytes.
    #[track_caller]
    pub fn send_in_pieces(&mut self, bytes: &[u8], size: usize) {
        bytes.chunks(size).for_each(|piece| self.send(piece));
    }

    /// Shuts down the write side.
    #[track_caller]
    pub fn shutdown_write(&self) {
        self.socket().shutdown(Shutdown::Write).unwrap();
    }

    /// The address that it comes from.
    pub fn local_addr(&self) -> SocketAddr {
        self.socket().local_addr().unwrap()
    }

    /// The next line, whatever it is.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line);
        read.expect("a line in time");
        line.trim_end().to_owned()
    }

    /// Whether anything has come by now that was not read.
    pub fn has_input(&self) -> bool {
        self.socket().set_nonblocking(true).unwrap();
        let found = self.socket().peek(&mut [0]).is_ok();
        self.socket().set_nonblocking(false).unwrap();
        found || !self.stream.buffer().is_empty()
    }

    /// Nothing has come by now.
    #[track_caller]
    pub fn expect_silence(&mut self) {
        assert!(self.stream.buffer().is_empty(), "something was read before");
        self.socket().set_nonblocking(true).unwrap();
        let error = self
            .socket()
            .peek(&mut [0])
            .expect_err("it should be silent");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        self.socket().set_nonblocking(false).unwrap();
    }

    /// The next line, which must be `line`.
    #[track_caller]
    pub fn expect_line(&mut self, line: &str) {
        let mut received = Vec::new();
        let outcome = self.stream.read_until(b'\n', &mut received);
        let received = String::from_utf8_lossy(&received);
        assert_eq!(received, format!("{line}\n"), "{outcome:?}");
    }

    #[track_caller]
    pub fn expect_lines(&mut self, lines: &[&str]) {
        lines.iter().for_each(|line| self.expect_line(line));
    }

    /// The next bytes, which must be `replies`: for very many lines.
    #[track_caller]
    pub fn expect_replies(&mut self, replies: &[u8]) {
        let mut received = vec![0; replies.len()];
        self.stream
            .read_exact(&mut received)
            .expect("as many replies");
        if let Some(at) = (0..replies.len()).find(|&at| received[at] != replies[at]) {
            let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[at..]).into_owned();
            let (received, expected) = (text(&received), text(replies));
            panic!("at byte {at}: {received:.60?} instead of {expected:.60?}");
        }
    }

    /// A clean end of file, and nothing before it. A reset would be an error.
    #[track_caller]
    pub fn expect_eof(&mut self) {
        assert_eq!(self.read_to_end(), "", "before the end of file");
    }

    /// Everything up to the end of file, which must be clean.
    #[track_caller]
    pub fn read_to_end(&mut self) -> String {
        let mut rest = String::new();
        let outcome = self.stream.read_to_string(&mut rest);
        outcome.expect("an end of file rather than a reset or nothing at all");
        rest
    }

    /// Sends `frame` and gets `reply`, and nothing before it: whatever was sent
    /// earlier was answered with silence, because replies come in order.
    #[track_caller]
    pub fn exchange(&mut self, frame: &[u8], reply: &str) {
        self.send(frame);
        self.expect_line(reply);
    }

    /// Expects that the connection is alive and has no other reply due.
    #[track_caller]
    pub fn expect_alive(&mut self) {
        self.exchange(&heartbeat(), HEARTBEAT);
    }

    /// The connection ends without another byte, in good order or by a reset.
    #[track_caller]
    pub fn expect_end(&mut self) {
        match self.stream.read(&mut [0]) {
            Ok(read) => assert_eq!(read, 0, "a byte although nothing was to come"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
        }
    }

    /// Whether the end of file comes within `span`; that long nothing else may.
    #[track_caller]
    pub fn ends_within(&mut self, span: Duration) -> bool {
        self.socket().set_read_timeout(Some(span)).unwrap();
        let outcome = self.stream.read(&mut [0]);
        self.socket().set_read_timeout(Some(PATIENCE)).unwrap();
        match outcome {
            Ok(read) => {
                assert_eq!(read, 0, "a byte although nothing was to come");
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error} rather than an end of file"),
        }
    }

    /// Waits until all that was sent lies with the server's kernel, whether or
    /// not the server reads it.
    #[track_caller]
    pub fn wait_delivered(&self) {
        let (own, server) = self.addresses();
        kernel::wait_delivered(own, server);
    }

    /// Breaks the connection off: the server gets a reset.
    pub fn reset(self) {
        let lingerless = Some(Duration::ZERO);
        SockRef::from(self.socket()).set_linger(lingerless).unwrap();
    }

    /// As [`reset`](Self::reset), and waits until the reset is there.
    #[track_caller]
    pub fn reset_delivered(self) {
        let (own, server) = self.addresses();
        self.reset();
        kernel::wait_gone(server, own);
    }

    fn addresses(&self) -> (SocketAddr, SocketAddr) {
        let socket = self.socket();
        (socket.local_addr().unwrap(), socket.peer_addr().unwrap())
    }

    fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }
}
