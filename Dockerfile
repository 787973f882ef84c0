# syntax=docker/dockerfile:1
# The server and its client, alone: one static program that runs as nobody.
#
#   docker build -t columba:0.1.0 .
#   docker run -p 127.0.0.1:7171:7171 -v columba:/var/lib/columba --read-only columba:0.1.0 serve --insecure

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY src src
# Cargo wants every target that the manifest names.
COPY benches benches
COPY scripts/static-binary.sh scripts/
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    ./scripts/static-binary.sh build \
    && install -D -m 755 target/*/release/columba /image/columba \
    && install -d -m 700 -o 65532 -g 65532 /image/var/lib/columba

FROM scratch
LABEL org.opencontainers.image.title="Columba" \
    org.opencontainers.image.description="A gRPC message service: commands, queries and streaming subscriptions over one durable log" \
    org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /image/ /
COPY LICENSE /LICENSE
# By number, so that Kubernetes can tell that it is not root.
USER 65532:65532
# Reachable from outside of the container. The server refuses that until it is given TLS and identity, or told
# --insecure, which is for whoever runs it to say.
ENV COLUMBA_LISTEN=0.0.0.0:7171 \
    COLUMBA_ADMIN_LISTEN=0.0.0.0:7172 \
    COLUMBA_DATA_DIR=/var/lib/columba
VOLUME /var/lib/columba
EXPOSE 7171 7172
# A longer start period for a log that takes longer to recover. Kubernetes has its own probes.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m CMD ["/columba", "health"]
ENTRYPOINT ["/columba"]
CMD ["serve"]
