//! What happens to frames on their way.

use hawk_testkit::worlds::Dice;

/// Damages what stands in `wire` from `start` on: one frame.
pub fn damage(wire: &mut Vec<u8>, start: usize, dice: &mut Dice) {
    let at = start + dice.below(wire.len() - start);
    match dice.below(7) {
        // A flip.
        0 => wire[at] ^= 1 << dice.below(8),
        1 => wire[at] = 0xFF,
        // An insertion.
        2 => {
            let byte = if dice.one_in(2) {
                0xFF
            } else {
                dice.roll() as u8
            };
            let bytes = dice.between(1, 6);
            wire.splice(at..at, std::iter::repeat_n(byte, bytes));
        }
        // A deletion.
        3 => {
            let end = (at + dice.between(1, 6)).min(wire.len());
            wire.drain(at..end);
        }
        // A truncation.
        4 => wire.truncate(at),
        // Another length.
        5 => {
            let header = start + 2..(start + 4).min(wire.len());
            for place in header {
                wire[place] = dice.roll() as u8;
            }
        }
        // A header of its own before it, so that it lies within a candidate.
        _ => {
            let length = dice.between(0, 400) as u16;
            let [high, low] = length.to_be_bytes();
            wire.splice(start..start, [0xFF, 0xFF, high, low]);
        }
    }
}
