//! The API as the server reads and writes it, generated from `proto/`.
//!
//! The same wire format as [`crate::proto`], with one difference in the types: a `Message` inside
//! another message is kept as its encoded bytes, so that publishing and delivering never decode and
//! encode it again (see `build.rs`).

#![allow(unreachable_pub, reason = "generated code")]

/// The package `columba`.
pub mod columba {
    /// The package `columba.v1`.
    #[allow(clippy::pedantic, clippy::large_enum_variant, missing_docs, dead_code, reason = "generated code")]
    pub mod v1 {
        tonic::include_proto!("server/columba.v1");
    }
    /// The package `columba.admin`.
    pub mod admin {
        /// The package `columba.admin.v1`.
        #[allow(
            clippy::pedantic,
            clippy::large_enum_variant,
            missing_docs,
            dead_code,
            reason = "generated code"
        )]
        pub mod v1 {
            tonic::include_proto!("server/columba.admin.v1");
        }
    }
}

pub(crate) use columba::admin::v1 as admin;
pub(crate) use columba::v1;
