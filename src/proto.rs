//! The API as clients see it, generated from `proto/`: message types and gRPC clients.
//!
//! The modules mirror the protobuf packages. The server's own view of the same files is
//! `api::wire`.

/// The package `columba`.
pub mod columba {
    /// The package `columba.v1`.
    #[allow(clippy::pedantic, clippy::large_enum_variant, missing_docs, reason = "generated code")]
    pub mod v1 {
        tonic::include_proto!("client/columba.v1");
    }
    /// The package `columba.admin`.
    pub mod admin {
        /// The package `columba.admin.v1`.
        #[allow(clippy::pedantic, clippy::large_enum_variant, missing_docs, reason = "generated code")]
        pub mod v1 {
            tonic::include_proto!("client/columba.admin.v1");
        }
    }
}

pub use columba::admin::v1 as admin;
pub use columba::v1;

/// The descriptors of all of `proto/`, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/columba.descriptors.bin"));
