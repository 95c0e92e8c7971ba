# nctool with the Lava engine, on a CPU. To build the image and run the demo:
#   docker build --tag nctool . && docker run --rm nctool
# pip takes torch with CUDA, gigabytes, unless PIP_EXTRA_INDEX_URL names PyTorch's index of CPU builds:
#   docker build --build-arg PIP_EXTRA_INDEX_URL=URL --tag nctool .
# To work with files of your own: docker run --rm --volume "$PWD:/work" --user "$(id -u)" nctool nctool run-sim mine.net --input x.npy
FROM python:3.11-slim

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY constraints constraints
COPY toolchain toolchain
COPY models models
COPY deploy deploy

# The versions are those that CI tests. Lava: docs/LAVA.md says why apart.
ARG PIP_EXTRA_INDEX_URL=
RUN pip install --no-cache-dir --constraint constraints/py311-core.txt '.[lava]' && \
    pip install --no-cache-dir --no-deps --ignore-requires-python lava-nc==0.10.0 lava-dl==0.6.0

# Not root; HOME holds caches, whoever runs it.
RUN mkdir --mode 777 /work
ENV HOME=/tmp
USER nobody
WORKDIR /work
CMD ["nctool", "demo"]
