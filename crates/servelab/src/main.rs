//! servelab
fn main() {}
