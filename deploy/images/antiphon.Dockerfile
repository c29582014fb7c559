# All in one, with keygen and load.
# From the root of the repository: buildah bud -f deploy/images/antiphon.Dockerfile -t antiphon-antiphon .
ARG BASE=docker.io/library/python:3.11-slim-bookworm

# Wheels of every package: the same layers in all images, built once.
FROM ${BASE} AS build
WORKDIR /src
COPY constraints.txt ./
RUN python3 -m venv /build && /build/bin/pip install -q -c constraints.txt hatchling
COPY packages packages
RUN /build/bin/pip wheel -q --no-deps --no-build-isolation -w /wheels ./packages/*
RUN python3 -m venv /opt/antiphon && /opt/antiphon/bin/pip install -q -c constraints.txt /wheels/*.whl

FROM ${BASE}
COPY --from=build /opt/antiphon /opt/antiphon
USER 65532:65532
EXPOSE 3478/udp 8080 9090
ENTRYPOINT ["/opt/antiphon/bin/python", "-m", "antiphon"]
