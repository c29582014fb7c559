# The relay.
# From the root of the repository: buildah bud -f deploy/images/relay.Dockerfile -t antiphon-relay .
ARG BASE=docker.io/library/python:3.11-slim-bookworm

# Wheels of every package: the same layers in all images, built once.
FROM ${BASE} AS build
WORKDIR /src
COPY constraints.txt ./
RUN python3 -m venv /build && /build/bin/pip install -q -c constraints.txt hatchling
COPY packages packages
RUN /build/bin/pip wheel -q --no-deps --no-build-isolation -w /wheels ./packages/*
RUN python3 -m venv /opt/antiphon && /opt/antiphon/bin/pip install -q -c constraints.txt /wheels/antiphon_common-*.whl /wheels/antiphon_relay-*.whl

FROM ${BASE}
COPY --from=build /opt/antiphon /opt/antiphon
USER 65532:65532
EXPOSE 3478/udp 7001/udp 9090
ENTRYPOINT ["/opt/antiphon/bin/python", "-m", "antiphon_relay"]
