"""ONNX graphs in ONNX Runtime give the images of `gan.load`, for every network family.

jax2onnx needs an environment of its own (docs/export.md); elsewhere these tests are skipped.
"""

import sys

import families
import numpy as np
import pytest

from gan.errors import UserError
from gan.export import onnx


@pytest.mark.parametrize("name", families.FAMILIES)
def test_onnx_runtime_gives_the_images(name, tmp_path):
    pytest.importorskip("jax2onnx")
    runtime = pytest.importorskip("onnxruntime")
    model = families.model(name)
    onnx.save(model, tmp_path / "generator.onnx")
    session = runtime.InferenceSession(tmp_path / "generator.onnx", providers=["CPUExecutionProvider"])
    psi = 0.7 if model.game.has_styles else None
    expected = model if psi is None else model.truncated(psi)
    worst = 0.0
    for size in (3, 1):  # any batch size
        latents, labels = model.latents(size), np.arange(size, dtype=np.int32)[::-1] % max(len(model.class_names), 1)
        given = {"latent": np.asarray(latents), "label": labels, "psi": np.array(psi or 1.0, np.float32)}
        found = session.run(["values"], {entry.name: given[entry.name] for entry in session.get_inputs()})[0]
        values = np.asarray(expected.generate(latents, labels))
        worst = max(worst, float(np.abs(found - values).max()))
        assert values.std() > 0.005
        if name != "points":
            images = session.run(["images"], {entry.name: given[entry.name] for entry in session.get_inputs()})[0]
            assert images.dtype == np.uint8
            np.testing.assert_allclose(images.astype(int), model.to_uint8(values), atol=1)
    print(f"{name}: largest absolute difference {worst:.1e}, standard deviation of the values {values.std():.2f}")
    assert worst < 1e-4


def test_without_jax2onnx_one_line_says_where_it_is_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(UserError, match="needs the package jax2onnx, in an environment of its own"):
        onnx.save(families.model("dcgan"), tmp_path / "generator.onnx")
