# yolo with the spikeyolo plugin; the PyTorch wheel brings CUDA, so the same image runs on a CPU and, with
# `docker run --gpus all`, on a GPU.
#   docker build -t spikeyolo .
#   docker run --rm -v "$PWD/runs:/workspace/runs" spikeyolo yolo train model=ibra-spikeyolo-p.yaml data=photo-digits.yaml
FROM python:3.12-slim

# OpenCV's shared libraries; a compiler for compile=True
RUN apt-get update \
    && apt-get install --no-install-recommends -y g++ libgl1 libglib2.0-0 libxcb1 \
    && rm -rf /var/lib/apt/lists/*

COPY . /src
RUN pip install --no-cache-dir /src && spikeyolo checks

ENV YOLO_AUTOINSTALL=false
WORKDIR /workspace
CMD ["spikeyolo", "help"]
