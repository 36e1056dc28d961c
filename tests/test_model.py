"""gan.load: a trained generator in Python, without its data, its flags or its optimizer."""

import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

import gan
from gan.errors import UserError
from gan.inference import command
from gan.inference.model import class_index


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "conditional"
    conditioning = {"generator.conditioning": "concat", "discriminator.conditioning": "projection"}
    evaluation = {"evaluation.extractor": "pixels", "evaluation.metrics": ("frechet",), "evaluation.num_samples": 50}
    runs.train(folder, steps=8, evaluate_every=4, **conditioning, **evaluation)
    return folder


@pytest.fixture(scope="module")
def styled(tmp_path_factory):
    from configs import stylegan2

    folder, config = tmp_path_factory.mktemp("runs") / "styled", stylegan2.get_config()
    sizes = {"widths": (8, 8), "mapping_layers": 2}
    config.update({"generator": sizes | {"style_width": 8}, "discriminator": sizes | {"group_size": 2}})
    config.update({"batch_size": 8, "latent": {"size": 8}})
    runs.save(folder, config, image_shape=(8, 8, 1))
    return folder


def test_samples_are_those_of_the_command_and_need_no_data(conditional, tmp_path):
    command.sample(conditional, count=6, seed=3, out=tmp_path / "x.npz", classes=["3", "8"], truncation=0.7)
    moved = tmp_path / "moved"
    shutil.copytree(conditional, moved)
    program = (
        "import sys, gan, numpy as np; model = gan.load(sys.argv[1]);"
        "np.save(sys.argv[2], model.sample(6, seed=3, classes=['3', 8], truncation=0.7));"
        "assert model.class_names == tuple('0123456789') and model.step == 8"
    )
    environment = {"JAX_PLATFORMS": "cpu", "TFDS_DATA_DIR": str(tmp_path / "none"), "HOME": str(tmp_path)}
    arguments = [sys.executable, "-c", program, str(moved), str(tmp_path / "x.npy")]
    subprocess.run(arguments, env=environment, cwd=runs.ROOT, check=True)
    drawn, written = np.load(tmp_path / "x.npy"), np.load(tmp_path / "x.npz")
    assert drawn.dtype == np.uint8 and drawn.shape == (6, 8, 8, 1)
    np.testing.assert_allclose(drawn.astype(int), written["images"], atol=1)  # another number of devices
    np.testing.assert_array_equal(written["labels"], [3, 8] * 3)


def test_latents_and_labels_give_the_samples_of_their_seed(conditional):
    model = gan.load(conditional)
    latents = model.latents(12, seed=5)
    shown = model.to_uint8(model.generate(latents))
    np.testing.assert_allclose(shown.astype(int), model.sample(12, seed=5), atol=1)
    threes = model.to_uint8(model.generate(latents, ["3"] * 12))
    np.testing.assert_allclose(threes.astype(int), model.sample(12, seed=5, classes="3"), atol=1)
    assert model.sample(0).shape == (0, 8, 8, 1)


def test_generation_is_a_pure_function_that_jax_transforms(conditional):
    model = gan.load(conditional)
    latents, labels = model.latents(3), jnp.asarray([1, 2, 3])
    images = model.generate(latents, labels)

    def brightness(latent, label):
        return model.generate(latent[None], label[None]).mean()

    gradients = jax.jit(jax.vmap(jax.grad(brightness)))(latents, labels)
    step = 1e-2 * gradients / jnp.linalg.norm(gradients, axis=1, keepdims=True)
    slope = (jax.vmap(brightness)(latents + step, labels) - jax.vmap(brightness)(latents - step, labels)) / 2e-2
    np.testing.assert_allclose(slope, jnp.linalg.norm(gradients, axis=1), rtol=0.05)
    logits = model.discriminate(images, labels)
    assert logits.shape == (3,)
    others = model.discriminate(images, labels + 1)
    assert jnp.abs(logits - others).max() > 0  # D is conditional


def test_the_discriminator_is_that_of_the_checkpoint(conditional):
    from gan import build, data
    from gan.io import checkpoint
    from gan.parallel import sharding

    dataset = data.open_dataset(runs.config().data)
    model = gan.load(conditional, step=4)
    setup = build.setup(model.config, image_shape=dataset.image_shape, num_classes=10)
    target = sharding.abstract(setup.shapes, sharding.replicated(sharding.local_mesh()))
    found = checkpoint.restore(checkpoint.open_manager(conditional / "checkpoints", read_only=True), target)
    last = gan.load(conditional)
    jax.tree.map(np.testing.assert_array_equal, last.discriminator, found.discriminator.variables)
    differences = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), model.discriminator, last.discriminator)
    assert max(jax.tree.leaves(differences)) > 0  # step 4 is not step 8


