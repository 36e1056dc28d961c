"""gan.inference: paths between codes, mixing, and directions, against their formulas."""

import jax.numpy as jnp
import numpy as np
import pytest
from models import made

from gan.errors import UserError
from gan.inference import codes, directions, interpolation, mixing


@pytest.fixture(scope="module")
def plain():
    return made("dcgan", width=4)


@pytest.fixture(scope="module")
def split():
    options = {"widths": (8, 4, 4), "conditioning": "shared_embedding", "embedding": 5, "spectral_norm": True}
    return made("biggan", class_names=("a", "b"), image_shape=(16, 16, 1), latent=12, **options)


@pytest.fixture(scope="module")
def styled():
    return made("stylegan2", image_shape=(16, 16, 1), widths=(8, 8, 4), mapping_layers=2, style_width=8)


def test_slerp_keeps_the_norm_and_turns_with_constant_speed():
    a, b = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)
    a, b = 3 * a / np.linalg.norm(a), 3 * b / np.linalg.norm(b)
    points = interpolation.slerp(a[None], b[None], jnp.linspace(0, 1, 9))
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 3.0, rtol=1e-5)
    steps = np.arccos(np.sum(points[1:] * points[:-1], axis=1) / 9)
    np.testing.assert_allclose(steps, np.arccos(a @ b / 9) / 8, rtol=1e-3)
    np.testing.assert_allclose(points[jnp.array([0, 8])], [a, b], atol=1e-5)
    # In the plane, by a right angle: half way is at 45 degrees; the norm goes from 1 to 2.
    half = interpolation.slerp(jnp.asarray([1.0, 0.0]), jnp.asarray([0.0, 2.0]), 0.5)
    np.testing.assert_allclose(half, 1.5 * np.sqrt([0.5, 0.5]), rtol=1e-6)
    # The same direction has no plane: a straight line.
    np.testing.assert_allclose(interpolation.slerp(jnp.ones(4), 2 * jnp.ones(4), 0.5), 1.5 * np.ones(4), rtol=1e-6)


@pytest.mark.parametrize("kind", interpolation.PATHS)
def test_a_path_passes_through_its_keys_and_a_closed_one_returns(kind):
    keys = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 2)), jnp.float32)
    opened = interpolation.path(keys, 5, kind=kind)
    closed = interpolation.path(keys, 5, kind=kind, is_closed=True)
    assert opened.shape == (16, 3, 2) and closed.shape == (20, 3, 2)
    np.testing.assert_allclose(opened[::5], keys, atol=1e-5)
    np.testing.assert_allclose(closed[::5], keys, atol=1e-5)
    # The step over the seam is no larger than the others of its segment.
    seam, others = np.linalg.norm(closed[0] - closed[-1]), np.linalg.norm(np.diff(closed[15:], axis=0), axis=(1, 2))
    assert seam < 1.5 * others.max()


def test_cubic_paths_are_straight_through_keys_on_a_line_and_smooth_elsewhere():
    line = jnp.arange(4.0)[:, None] * jnp.asarray([[1.0, 2.0]])
    np.testing.assert_allclose(
        interpolation.path(line, 4, kind="cubic"), interpolation.path(line, 4, kind="linear"), atol=1e-5
    )
    keys = jnp.asarray(np.random.default_rng(0).normal(size=(5, 2)), jnp.float32)
    jumps = {}
    for kind in ("linear", "cubic"):
        velocity = np.diff(interpolation.path(keys, 100, kind=kind, is_closed=True), axis=0)
        jumps[kind] = np.linalg.norm(np.diff(velocity, axis=0), axis=1).max()
    assert jumps["cubic"] < 0.1 * jumps["linear"]
    with pytest.raises(UserError, match="path='cubik' is unknown; nearest: 'cubic'"):
        interpolation.path(keys, 2, kind="cubik")


def test_sefa_is_the_singular_vectors_of_the_first_layer(plain):
    kernel = np.asarray(plain.ema.params["Dense_0"]["kernel"])  # y = z K: A = K^T
    _, values, vectors = np.linalg.svd(kernel.T)
    found = directions.sefa(plain, 3)
    unit = found.vectors / np.linalg.norm(found.vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(np.sum(unit * vectors[:3], axis=1)), 1.0, rtol=1e-4)
    np.testing.assert_allclose(found.shares, values[:3] ** 2 / np.sum(values**2), rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1.0, atol=0.05)  # z is N(0, 1)
    assert (unit[np.arange(3), np.abs(unit).argmax(axis=1)] > 0).all()


