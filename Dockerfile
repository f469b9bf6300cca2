# Build:  docker build -t headcount .
# Run:    docker compose -f tuning/compose.yaml up -d      (README.md, "Install")
#
# The runtime image has the C library of the builder's Debian: change both together.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY benches benches
COPY examples examples
COPY src src
# Names of functions in backtraces, but no lines. Slower to build than `cargo build --release`, and faster.
ENV CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1
RUN cargo build --locked --release --bin headcount

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="Headcount" \
      org.opencontainers.image.description="Self-hosted presence and realtime-channel server" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT"
RUN groupadd --system --gid 7400 headcount \
    && useradd --system --uid 7400 --gid 7400 --no-create-home --home-dir /var/lib/headcount headcount \
    && install -d -o headcount -g headcount -m 0700 /var/lib/headcount
COPY LICENSE-APACHE LICENSE-MIT /usr/share/doc/headcount/
COPY tuning/headcount.toml /etc/headcount/headcount.toml
COPY --from=build /src/target/release/headcount /usr/bin/headcount

# Numeric, so that Kubernetes can check runAsNonRoot.
USER 7400:7400
WORKDIR /var/lib/headcount
VOLUME /var/lib/headcount
ENV HEADCOUNT_CONFIG=/etc/headcount/headcount.toml
EXPOSE 7400 7401 7402
# A drain takes at most 30 s: give the container more than that to stop (`stop_grace_period`, `docker stop -t 35`).
STOPSIGNAL SIGTERM
# The shell asks by itself: the image has no HTTP client. An admin address on another port needs another check.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/7402 && printf 'GET /readyz HTTP/1.0\\r\\nHost: 127.0.0.1\\r\\n\\r\\n' >&3 && read -r _ status _ <&3 && [ \"$status\" = 200 ]"]
ENTRYPOINT ["headcount"]
CMD ["serve"]