def test_a_checkpoint_is_chosen_by_its_step_or_as_the_best(conditional):
    assert gan.load(conditional).step == gan.load(conditional, checkpoint="last").step == 8
    assert gan.load(conditional, step=4).step == 4
    assert gan.load(conditional, checkpoint="best").step in (4, 8)
    with pytest.raises(UserError, match=r"no checkpoint of step 5; nearest: 4; expected: 4, 8$"):
        gan.load(conditional, step=5)
    with pytest.raises(UserError, match="checkpoint='bset' is unknown; expected: last, best"):
        gan.load(conditional, checkpoint="bset")
    with pytest.raises(UserError, match="holds no run"):
        gan.load(conditional / "samples")


def test_styles_are_what_images_are_synthesized_from(styled):
    model = gan.load(styled)
    latents = model.latents(4)
    styles = model.styles(latents)
    assert styles.shape == (4, 4, 8)  # two widths: two layers each
    np.testing.assert_allclose(model.synthesize(styles), model.generate(latents), atol=1e-5)
    # psi 0: every style is the mean.
    means = model.truncated(0.0).styles(latents)
    np.testing.assert_allclose(means, jnp.broadcast_to(means[:1], means.shape), atol=1e-6)


def test_what_a_generator_cannot_do_is_one_line(conditional, styled):
    with pytest.raises(UserError, match="has no styles"):
        gan.load(conditional).styles(gan.load(conditional).latents(1))
    with pytest.raises(UserError, match="needs a conditional generator"):
        gan.load(styled).sample(1, classes=["3"])
    with pytest.raises(UserError, match=r"labels have the shape \[2\]; expected: \[3\]"):
        gan.load(conditional).generate(gan.load(conditional).latents(3), np.zeros(2, np.int32))


def test_what_a_model_cannot_take_is_one_line(conditional):
    model = gan.load(conditional)
    latents, images = model.latents(2), model.generate(model.latents(2))
    for call, line in (
        (lambda: model.sample(-1), "count=-1; expected: a whole number, 0 to"),
        (lambda: model.sample(1, seed=-1), "seed=-1; expected: a whole number, 0 to 4294967295"),
        (lambda: model.latents(2, seed=2**32), "seed=4294967296"),
        (lambda: model.generate(latents[0]), r"latents have the shape \[100\]; expected: \[B, 100\]"),
        (lambda: model.generate(latents, np.asarray([0, 10])), "labels: 10 is no class; expected: 0 to 9"),
        (lambda: model.generate(latents, ["3", "cat"]), "'cat' is not a class"),
        (lambda: model.discriminate(images[..., 0]), r"images have the shape \[2, 8, 8\]; expected: \[B, 8, 8, 1\]"),
    ):
        with pytest.raises(UserError, match=line):
            call()


def test_a_number_is_never_the_index_of_a_class_that_is_named_by_a_number():
    names = ("1", "2", "10")
    assert [class_index(name, names) for name in ("1", "10", 0)] == [0, 2, 0]
    with pytest.raises(UserError, match="'0' is not a class of the run's dataset.*expected: 1, 2, 10$"):
        class_index("0", names)
    assert class_index("1", ("cat", "dog")) == 1


def test_arguments_of_another_kind_are_one_line(conditional):
    model = gan.load(conditional)
    latents = model.latents(2)
    images = model.sample(2, classes=np.array([3, 8]))
    np.testing.assert_array_equal(images, model.sample(2, classes=["3", "8"]))
    for call, line in (
        (lambda: gan.load(None), r"load\(None, step=None\); expected: the path of a folder"),
        (lambda: gan.load(conditional, step="4"), "step='4'"),
        (lambda: gan.load(conditional / "config.json"), "config.json is a file; expected: the folder of a run"),
        (lambda: model.sample(2, seed=1.5), "seed=1.5; expected: a whole number"),
        (lambda: model.generate(latents, np.asarray([0.5, 1.5])), "labels are float64; expected: whole numbers"),
        (lambda: model.generate(latents, np.asarray([-1, 0])), "labels: -1 is no class"),
        (lambda: model.discriminate(images), "images are uint8; expected: floats from -1 to 1"),
    ):
        with pytest.raises(UserError, match=line):
            call()
