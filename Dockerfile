# yolo with the spikeyolo plugin; the PyTorch wheel brings CUDA, so the same image runs on a CPU and, with
# `docker run --gpus all`, on a GPU.
#   docker build -t spikeyolo .
#   docker run --rm -v "$PWD:/workspace" spikeyolo predict model=ibra-spikeyolo-p.pt source=image.jpg
FROM python:3.12-slim

# OpenCV's shared libraries; a compiler for compile=True
RUN apt-get update \
    && apt-get install --no-install-recommends -y g++ libgl1 libglib2.0-0 libxcb1 \
    && rm -rf /var/lib/apt/lists/*

COPY . /src
RUN pip install --no-cache-dir /src && rm -rf /src

# No privileges. Settings are outside the volume and writable for any --user; weights, data sets and runs are inside.
RUN useradd --create-home spikeyolo && mkdir -m 777 /settings /workspace
ENV YOLO_AUTOINSTALL=false YOLO_CONFIG_DIR=/settings HOME=/workspace
USER spikeyolo
RUN yolo settings datasets_dir=/workspace/datasets weights_dir=/workspace/weights runs_dir=/workspace/runs \
    && chmod -R a+rwX /settings && spikeyolo checks
VOLUME /workspace
WORKDIR /workspace
ENTRYPOINT ["yolo"]
CMD ["help"]
