# Runs on a CPU as it is, and on NVIDIA GPUs with the NVIDIA container toolkit (docker run --gpus all):
# the registry's torch wheels bring CUDA.
FROM python:3.11-slim-bookworm
WORKDIR /opt/combo-avs
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt .
WORKDIR /work
ENTRYPOINT ["combo"]
