//! Generates the journal's messages from `proto/`. Maps are ordered, so that equal values have equal bytes.
fn main() -> std::io::Result<()> {
    println!("cargo:rerun-if-changed=proto");
    prost_build::Config::new()
        .btree_map(["."])
        .compile_protos(&["proto/journal.proto", "proto/snapshot.proto"], &["proto"])
}
