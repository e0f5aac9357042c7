//! Segments on a real directory, and on a disk that is full.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::*;
use crate::json::RecordJson;
use crate::json::tests::record;
use crate::lines::{Contents, LINE_BYTES_MAX, read};

fn numbered(number: u64) -> RecordJson {
    let mut json = RecordJson::from(&record());
    json.decision.decision_id = format!("d{number}");
    json
}

fn line(number: u64) -> Vec<u8> {
    [serde_json::to_vec(&numbered(number)).unwrap(), vec![b'\n']].concat()
}

fn ids(contents: &Contents) -> Vec<&str> {
    contents.records.iter().map(|record| record.decision.decision_id.as_str()).collect()
}

fn read_file(path: &Path) -> Contents {
    read(io::BufReader::new(File::open(path).unwrap())).unwrap()
}

/// A disk with a fixed number of bytes left.
#[derive(Debug, Clone, Default)]
struct Disk {
    files: Rc<RefCell<BTreeMap<u64, Vec<u8>>>>,
    left: Rc<RefCell<usize>>,
    cut_fails: bool,
}

#[derive(Debug)]
struct DiskSegment(Disk, u64);

impl Write for DiskSegment {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut left = self.0.left.borrow_mut();
        let taken = bytes.len().min(*left);
        if taken == 0 {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        *left -= taken;
        self.0.files.borrow_mut().get_mut(&self.1).unwrap().extend(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Segment for DiskSegment {
    fn cut(&mut self, len: u64) -> io::Result<()> {
        if self.0.cut_fails {
            return Err(io::Error::other("broken"));
        }
        let mut files = self.0.files.borrow_mut();
        let file = files.get_mut(&self.1).unwrap();
        let len = usize::try_from(len).unwrap();
        *self.0.left.borrow_mut() += file.len() - len;
        file.truncate(len);
        Ok(())
    }
}

impl Storage for Disk {
    type Segment = DiskSegment;

    fn numbers(&self) -> io::Result<Vec<u64>> {
        Ok(self.files.borrow().keys().copied().collect())
    }

    fn create(&mut self, number: u64) -> io::Result<(u64, DiskSegment)> {
        self.files.borrow_mut().insert(number, Vec::new());
        Ok((number, DiskSegment(self.clone(), number)))
    }

    fn delete(&mut self, number: u64) -> io::Result<()> {
        self.files.borrow_mut().remove(&number);
        Ok(())
    }
}

#[test]
fn what_is_appended_is_read_back_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = SegmentWriter::open(&dir.path().join("new/dir"), 1 << 20, 4).unwrap();
    (0..3).for_each(|n| writer.append(&line(n)).unwrap());
    let segments = segments_in(&dir.path().join("new/dir")).unwrap();
    assert_eq!(segments.len(), 1);
    let contents = read_file(&segments[0]);
    assert_eq!(ids(&contents), ["d0", "d1", "d2"]);
    assert_eq!(contents.records[0], numbered(0));
    assert_eq!((contents.torn_bytes, contents.bad_lines), (None, vec![]));
}

#[test]
fn segments_are_bounded_in_size_and_number_and_the_oldest_goes() {
    let dir = tempfile::tempdir().unwrap();
    let line_len = line(0).len();
    let mut writer = SegmentWriter::open(dir.path(), line_len * 2, 3).unwrap();
    (0..9).for_each(|n| writer.append(&line(n)).unwrap());
    let segments = segments_in(dir.path()).unwrap();
    let all: Vec<_> = segments.iter().map(|path| read_file(path)).collect();
    assert_eq!(all.iter().map(ids).collect::<Vec<_>>(), [vec!["d4", "d5"], vec!["d6", "d7"], vec!["d8"]]);
    assert!(segments.iter().all(|path| path.metadata().unwrap().len() <= line_len as u64 * 2));
}

#[test]
fn a_record_larger_than_a_segment_gets_one_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = SegmentWriter::open(dir.path(), 10, 8).unwrap();
    (0..2).for_each(|n| writer.append(&line(n)).unwrap());
    assert_eq!(segments_in(dir.path()).unwrap().len(), 2);
}

#[test]
fn a_restart_goes_on_behind_what_is_there_and_counts_it() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..4 {
        SegmentWriter::open(dir.path(), 1 << 20, 2).unwrap().append(&line(n)).unwrap();
    }
    std::fs::write(dir.path().join("decisions-notes.txt"), "mine").unwrap();
    let left: Vec<_> = segments_in(dir.path()).unwrap().iter().flat_map(|p| read_file(p).records).collect();
    assert_eq!(left.iter().map(|r| r.decision.decision_id.as_str()).collect::<Vec<_>>(), ["d2", "d3"]);
    assert!(dir.path().join("decisions-notes.txt").exists(), "what is not ours stays");
}

