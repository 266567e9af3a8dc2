//! The main job once, end to end.

use crate::harness::{Server, custom_ids, input};

#[test]
fn a_batch_is_answered_in_input_order_and_survives_a_kill() {
    let mut server = Server::start();
    let file = server.upload(&input(300, |at| format!("question {at}")));
    let id = server.create(&file);
    server.restart();
    let batch = server.wait_for_end_of(&id);
    assert_eq!(batch["status"], "completed", "{batch}");
    let output = server.content(&batch, "output_file_id");
    assert_eq!(custom_ids(&output), (0..300).map(|at| format!("row-{at}")).collect::<Vec<_>>());
}
