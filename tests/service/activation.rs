//! The listening socket that a service manager passes.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use rustix::fs::fstat;
use rustix::process::Signal;

use hawk_testkit::*;

const NO_STORE: [&str; 2] = ["--store", "none"];

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

#[test]
fn it_serves_on_the_socket_that_is_passed() {
    let socket = listener();
    let address = socket.local_addr().unwrap();
    let inode = fstat(&socket).unwrap().st_ino;
    // Before there is a server, as it is with systemd.
    let mut early = Agent::connect(address);
    early.send(&heartbeat());
    let server = Launch::activated(OwnedFd::from(socket), &NO_STORE).start();
    assert_eq!(server.address, address);
    early.expect_line(HEARTBEAT);
    server.connect().expect_alive();
    let (started, _) = server.log().wait_for(0, |line| line.contains("] started "));
    let expected = format!(" socket=passed listen={address} listen_from=service-manager ");
    assert!(started.contains(&expected), "{started}");
    let own = std::fs::read_link(format!("/proc/{}/fd/3", server.pid().as_raw_nonzero()));
    assert_eq!(own.unwrap().to_str(), Some(&*format!("socket:[{inode}]")));

    drop(early);
    server.signal(Signal::TERM);
    server.wait_stdout_end();
    // No other process has it open.
    let refused = TcpStream::connect(address).map_err(|error| error.kind());
    assert_eq!(refused.err(), Some(io::ErrorKind::ConnectionRefused));
    assert_eq!(server.wait_exit().code, Some(0));
}

#[test]
fn no_agent_is_refused_between_two_servers() {
    let socket = listener();
    let address = socket.local_addr().unwrap();
    let serve = || {
        let passed = OwnedFd::from(socket.try_clone().unwrap());
        Launch::activated(passed, &NO_STORE).start()
    };
    let server = serve();
    let mut before = server.connect();
    before.expect_alive();
    server.signal(Signal::TERM);
    before.expect_eof();
    drop(before);
    assert_eq!(server.wait_exit().code, Some(0));
    let mut between = Agent::connect(address);
    between.send(&heartbeat());
    let _server = serve();
    between.expect_line(HEARTBEAT);
}

#[test]
fn with_a_passed_socket_listen_is_not_used_and_the_log_warns() {
    let socket = listener();
    let address = socket.local_addr().unwrap();
    let args = ["--listen", "127.0.0.1:1", "--store", "none"];
    let server = Launch::activated(OwnedFd::from(socket), &args).start();
    assert_eq!(server.address, address);
    let told = format!("passes a socket on {address}: --listen 127.0.0.1:1 is not used");
    server.log().wait_for(0, |line| line.contains(&told));
    server.connect().expect_alive();
}

#[test]
fn a_socket_for_another_process_is_not_used() {
    let launch = Launch::serve(&[]).env("LISTEN_FDS", "1");
    let server = launch.env("LISTEN_PID", "1").start();
    server.connect().expect_alive();
    server
        .log()
        .wait_for(0, |line| line.contains(" socket=own "));
}

#[test]
fn anything_but_one_listening_tcp_socket_is_refused_with_the_way_out() {
    #[track_caller]
    fn refuse(socket: impl Into<OwnedFd>, number: &str, told: &str) {
        let launch = Launch::activated(socket.into(), &NO_STORE);
        let exit = launch.env("FDS", number).run();
        assert_eq!((exit.code, exit.stderr.len()), (Some(1), 1), "{exit:?}");
        assert!(exit.stderr[0].contains(told), "{exit:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let unix = UnixListener::bind(folder.path().join("socket")).unwrap();
    refuse(unix, "1", "no listening TCP socket");
    let server = listener();
    let stream = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    refuse(stream, "1", "no listening TCP socket");
    refuse(server, "many", "LISTEN_FDS");
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    refuse(socket, "1", "ListenStream=");
}

#[test]
fn two_sockets_are_refused_with_the_way_out() {
    let script = r#"LISTEN_PID=$$ LISTEN_FDS=2 exec "$0" serve 3<&0 4<&0"#;
    let exit = std::process::Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_hawk")])
        .stdin(OwnedFd::from(listener()))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&exit.stderr);
    assert_eq!(exit.status.code(), Some(1), "{told}");
    assert!(told.contains("passes 2 sockets"), "{told}");
}