def test_sefa_of_styles_is_that_of_the_affine_layers_of_the_chosen_styles(styled):
    # Style 3 is that of the synthesis layer 3 and of the image of the stage 1; a layer is y = w K / sqrt(W) + 1.
    params = styled.ema.params
    kernels = [params[name]["EqualDense_0"]["kernel"] for name in ("StyledConv_3", "StyledImage_1")]
    _, values, vectors = np.linalg.svd(np.concatenate(kernels, axis=1).T / np.sqrt(8))
    found = directions.sefa(styled, 2, layers=[3])
    assert found.vectors.shape == (2, 6, 8)
    np.testing.assert_array_equal(np.delete(found.vectors, 3, axis=1), 0)
    unit = found.vectors[:, 3] / np.linalg.norm(found.vectors[:, 3], axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(np.sum(unit * vectors[:2], axis=1)), 1.0, rtol=1e-4)
    np.testing.assert_allclose(found.shares, values[:2] ** 2 / np.sum(values**2), rtol=1e-4)
    assert np.abs(directions.sefa(styled, 1).vectors).max(axis=(0, 2)).min() > 0  # of all layers
    with pytest.raises(UserError, match=r"layers=\[6\]; expected: some of 0 to 5"):
        directions.sefa(styled, layers=[6])


def test_sefa_of_a_split_latent_has_a_block_for_each_layer(split):
    # Parts of 4: of the dense layer, and of the modulated normalizations of each of two blocks. A^T A is diagonal in
    # blocks, so every direction is in one part.
    found = directions.sefa(split, 12)
    parts = np.linalg.norm(found.vectors.reshape(12, 3, 4), axis=2)
    np.testing.assert_allclose(np.sort(parts, axis=1)[:, :2], 0.0, atol=1e-4)
    assert [int(count) for count in np.bincount(parts.argmax(axis=1))] == [4, 4, 4]
    # Spectral normalization divides a kernel by its largest singular value, nearly: the first share of the dense layer.
    kernel = np.asarray(split.ema.params["Dense_0"]["kernel"])
    values = np.linalg.svd(kernel, compute_uv=False)
    of_dense = found.shares[parts.argmax(axis=1) == 0]
    np.testing.assert_allclose(of_dense / of_dense[0], values**2 / values[0] ** 2, rtol=1e-3)


def test_principal_components_of_a_known_covariance():
    # Independent coordinates of standard deviations 3, 2, 1 and 0.5 in a rotated basis; variances 9, 4, 1, 0.25.
    draw = np.random.default_rng(0)
    basis, _ = np.linalg.qr(draw.normal(size=(4, 4)))
    x = 5.0 + draw.normal(size=(20_000, 4)) * [[3.0, 2.0, 1.0, 0.5]] @ basis.T
    components, coordinates, shares = directions.principal_components(x, 2)
    np.testing.assert_allclose(np.abs(np.sum(components * basis.T[:2], axis=1)), 1.0, atol=1e-3)
    np.testing.assert_allclose(shares, np.array([9.0, 4.0]) / 14.25, rtol=0.03)
    np.testing.assert_allclose(coordinates.T @ coordinates / len(x), np.eye(2), atol=1e-6)


def test_pca_of_an_affine_layer_is_its_sefa_and_that_of_styles_is_of_w(plain, styled):
    a, b = directions.pca(plain, 2), directions.sefa(plain, 2)
    np.testing.assert_allclose(np.sum(a.vectors * b.vectors, axis=1), 1.0, atol=0.1)
    np.testing.assert_allclose(a.shares, b.shares, rtol=0.1)
    w = np.asarray(styled.styles(styled.latents(4096))[:, 0])
    values, vectors = np.linalg.eigh(np.cov(w.T))
    found = directions.pca(styled, 1, layers=[0, 1])
    np.testing.assert_allclose(np.abs(found.vectors[0, 0] @ vectors[:, -1]), np.sqrt(values[-1]), rtol=1e-3)
    np.testing.assert_array_equal(found.vectors[0, 0], found.vectors[0, 1])
    np.testing.assert_array_equal(found.vectors[0, 2:], 0)
    later = directions.pca(plain, 2, layer="ConvTranspose_0")  # of another layer, after nonlinearities
    assert later.vectors.shape == (2, 8) and np.isfinite(later.vectors).all()
    with pytest.raises(UserError, match="no layer 'Conv_9'"):
        directions.pca(plain, layer="Conv_9")


