//! Generates the client from the protos, which are compiled by protox: no protoc is needed.

const PROTOS: &str = "../../proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed={PROTOS}");
    let services = ["publisher", "subscriber", "command", "query", "key_value"];
    let files = services.map(|service| format!("columba/v1/{service}.proto"));
    tonic_prost_build::configure().build_server(false).compile_fds(protox::compile(files, [PROTOS])?)?;
    Ok(())
}
