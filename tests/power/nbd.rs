//! The protocol between the emulator and its disk: the part of the network block device
//! protocol that qemu needs
//! (<https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>).

use std::io::{self, Read, Write};

use super::disk::{BLOCK, Disk};

const GREETING: &[u8; 8] = b"NBDMAGIC";
const OPTION: &[u8; 8] = b"IHAVEOPT";
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;

/// Handshake: options have replies, and no zeros follow them.
const FIXED_NEWSTYLE_NO_ZEROES: u16 = 0b11;

const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_UNSUPPORTED: u32 = 0x8000_0001;
const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

/// Flags of the disk: the flags are valid, and the disk can be flushed. It cannot write
/// through its cache, so that qemu flushes instead.
const HAS_FLAGS_SEND_FLUSH: u16 = 0b101;

/// The longest request: qemu's default.
const LONGEST: u32 = 32 << 20;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;

/// Serves `disk` until the other side disconnects, in order or not.
pub(crate) fn serve(mut stream: impl Read + Write, disk: &mut Disk) {
    let outcome = greet(&mut stream, disk).and_then(|()| transmit(&mut stream, disk));
    if let Err(error) = outcome {
        let gone = [
            io::ErrorKind::UnexpectedEof,
            io::ErrorKind::BrokenPipe,
            io::ErrorKind::ConnectionReset,
        ];
        assert!(gone.contains(&error.kind()), "{error}");
    }
}

fn greet(stream: &mut (impl Read + Write), disk: &Disk) -> io::Result<()> {
    let flags = FIXED_NEWSTYLE_NO_ZEROES.to_be_bytes();
    stream.write_all(&[GREETING, OPTION, &flags[..]].concat())?;
    let _flags: [u8; 4] = array(stream)?;
    loop {
        assert_eq!(&array(stream)?, OPTION);
        let option = u32::from_be_bytes(array(stream)?);
        let length = u32::from_be_bytes(array(stream)?);
        io::copy(&mut stream.take(length.into()), &mut io::sink())?;
        if option != OPT_GO {
            answer(stream, option, REP_UNSUPPORTED, &[])?;
            continue;
        }
        let export = [
            &INFO_EXPORT.to_be_bytes()[..],
            &disk.size().to_be_bytes(),
            &HAS_FLAGS_SEND_FLUSH.to_be_bytes(),
        ];
        answer(stream, option, REP_INFO, &export.concat())?;
        let block = u32::try_from(BLOCK).unwrap().to_be_bytes();
        let sizes = [
            &INFO_BLOCK_SIZE.to_be_bytes()[..],
            // The minimum, preferred and maximum size of a request.
            &block,
            &block,
            &LONGEST.to_be_bytes(),
        ];
        answer(stream, option, REP_INFO, &sizes.concat())?;
        return answer(stream, option, REP_ACK, &[]);
    }
}

fn answer(stream: &mut impl Write, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let head = [
        &OPTION_REPLY.to_be_bytes()[..],
        &option.to_be_bytes(),
        &kind.to_be_bytes(),
        &u32::try_from(data.len()).unwrap().to_be_bytes(),
    ];
    stream.write_all(&[&head.concat(), data].concat())
}

fn transmit(stream: &mut (impl Read + Write), disk: &mut Disk) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        assert_eq!(u32::from_be_bytes(array(stream)?), REQUEST);
        let _flags: [u8; 2] = array(stream)?;
        let kind = u16::from_be_bytes(array(stream)?);
        let cookie: [u8; 8] = array(stream)?;
        let offset = u64::from_be_bytes(array(stream)?);
        let length = u32::from_be_bytes(array(stream)?);
        assert!(length <= LONGEST, "a request for {length} bytes");
        bytes.clear();
        match kind {
            READ => {
                bytes.resize(length as usize, 0);
                disk.read(offset, &mut bytes);
            }
            WRITE => {
                bytes.resize(length as usize, 0);
                stream.read_exact(&mut bytes)?;
                disk.write(offset, &bytes);
                bytes.clear();
            }
            FLUSH => disk.flush(),
            DISCONNECT => return Ok(()),
            other => panic!("a request that was not offered: {other}"),
        }
        let no_error = 0_u32.to_be_bytes();
        let head = [&REPLY.to_be_bytes()[..], &no_error, &cookie].concat();
        stream.write_all(&[&head, &bytes[..]].concat())?;
    }
}

fn array<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}
