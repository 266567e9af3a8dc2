use super::*;
use crate::sample::{batch, frame};

fn buffer(frames: usize, len: usize) -> Buffer {
    Buffer::new(LogOptions {
        commit_after: Duration::from_secs(3_600),
        commit_len: 1_000,
        buffer_frames: frames,
        buffer_len: len,
        ..LogOptions::default()
    })
}

fn reason(buffer: &Buffer, len: usize) -> Option<RejectReason> {
    let sent = frame(&batch(1), 1, len);
    match buffer.push(sent.clone()) {
        Ok(()) => None,
        Err(rejected) => {
            assert_eq!(rejected.frame, sent, "the frame is handed back as it was");
            Some(rejected.reason)
        }
    }
}

#[test]
fn frames_of_the_open_commit_take_room_until_they_are_durable() {
    let buffer = buffer(4, 1 << 20);
    for _ in 0..4 {
        assert_eq!(reason(&buffer, 10), None);
    }
    assert_eq!(reason(&buffer, 10), Some(RejectReason::Full));
    let Taken::Frames(frames) = buffer.take() else { panic!("half of the buffer is due") };
    assert_eq!(frames.len(), 4);
    assert_eq!(reason(&buffer, 10), Some(RejectReason::Full));
    buffer.release(1, frame_len(&frames[0]) as usize);
    assert_eq!(reason(&buffer, 10), None);
    assert_eq!(reason(&buffer, 10), Some(RejectReason::Full));
}

#[test]
fn a_frame_longer_than_the_buffer_needs_it_empty() {
    let buffer = buffer(100, 4_096);
    assert_eq!(reason(&buffer, 10), None);
    assert_eq!(reason(&buffer, 10_000), Some(RejectReason::Full));
    let Taken::Frames(frames) = ({
        buffer.close();
        buffer.take()
    }) else {
        panic!("what is there is due at the end")
    };
    assert_eq!(frames.len(), 1);

    let buffer = self::buffer(100, 4_096);
    assert_eq!(reason(&buffer, 10_000), None);
    assert_eq!(reason(&buffer, 10), Some(RejectReason::Full));
    assert!(matches!(buffer.take(), Taken::Frames(frames) if frames.len() == 1));
}

#[test]
fn what_can_never_be_taken_is_refused_with_its_reason() {
    let buffer = buffer(4, 1 << 20);
    assert_eq!(reason(&buffer, PAYLOAD_LEN_MAX + 1), Some(RejectReason::TooLong));
    buffer.close();
    assert_eq!(reason(&buffer, 10), Some(RejectReason::Closed));
    assert!(matches!(buffer.take(), Taken::Closed));
    buffer.poison("first".to_owned());
    buffer.poison("second".to_owned());
    assert_eq!(reason(&buffer, 10), Some(RejectReason::Poisoned));
    assert!(matches!(buffer.take(), Taken::Poisoned(reason) if reason == "first"));
}

#[test]
fn enough_bytes_do_not_wait() {
    let buffer = buffer(1_000, 1 << 20);
    for _ in 0..4 {
        assert_eq!(reason(&buffer, 200), None);
    }
    // With a wait of an hour for more, this would not return.
    assert!(matches!(buffer.take(), Taken::Frames(frames) if frames.len() == 4));
}
