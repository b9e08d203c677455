//! hawk's decoder compared with Go's `encoding/json`.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use hawk_wire::{Packet, PacketDecoder};

use crate::agent;
use crate::differences::{Difference, differences};
use crate::inputs::{Input, inputs, random_inputs};

#[test]
fn odd_inputs_decode_as_in_go() {
    compare("odd", &inputs());
}

#[test]
fn random_inputs_decode_as_in_go() {
    compare("random", &random_inputs(20_000));
}

#[test]
fn the_documented_differences_are_these() {
    pin("documented", &differences());
}

/// Both sides are pinned: a difference that disappears must leave its list.
fn pin(name: &str, list: &[Difference]) {
    let Some(agent) = agent::built() else { return };
    let inputs: Vec<Input> = list.iter().map(|d| d.input.clone()).collect();
    let by_go = decoded_by_go(agent, name, &inputs);
    let mut wrong = String::new();
    for (
        Difference {
            input,
            go,
            hawk,
            why,
        },
        by_go,
    ) in list.iter().zip(by_go)
    {
        let by_hawk = decoded_by_hawk(input);
        if !same(&by_go, go) || !same(&by_hawk, hawk) {
            let _ = writeln!(
                wrong,
                "{why}: {input}\n  Go:   {by_go}, listed {go}\n  hawk: {by_hawk}, listed {hawk}"
            );
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

fn compare(name: &str, inputs: &[Input]) {
    let Some(agent) = agent::built() else { return };
    let mut different = String::new();
    let mut good = 0;
    for (input, by_go) in inputs.iter().zip(decoded_by_go(agent, name, inputs)) {
        let by_hawk = decoded_by_hawk(input);
        if !same(&by_go, &by_hawk) {
            let _ = writeln!(different, "{input}\n  Go:   {by_go}\n  hawk: {by_hawk}");
        }
        good += usize::from(!by_hawk.starts_with("err"));
    }
    assert!(different.is_empty(), "\n{different}");
    // A list of inputs that both refuse would prove nothing.
    assert!(
        good * 5 > inputs.len(),
        "{good} of {} are good",
        inputs.len()
    );
}

/// The two may fail for different causes, but only on the same inputs.
fn same(one: &str, other: &str) -> bool {
    one == other || (one.starts_with("err") && other.starts_with("err"))
}

/// Returns Go's answers, in the format of `agent/decode.go`.
fn decoded_by_go(agent: &Path, name: &str, inputs: &[Input]) -> Vec<String> {
    let mut lines = String::new();
    for input in inputs {
        let _ = writeln!(lines, "{} {}", input.kind(), hex(input.json()));
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("interop-{name}.txt"));
    fs::write(&path, lines).unwrap();
    let output = Command::new(agent)
        .arg("-decode")
        .stdin(File::open(path).unwrap())
        .output()
        .unwrap();
    let answers = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{answers}");
    let answers: Vec<String> = answers.lines().map(str::to_owned).collect();
    assert_eq!(answers.len(), inputs.len());
    answers
}

/// Returns hawk's answer, in the same format.
fn decoded_by_hawk(input: &Input) -> String {
    match PacketDecoder::default().decode(&input.data()) {
        Ok(Packet::Heartbeat(heartbeat)) => format!(
            "hb x{} {}",
            hex(heartbeat.version.as_bytes()),
            heartbeat.timestamp
        ),
        Ok(Packet::Report(report)) => format!(
            "rp x{} {} {}",
            hex(report.content.as_bytes()),
            report.rand,
            report.timestamp
        ),
        Err(refusal) => format!("err {refusal:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}
