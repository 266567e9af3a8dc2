//! The plan and the results index: what the server has written itself, after the disk has had it.

use overnight_domain::ids::{BlobKey, RequestIndex};
use overnight_domain::plan::{PlanEntry, PlanTables};

use super::{Campaign, kind};
use crate::results::index::{FAILED_LEN, FailedEntry, IndexHeader, LINE_LEN, LinePlace};

#[test]
fn plan() {
    let tables = PlanTables {
        entries: 1,
        models: vec!["m".to_owned(), String::new()],
        blobs: vec![BlobKey::new("files/file-1")],
    };
    let entry = PlanEntry {
        offset: 1 << 33,
        len: 7,
        index: RequestIndex(3),
        line: 4,
        model: 1,
        blob: 0,
        is_folded: true,
    };
    let words: &[&[u8]] = &[b"OVNPLAN\x01", b"\"models\":", b"\"entries\":", b"[]", b"null", b"../"];
    let seeds = vec![tables.to_bytes(), entry.to_bytes().to_vec()];
    let campaign =
        Campaign { seeds, words, len_max: 4_096, repair: Some(seal_plan), executions: 40_000 };
    campaign.run(|input| kind((check_tables(input), check_entry(input))));
}

#[test]
fn results_index() {
    let header = IndexHeader { lines: 2, failed: 1 };
    let place = LinePlace { is_error: true, offset: 40, len: 8 };
    let seeds = vec![header.to_bytes(), place.to_bytes().to_vec(), vec![1; FAILED_LEN as usize]];
    let words: &[&[u8]] = &[b"OVNRESX\x01"];
    let campaign =
        Campaign { seeds, words, len_max: 256, repair: Some(seal_index), executions: 100_000 };
    campaign.run(|input| {
        let header = IndexHeader::from_bytes(input);
        if let Some(header) = header {
            assert_eq!(header.to_bytes(), &input[..header.to_bytes().len()]);
        }
        if let Some(bytes) = input.first_chunk::<{ LINE_LEN as usize }>() {
            assert_eq!(LinePlace::from_bytes(bytes).to_bytes(), *bytes);
        }
        if let Some(bytes) = input.first_chunk::<{ FAILED_LEN as usize }>() {
            let entry = FailedEntry::from_bytes(bytes);
            assert_eq!(FailedEntry::from_bytes(&entry.to_bytes()), entry);
        }
        kind((header.is_some(), input.len().min(64)))
    });
}

fn check_tables(input: &[u8]) -> Option<usize> {
    let (preamble, rest) = input.split_first_chunk::<{ PlanTables::PREAMBLE_LEN }>()?;
    let len = PlanTables::len_from_preamble(preamble).ok()?;
    let Ok(tables) = PlanTables::from_bytes(preamble, rest.get(..len as usize)?) else { return Some(0) };
    let bytes = tables.to_bytes();
    let (preamble, rest) = bytes.split_first_chunk().expect("it begins with a preamble");
    assert_eq!(PlanTables::from_bytes(preamble, rest), Ok(tables.clone()));
    Some(1 + tables.models.len().min(3) + 4 * tables.blobs.len().min(3))
}

fn check_entry(input: &[u8]) -> Option<bool> {
    let bytes = input.first_chunk::<{ PlanEntry::LEN }>()?;
    let entry = PlanEntry::from_bytes(bytes)?;
    assert_eq!(entry.to_bytes(), *bytes);
    Some(entry.is_folded)
}

/// As tables where there is a preamble, as an entry elsewhere.
fn seal_plan(input: &mut [u8]) {
    if let Some((preamble, rest)) = input.split_first_chunk_mut::<{ PlanTables::PREAMBLE_LEN }>()
        && preamble.starts_with(b"OVNPLAN")
    {
        preamble[8..12].copy_from_slice(&(rest.len() as u32).to_le_bytes());
        preamble[12..].copy_from_slice(&crc32c::crc32c(rest).to_le_bytes());
    } else if let Some(entry) = input.first_chunk_mut::<{ PlanEntry::LEN }>() {
        let check = crc32c::crc32c(&entry[..24]);
        entry[24..].copy_from_slice(&check.to_le_bytes());
    }
}

fn seal_index(input: &mut [u8]) {
    if let Some(header) = input.first_chunk_mut::<28>() {
        let check = crc32c::crc32c(&header[..24]);
        header[24..].copy_from_slice(&check.to_le_bytes());
    }
}
