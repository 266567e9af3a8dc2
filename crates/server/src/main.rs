//! The binary `overnight`.

fn main() {}