#[test]
fn a_torn_last_line_is_dropped_and_told_wherever_it_tore() {
    let whole = [serde_json::to_vec(&numbered(0)).unwrap(), vec![b'\n']].concat();
    for kept in 1..whole.len() {
        let text = [whole.as_slice(), &whole[..kept]].concat();
        let contents = read(text.as_slice()).unwrap();
        assert_eq!(ids(&contents), ["d0"], "torn after {kept} bytes");
        assert_eq!(contents.torn_bytes, Some(kept));
    }
}

#[test]
fn a_line_that_is_no_record_is_skipped_and_told() {
    let whole = serde_json::to_string(&numbered(7)).unwrap();
    let contents = read(format!("{whole}\nrubbish\n{{}}\n{whole}\n").as_bytes()).unwrap();
    assert_eq!(ids(&contents), ["d7", "d7"]);
    assert_eq!(contents.bad_lines, [2, 3]);
}

#[test]
fn an_endless_line_is_an_error_and_not_memory() {
    let endless = io::BufReader::new(io::Read::take(io::repeat(b'x'), LINE_BYTES_MAX * 4));
    assert_eq!(read(endless).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn a_full_disk_costs_the_record_and_nothing_else() {
    let line_len = line(0).len();
    let disk = Disk::default();
    *disk.left.borrow_mut() = line_len * 2 + line_len / 2;
    let mut writer = SegmentWriter::on(disk.clone(), 1 << 20, 2).unwrap();
    let written: Vec<bool> = (0..5).map(|n| writer.append(&line(n)).is_ok()).collect();
    assert_eq!(written, [true, true, false, false, false]);
    *disk.left.borrow_mut() += line_len;
    writer.append(&line(5)).unwrap();
    let contents = read(disk.files.borrow()[&1].as_slice()).unwrap();
    assert_eq!(ids(&contents), ["d0", "d1", "d5"]);
    assert_eq!((contents.torn_bytes, contents.bad_lines.len()), (None, 0));
}

#[test]
fn a_full_disk_that_cannot_even_be_cut_never_pushes_out_old_segments() {
    let line_len = line(0).len();
    let disk = Disk { cut_fails: true, ..Disk::default() };
    *disk.left.borrow_mut() = line_len + 5;
    let mut writer = SegmentWriter::on(disk.clone(), 1 << 20, 1).unwrap();
    writer.append(&line(0)).unwrap();
    (1..50).for_each(|n| assert!(writer.append(&line(n)).is_err()));
    let files = disk.files.borrow();
    let first = read(files[&1].as_slice()).unwrap();
    assert_eq!((ids(&first), first.torn_bytes), (vec!["d0"], Some(5)));
    assert!(files.len() <= 2, "{} files", files.len());
}

proptest::proptest! {
    #[test]
    fn no_bytes_on_disk_break_the_reader(bytes: Vec<u8>, cut in 0..2000_usize) {
        let whole = [serde_json::to_vec(&numbered(0)).unwrap(), vec![b'\n']].concat();
        let text = [&whole[..cut.min(whole.len())], &bytes, b"\n", &whole].concat();
        let contents = read(text.as_slice()).unwrap();
        proptest::prop_assert_eq!(contents.records.last(), Some(&numbered(0)), "what is behind the damage is read");
    }
}
