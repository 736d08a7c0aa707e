//! Generates the gRPC types from `proto/`, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let file = root.join("milecastle/config/v1/config.proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let descriptors = protox::compile([&file], [&root])?;
    tonic_prost_build::configure()
        .bytes(".")
        .enum_attribute(
            "NodeMessage.message",
            r#"#[expect(clippy::large_enum_variant, reason = "a message lives from its making until it is sent")]"#,
        )
        // It carries a token: `wire` writes its `Debug` by hand.
        .skip_debug([".milecastle.config.v1.JoinRequest"])
        .compile_fds(descriptors)?;
    Ok(())
}
