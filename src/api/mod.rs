//! The gRPC services: the only layer that knows tonic, the wire types and `Status`.

mod wire;
