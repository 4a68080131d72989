//! The command `web-rwkv`.

fn main() {}
