# The dashboard with the demo's run, on CPU.
#
#   docker build -t opd-studio .
#   docker run --init --rm -p 127.0.0.1:7860:7860 -v opd-data:/data opd-studio
#
# Open the link that it prints: outside its own loopback address the server wants a token, which it
# makes on the first start and keeps in the volume. The demo is trained on the first start only.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 \
    OPD_DATA_DIR=/data \
    HF_HOME=/data/huggingface

# --build-arg PIP_EXTRA_INDEX_URL=… with the CPU index that pytorch.org names leaves out CUDA, which
# saves gigabytes; the rest follows from pyproject.toml.
ARG PIP_EXTRA_INDEX_URL
RUN pip install --no-cache-dir "torch>=2.8,<2.14"

WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY opd opd
COPY storage storage
COPY app app
COPY opd_launcher.py ./
RUN pip install --no-cache-dir . \
    && useradd --create-home --uid 10001 opd \
    && install --directory --owner=opd /data

USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 7860

# Any answer will do: without a token, which this check does not have, it is 401.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["python", "-c", \
    "from http.client import HTTPConnection as C; c = C('127.0.0.1', 7860, timeout=5); c.request('GET', '/api/v1/health'); exit(c.getresponse().status not in (200, 401))"]

# `opd runs` makes the database, so that the two that follow do not both try to.
CMD ["sh", "-c", "if [ ! -e $OPD_DATA_DIR/studio.db ]; then opd runs >/dev/null; opd train demo & fi; exec opd serve --host 0.0.0.0"]
