# The program with everything in it, small enough to run anywhere: docker build -t qmtl-history .
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --profile dist -p qmtl-history --features full \
    && mkdir /out \
    && cp target/dist/qmtl-history /out/

FROM debian:bookworm-slim
# Security updates of these two are wanted, so their versions are not pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home --home-dir /var/lib/qmtl qmtl
COPY --from=build /out/qmtl-history /usr/local/bin/
# By number, so that Kubernetes can see that it is not root.
USER 10001
WORKDIR /var/lib/qmtl
ENTRYPOINT ["qmtl-history"]
CMD ["--help"]
