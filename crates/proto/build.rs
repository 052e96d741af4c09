//! Generates the Rust code from `proto/`, with a compiler written in Rust, so that no `protoc` is needed.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message;
use prost_types::FileDescriptorSet;

const FILES: &[&str] = &[
    "etcd/api/mvccpb/kv.proto",
    "etcd/api/authpb/auth.proto",
    "etcd/api/etcdserverpb/header.proto",
    "etcd/api/etcdserverpb/kv.proto",
    "etcd/api/etcdserverpb/watch.proto",
    "etcd/api/etcdserverpb/lease.proto",
    "etcd/api/etcdserverpb/cluster.proto",
    "etcd/api/etcdserverpb/maintenance.proto",
    "etcd/api/etcdserverpb/auth.proto",
    "etcd/api/v3lockpb/v3lock.proto",
    "etcd/api/v3electionpb/v3election.proto",
    "grpc/health/v1/health.proto",
    "quorate/v1/extension.proto",
    "quorate/v1/peer.proto",
];

/// Fields whose wire name would become an odd Rust name (`peer_ur_ls`).
const RUST_NAMES: &[(&str, &str)] = &[("peerURLs", "peer_urls"), ("clientURLs", "client_urls")];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_source_info(true).include_imports(true).open_files(FILES)?;
    let descriptors = compiler.file_descriptor_set();
    write_descriptor_set(descriptors.clone())?;

    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        .emit_rerun_if_changed(false)
        .compile_fds(with_rust_names(descriptors))?;
    Ok(())
}

/// Writes the descriptors for users of reflection: the wire names, without the comments.
fn write_descriptor_set(mut descriptors: FileDescriptorSet) -> Result<(), Box<dyn Error>> {
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    let path = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(path, descriptors.encode_to_vec())?;
    Ok(())
}

/// Renames fields for the generator. The encoding knows numbers only, so nothing changes on the wire.
fn with_rust_names(mut descriptors: FileDescriptorSet) -> FileDescriptorSet {
    let fields = descriptors.file.iter_mut().flat_map(|f| &mut f.message_type).flat_map(|m| &mut m.field);
    for field in fields {
        if let Some((_, rust)) = RUST_NAMES.iter().find(|(wire, _)| field.name() == *wire) {
            field.name = Some((*rust).to_owned());
        }
    }
    descriptors
}
