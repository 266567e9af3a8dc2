use proptest::prelude::*;

use super::*;
use crate::sample;

fn stored(index: u32) -> StoredHeader {
    StoredHeader {
        batch: sample::batch(9).digest(),
        sequence: 77,
        payload_len: 123,
        payload_crc: 0xdead_beef,
        facts: sample::header(index),
    }
}

#[test]
fn headers_are_read_back() {
    for index in [0, 1, u32::MAX] {
        assert_eq!(StoredHeader::decode(&stored(index).encode()), Decoded::Valid(stored(index)));
    }
    let segment = SegmentHeader { batch: [7; 16], number: 3, first_sequence: u64::MAX };
    assert_eq!(SegmentHeader::decode(&segment.encode()), Decoded::Valid(segment));
}

/// The bytes as `docs/formats.md` has them. This fixture stays when there is a version 2.
#[test]
fn version_1_stays_as_it_is() {
    let bytes = stored(5).encode();
    assert_eq!(&bytes[..8], b"\xffonfram\xfe");
    assert_eq!(&bytes[12..16], &[1, 0, 1, 1]);
    assert_eq!(bytes[31], 9);
    assert_eq!(bytes[32], 77);
    assert_eq!(&bytes[40..48], &(5_u64 << 33).to_le_bytes());
    assert_eq!(&bytes[48..56], &(5_u64 << 34 | 1).to_le_bytes());
    assert_eq!(&bytes[56..64], &1_700_000_000_005_u64.to_le_bytes());
    assert_eq!(&bytes[64..76], &[0, 0, 0, 0, 5, 0, 0, 0, 5, 0, 0, 0]);
    assert_eq!(&bytes[76..92], &[5, 0, 0, 0, 6, 0, 0, 0, 7, 0, 0, 0, 8, 0, 0, 0]);
    assert_eq!(&bytes[92..104], &[1, 0, 2, 0, 3, 0, 200, 0, 4, 0, 0, 0]);
    assert_eq!(&bytes[104..112], &[123, 0, 0, 0, 0xef, 0xbe, 0xad, 0xde]);
    assert_eq!(bytes[112..], [0; 16]);
    assert_eq!(&bytes[8..12], &crc32c::crc32c(&bytes[12..]).to_le_bytes());
}

#[test]
fn an_answer_that_was_cut_short_is_a_flag() {
    let mut header = stored(1);
    header.facts.usage.cut_short = 1;
    let bytes = header.encode();
    assert_eq!(bytes[101], 1);
    assert_eq!(StoredHeader::decode(&bytes), Decoded::Valid(header));
}

#[test]
fn what_is_too_long_for_its_field_is_kept_as_the_most() {
    let mut header = stored(1);
    header.facts.usage.input_tokens = u64::MAX;
    header.facts.duration = Duration::MAX;
    let Decoded::Valid(read) = StoredHeader::decode(&header.encode()) else { panic!("it is whole") };
    assert_eq!(read.facts.usage.input_tokens, u64::from(u32::MAX));
    assert_eq!(read.facts.duration, Duration::from_millis(u64::from(u32::MAX)));
}

#[test]
fn a_flipped_bit_is_seen_wherever_it_is() {
    let frame = stored(1).encode();
    for bit in 0..frame.len() * 8 {
        let mut bytes = frame;
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(StoredHeader::decode(&bytes), Decoded::Bad, "bit {bit}");
    }
}

/// What a newer writer has sealed is neither valid nor damage: nothing of it may be cut.
#[test]
fn what_is_newer_is_told_from_what_is_damaged() {
    for (at, value) in [(12, 2), (14, 9), (15, 0), (107, 0xff)] {
        let mut bytes = stored(1).encode();
        bytes[at] = value;
        seal(&mut bytes, FRAME_MARKER);
        assert_eq!(StoredHeader::decode(&bytes), Decoded::Newer, "byte {at}");
    }
    let mut bytes = SegmentHeader { batch: [7; 16], number: 3, first_sequence: 1 }.encode();
    bytes[12] = 2;
    seal(&mut bytes, SEGMENT_MARKER);
    assert_eq!(SegmentHeader::decode(&bytes), Decoded::Newer);
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(StoredHeader::decode(&bytes), Decoded::Bad);
        prop_assert_eq!(SegmentHeader::decode(&bytes), Decoded::Bad);
    }

    #[test]
    fn any_sealed_bytes_are_decoded_without_a_panic(mut bytes in prop::collection::vec(any::<u8>(), FRAME_HEADER_LEN)) {
        seal(&mut bytes, FRAME_MARKER);
        prop_assert_ne!(StoredHeader::decode(&bytes), Decoded::Bad);
    }
}
