# The program with everything in it, small enough to run anywhere: docker build -t qmtl-history .
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --profile dist -p qmtl-history --features full \
    && mkdir /out \
    && cp target/dist/qmtl-history /out/

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home --home-dir /var/lib/qmtl qmtl
COPY --from=build /out/qmtl-history /usr/local/bin/
USER qmtl
WORKDIR /var/lib/qmtl
ENTRYPOINT ["qmtl-history"]
CMD ["--help"]