def test_directions_are_saved_and_added_to_codes(plain, styled, tmp_path):
    written = directions.sefa(plain, 2)
    written.save(tmp_path / "d.npz")
    found = directions.load(tmp_path / "d.npz")
    np.testing.assert_array_equal(found.vectors, written.vectors)
    assert found.method == "sefa"
    file = tmp_path / "d.npz"
    added = directions.offset(plain, [f"{file}:0*2.5", f"{file}:1*-1"])
    np.testing.assert_allclose(added, 2.5 * written.vectors[0] - written.vectors[1], rtol=1e-6)
    moved = directions.move(plain.latents(1)[0], written, 0, [0.0, 2.5])
    np.testing.assert_allclose(moved - plain.latents(1), [np.zeros(8), 2.5 * written.vectors[0]], atol=1e-5)
    with pytest.raises(UserError, match=r"have the shape \[8\], and a code of .* has \[6, 8\]"):
        directions.offset(styled, [f"{file}:0*1"])
    with pytest.raises(UserError, match="has no direction 2; expected: 0 to 1"):
        directions.offset(plain, [f"{file}:2*1"])
    for text in ("d.npz", "d.npz:0", "d.npz:x*1", "d.npz:0*", "d.npz:0*nan"):
        with pytest.raises(UserError, match=r"expected: FILE:INDEX\*STRENGTH"):
            directions.offset(plain, [text])
    other = made("dcgan", width=4)
    other.config.update(steps=7, microbatches=4)  # a run goes on with others
    directions.offset(other, [f"{file}:0*1"])
    other.config.seed = 3
    with pytest.raises(UserError, match=r"d.npz are of a run with config.seed=0, which is 3 in made; expected: dir"):
        directions.offset(other, [f"{file}:0*1"])
    (tmp_path / "other.npz").write_bytes(b"PK")
    for name in ("none.npz", "other.npz"):
        with pytest.raises(UserError, match="holds no directions"):
            directions.load(tmp_path / name)


def test_mixing_takes_a_group_of_parts_from_the_second_code(styled, split, plain):
    assert mixing.groups(styled) == {"coarse": range(0, 2), "middle": range(2, 4), "fine": range(4, 6)}
    assert mixing.groups(split) == {"coarse": range(0, 1), "middle": range(1, 2), "fine": range(2, 3)}
    for model in (styled, split):
        first, second = (codes.encode(model, model.latents(2, seed=seed)) for seed in (0, 1))
        mixed = mixing.mix(model, first, second, "middle")
        parts = [codes.split(model, code) for code in (first, second, mixed)]
        is_second = np.abs(parts[2] - parts[1]).max(axis=(0, 2)) == 0
        is_first = np.abs(parts[2] - parts[0]).max(axis=(0, 2)) == 0
        chosen = mixing.groups(model)["middle"]
        assert np.flatnonzero(is_second).tolist() == list(chosen)
        assert np.flatnonzero(is_first).tolist() == sorted(set(range(len(is_first))) - set(chosen))
        np.testing.assert_array_equal(codes.join(model, parts[2]), mixed)
    with pytest.raises(UserError, match="mixing needs styles or a split latent.*'stylegan2' or 'gat', or 'biggan'"):
        mixing.groups(plain)


def test_any_number_of_codes_is_drawn(plain, split):
    latents = plain.latents(70)
    images = codes.draw(plain, codes.encode(plain, latents))
    assert images.shape == (70, 8, 8, 1)
    np.testing.assert_allclose(images.astype(int), plain.sample(70), atol=1)
    labels = np.arange(3) % 2
    np.testing.assert_allclose(codes.draw(split, split.latents(3), labels).astype(int), split.sample(3), atol=1)


@pytest.mark.parametrize(
    "network, options",
    [
        ("mlp", {"width": 4}),
        ("r3gan", {"widths": (8, 8), "group_width": 4, "remat": True}),
        ("biggan_deep", {"widths": (8, 8, 8), "depth": 1, "remat": True}),
        ("resnet", {"widths": (4, 4), "remat": True}),
        ("sagan", {"widths": (4, 4)}),
        ("flag", {"channels": (4, 4)}),
    ],
)
def test_every_network_states_its_first_layers(network, options):
    found = directions.sefa(made(network, **options), 2)
    assert found.vectors.shape == (2, 8) and np.linalg.norm(found.vectors, axis=1).min() > 0.5


def test_a_transformer_states_the_layers_that_its_styles_enter():
    model = made("gat", width=8, depth=2, heads=2, levels=1, remat=True)
    found = directions.sefa(model, 2)
    assert found.vectors.shape == (2, 2, 8) and found.shares[0] >= found.shares[1] > 0
    np.testing.assert_array_equal(found.vectors[:, 0], found.vectors[:, 1])  # the style of every block is moved


def test_a_layer_behind_a_relu_is_averaged_over_latents():
    model = made("conv_gan", image_shape=(28, 28, 1), width=2)
    found = directions.sefa(model, 2)
    assert found.vectors.shape == (2, 8) and found.shares[0] >= found.shares[1]
