//! A disk with a volatile cache: in a power cut, each block that was written and not
//! flushed is kept or lost at random.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rand::RngExt as _;
use rand::rngs::StdRng;

/// Bytes of a block, which is written completely or not at all: the physical sector of
/// today's disks, and ext4's block.
pub(crate) const BLOCK: usize = 4096;

/// A disk with a file as its stable part and memory of this process as its cache.
pub(crate) struct Disk {
    stable: File,
    size: u64,
    /// Blocks that were written since the last flush, by their offset.
    cache: BTreeMap<u64, Vec<u8>>,
    /// The disk acknowledges flushes without doing them.
    lies: bool,
}

impl Disk {
    /// Opens the file at `path` as a disk of its length.
    pub(crate) fn open(path: &Path, lies: bool) -> Self {
        let stable = File::options().read(true).write(true).open(path).unwrap();
        let size = stable.metadata().unwrap().len();
        Self {
            stable,
            size,
            cache: BTreeMap::new(),
            lies,
        }
    }

    /// Returns the size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Whole blocks, from `offset` on.
    pub(crate) fn read(&self, offset: u64, bytes: &mut [u8]) {
        self.stable.read_exact_at(bytes, offset).unwrap();
        for (at, block) in blocks(offset).zip(bytes.chunks_exact_mut(BLOCK)) {
            if let Some(cached) = self.cache.get(&at) {
                block.copy_from_slice(cached);
            }
        }
    }

    /// Whole blocks, from `offset` on.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        assert!(offset.is_multiple_of(BLOCK as u64) && bytes.len().is_multiple_of(BLOCK));
        assert!(offset + bytes.len() as u64 <= self.size);
        for (at, block) in blocks(offset).zip(bytes.chunks_exact(BLOCK)) {
            self.cache.insert(at, block.to_vec());
        }
    }

    /// Makes all written blocks stable, unless the disk lies.
    pub(crate) fn flush(&mut self) {
        if !self.lies {
            self.write_out();
        }
    }

    /// Writes the cache, as in an orderly power-off.
    pub(crate) fn switch_off(mut self) {
        self.write_out();
    }

    fn write_out(&mut self) {
        for (at, block) in std::mem::take(&mut self.cache) {
            self.stable.write_all_at(&block, at).unwrap();
        }
    }

    /// Cuts the power. A disk writes its cache in any order, so any part of it may have
    /// become stable: often none or all of it.
    pub(crate) fn cut(&mut self, random: &mut StdRng) {
        let percent = random.random_range(-50_i32..150);
        self.cache
            .retain(|_, _| random.random_range(0..100) < percent);
        self.write_out();
    }
}

fn blocks(offset: u64) -> impl Iterator<Item = u64> {
    (offset..).step_by(BLOCK)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    /// Returns a disk of eight flushed blocks, each filled with 1.
    fn disk() -> (tempfile::NamedTempFile, Disk) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 * BLOCK as u64).unwrap();
        let mut disk = Disk::open(file.path(), false);
        disk.write(0, &[1; 8 * BLOCK]);
        disk.flush();
        (file, disk)
    }

    fn content(disk: &Disk) -> Vec<u8> {
        let mut bytes = vec![0; 8 * BLOCK];
        disk.read(0, &mut bytes);
        let blocks = bytes.chunks_exact(BLOCK);
        blocks.map(|block| block[BLOCK - 1]).collect()
    }

    #[test]
    fn a_disk_reads_the_last_write() {
        let (file, mut disk) = disk();
        disk.write(2 * BLOCK as u64, &[2; 2 * BLOCK]);
        assert_eq!(content(&disk), [1, 1, 2, 2, 1, 1, 1, 1]);
        assert_eq!(std::fs::read(file.path()).unwrap(), [1; 8 * BLOCK]);
        disk.flush();
        disk.write(3 * BLOCK as u64, &[3; BLOCK]);
        assert_eq!(content(&disk), [1, 1, 2, 3, 1, 1, 1, 1]);
    }

    #[test]
    fn a_disk_that_lies_keeps_nothing_for_sure() {
        let (file, _) = disk();
        let mut disk = Disk::open(file.path(), true);
        disk.write(0, &[2; BLOCK]);
        disk.flush();
        assert_eq!(content(&disk)[0], 2);
        assert_eq!(std::fs::read(file.path()).unwrap()[0], 1);
    }

    #[test]
    fn a_cut_loses_any_part_of_unflushed_blocks_alone() {
        let (_file, mut disk) = disk();
        let mut random = StdRng::seed_from_u64(1);
        let (mut none, mut part, mut all) = (0, 0, 0);
        for _ in 0..1000 {
            disk.write(0, &[1; 8 * BLOCK]);
            disk.flush();
            disk.write(4 * BLOCK as u64, &[2; 4 * BLOCK]);
            disk.cut(&mut random);
            let content = content(&disk);
            assert_eq!(content[..4], [1; 4]);
            match content[4..].iter().filter(|&&byte| byte == 2).count() {
                0 => none += 1,
                4 => all += 1,
                _ => part += 1,
            }
        }
        assert!(none > 200 && part > 200 && all > 200, "{none} {part} {all}");
    }
}
