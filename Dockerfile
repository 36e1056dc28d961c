# For CPUs:           docker build -t gan .
# For NVIDIA GPUs:    docker build -t gan --build-arg EXTRAS=cuda . && docker run --gpus all -v $PWD/runs:/srv/runs gan --config=dcgan
FROM python:3.13-slim

ARG EXTRAS=test
WORKDIR /opt/gan
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY gan gan
COPY configs configs
COPY experiments experiments
# The plugins for GPUs are not in the constraints: their versions follow jax.
RUN pip install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]"

WORKDIR /srv
ENTRYPOINT ["python", "-m", "gan.main"]
