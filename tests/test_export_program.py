"""An exported program: JAX alone runs it, and it gives the images of `gan.load`, for every network family."""

import os
import subprocess
import sys
from pathlib import Path

import families
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan.export import program

ALONE = ("jax", "jaxlib", "numpy", "numpy.libs", "ml_dtypes", "scipy", "scipy.libs", "opt_einsum", "flatbuffers")
"""What is installed where a program runs: JAX, what it needs, and flatbuffers, which jax.export needs."""

RUN = """
import sys
sys.path[:0] = [sys.argv[1]]
import jax, numpy
from jax import export

for name in sys.argv[3:]:
    with open(f"{sys.argv[2]}/{name}.stablehlo", "rb") as file:
        program = export.deserialize(bytearray(file.read()))
    assert program.platforms == ("cpu", "cuda", "tpu"), program.platforms
    given = numpy.load(f"{sys.argv[2]}/{name}.npz")
    for size in (3, 1):  # any batch size
        images, values = program.call(given["latent"][:size], given["label"][:size])
        numpy.savez(f"{sys.argv[2]}/{name}_{size}.npz", images=images, values=values)
assert not {"flax", "gan", "orbax"} & {name.partition(".")[0] for name in sys.modules}
"""
"""Runs programs in an interpreter that sees nothing but a folder with the packages of `ALONE`."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A folder with JAX and what it needs, and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    installed = Path(jax.__file__).parent.parent
    for name in ALONE:
        if (installed / name).exists():
            (folder / name).symlink_to(installed / name)
    return folder


def run_alone(alone, folder, names):
    """Calls the programs of the folder on the latents and labels beside them."""
    arguments = [sys.executable, "-I", "-S", "-c", RUN, str(alone), str(folder), *names]
    flags = os.environ["GAN_TEST_XLA_FLAGS"]  # what matters is the result, not its speed
    subprocess.run(arguments, env={"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "HOME": str(folder)}, check=True)


@pytest.mark.parametrize(
    "names", [families.FAST, *(pytest.param((name,), marks=pytest.mark.slow) for name in families.SLOW)]
)
def test_jax_alone_runs_the_program(names, alone, tmp_path):
    expected = {}
    for name in names:
        model = families.model(name)
        program.save(model, tmp_path / f"{name}.stablehlo")
        latents, labels = model.latents(3), jnp.asarray([2, 0, 1]) % max(len(model.class_names), 1)
        np.savez(tmp_path / f"{name}.npz", latent=latents, label=labels.astype(jnp.int32))
        expected[name] = model, np.asarray(model.generate(latents, labels))
    run_alone(alone, tmp_path, names)
    for name, (model, values) in expected.items():
        assert values.std() > 0.01, name
        for size in (3, 1):
            found = np.load(tmp_path / f"{name}_{size}.npz")
            np.testing.assert_allclose(found["values"], values[:size], atol=1e-5, err_msg=name)
            if name != "points":
                np.testing.assert_allclose(found["images"].astype(int), model.to_uint8(values[:size]), atol=1)


@pytest.mark.parametrize("name, labels", [("stylegan2", [0, 0]), pytest.param("gat", [2, 0], marks=pytest.mark.slow)])
def test_the_truncation_of_styles_is_in_the_program(name, labels):
    model = families.model(name)
    latents, labels = model.latents(2), jnp.asarray(labels, jnp.int32)
    _, values = jax.jit(program.function(model.truncated(0.3)))(latents, labels)
    np.testing.assert_allclose(values, model.truncated(0.3).generate(latents, labels), atol=1e-5)
    _, of_psi = jax.jit(program.function_of_psi(model.truncated(0.9)))(latents, labels, jnp.float32(0.3))
    np.testing.assert_allclose(of_psi, values, atol=1e-5)
    assert np.abs(values - model.generate(latents, labels)).max() > 0.01


def test_the_program_has_no_primitive_of_this_package():
    model = families.model("stylegan2")
    with program.without_primitives():
        jaxpr = jax.make_jaxpr(program.function(model))(model.latents(2), jnp.zeros(2, jnp.int32))
    assert "conv_general_dilated" in str(jaxpr)
    assert not any(name in str(jaxpr) for name in ("convolution_", "filter_1331", "while", "random"))
    usual = jax.make_jaxpr(lambda latent: model.game.generate(model.ema.variables, latent, None, train=False)[0])
    assert all(name in str(usual(model.latents(2))) for name in ("convolution_", "filter_1331", "random"))
