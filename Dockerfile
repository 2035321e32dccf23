# syntax=docker/dockerfile:1.9
# CUDA comes with the registry's torch wheels: on a GPU host run with --gpus all (NVIDIA container toolkit); without a
# GPU the same image runs on the CPU. Pin the base further with --build-arg BASE=python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
RUN python -m venv /opt/combo
WORKDIR /src
# The dependencies change rarely, the code often: the first layer survives an edit of the code.
COPY setup.cfg pyproject.toml constraints.txt LICENSE README.md __init__.py ./
ARG EXTRAS=s3,slurm
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/combo/bin/pip install --constraint constraints.txt "setuptools<82" && \
    /opt/combo/bin/python -c "import configparser; c = configparser.ConfigParser(); c.read('setup.cfg'); \
extras = [c['options.extras_require'][e] for e in '${EXTRAS}'.split(',') if e]; \
print(c['options']['install_requires'] + ''.join(extras))" > requirements.txt && \
    /opt/combo/bin/pip install --constraint constraints.txt --requirement requirements.txt
COPY . .
RUN /opt/combo/bin/pip install --no-deps --no-build-isolation .

FROM ${BASE}
LABEL org.opencontainers.image.title="combo-avs" org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --create-home --uid 1000 combo && mkdir /work /weights && chown combo /work /weights
COPY --from=build /opt/combo /opt/combo
ENV PATH=/opt/combo/bin:$PATH COMBO_WEIGHTS=/weights PYTHONUNBUFFERED=1
USER 1000
WORKDIR /work
VOLUME ["/work", "/weights"]
HEALTHCHECK --interval=60s --timeout=30s --start-period=20s CMD ["combo", "doctor"]
ENTRYPOINT ["combo"]
CMD ["--help"]
