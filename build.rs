//! Compiles `proto/` twice: once as clients see it, once as the server reads and writes it.

use std::path::{Path, PathBuf};

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};
use tonic_prost_build::Builder;

type Error = Box<dyn std::error::Error>;

/// Fields that the server handles as bytes although the API types them. On the wire a message field
/// and a string are both length-delimited bytes, so this changes no byte of the protocol; it lets
/// the server store what a producer sent and splice it into responses without decoding it.
const SPLICED_TYPE: &str = ".columba.v1.Message";
const SPLICED_FIELDS: [(&str, &str); 1] = [("StoredMessage", "topic")];

fn main() -> Result<(), Error> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);

    let descriptors = protox::compile(proto_files(Path::new("proto"))?, ["proto"])?;

    std::fs::write(out.join("columba.descriptors.bin"), descriptors.encode_to_vec())?;

    base(&out.join("client"))?.build_server(false).compile_fds(descriptors.clone())?;
    base(&out.join("server"))?.build_client(false).compile_fds(spliced(descriptors))?;
    Ok(())
}

fn base(out: &Path) -> Result<Builder, Error> {
    std::fs::create_dir_all(out)?;
    Ok(tonic_prost_build::configure().bytes(".").out_dir(out))
}

fn proto_files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(proto_files(&path)?);
        } else if path.extension().is_some_and(|ext| ext == "proto") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn spliced(mut descriptors: FileDescriptorSet) -> FileDescriptorSet {
    for file in &mut descriptors.file {
        for message in &mut file.message_type {
            splice(message);
        }
    }
    descriptors
}

fn splice(message: &mut DescriptorProto) {
    let name = message.name().to_owned();
    for field in &mut message.field {
        let listed = SPLICED_FIELDS.iter().any(|&(m, f)| m == name && f == field.name());
        let message = field.type_name() == SPLICED_TYPE;
        if listed || message {
            field.set_type(Type::Bytes);
            // Unlike bytes, a message that is empty still is there.
            field.proto3_optional = (message && field.label() != Label::Repeated).then_some(true);
            field.type_name = None;
        }
    }
}
