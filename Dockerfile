# nctool with the Lava engine, on a CPU. To build the image and run the demo:
#   docker build --tag nctool . && docker run --rm nctool
# To work with files of your own: docker run --rm --volume "$PWD:/work" --user "$(id -u)" nctool nctool run-sim mine.net --input x.npy
FROM python:3.11-slim

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY constraints constraints
COPY toolchain toolchain
COPY models models
COPY deploy deploy

# The index of torch without CUDA, which takes gigabytes; the versions are those that CI tests. Lava: docs/LAVA.md says why apart.
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
        --constraint constraints/py311-core.txt '.[lava]' && \
    pip install --no-cache-dir --no-deps --ignore-requires-python lava-nc==0.10.0 lava-dl==0.6.0

# Not root; HOME holds caches, whoever runs it.
RUN mkdir --mode 777 /work
ENV HOME=/tmp
USER nobody
WORKDIR /work
CMD ["nctool", "demo"]
