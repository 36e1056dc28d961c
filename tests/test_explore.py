"""--mode=explore: every view of small runs, the files that it writes, and mistakes in one line."""

import json

import numpy as np
import pytest
import runs
from models import made
from PIL import Image

import gan
from gan import data
from gan.cli import flags
from gan.errors import UserError
from gan.explore import command, comparison, grids
from gan.explore.options import Options
from gan.inference import command as sampling
from gan.inference import directions
from gan.io import plots
from gan.metrics import features, neighbors


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a conditional run on the digits, with image grids of two steps."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    players = {"generator.conditioning": "embedding", "discriminator.conditioning": "projection"}
    config = runs.config(**players)
    digits = data.open_dataset(config.data)
    runs.save(folder, config, image_shape=(8, 8, 1), class_names=digits.class_names)
    record = json.loads((folder / "config.json").read_text())
    record["dataset"]["fingerprint"] = digits.fingerprint
    (folder / "config.json").write_text(json.dumps(record))
    (folder / "samples").mkdir()
    for step in (1, 2):
        plots.save_png(folder / "samples" / f"{step:08}.png", np.full((10, 10, 1), 100 * step, np.uint8))
    return folder


@pytest.fixture(scope="module")
def styled():
    """A model with styles, without a run."""
    return made("stylegan2", image_shape=(16, 16, 3), widths=(8, 8, 4), mapping_layers=1, style_width=8)


def shown(folder, view, **options):
    """The names of the files of a view, without step and seed, and the first of them if it is a PNG."""
    return written(command.explore(Options(folder, view, **options)), folder)


def written(paths, folder):
    """The same, of files that are written."""
    assert all(path.is_file() for path in paths) and {path.parent for path in paths} == {folder / "explore"}
    image = np.asarray(Image.open(paths[0])) if paths[0].suffix == ".png" else None
    return [path.name.replace("_step2", "").replace("_step0", "").replace("_seed0", "") for path in paths], image


def test_grids_of_seeds_classes_and_truncations(trained):
    names, image = shown(trained, "seeds", count=12)
    # 8 pixels are enlarged 8 times, with gaps of 2 between them: 10 columns; two rows, each under 19 pixels of numbers.
    assert names == ["seeds.png"] and image.shape == (2 * (19 + 66), 2 + 10 * 66)
    _, image = shown(trained, "classes", count=3, classes=("3", "8"))
    assert image.shape == (19 + 3 * 66, 2 + 2 * 66)
    model = gan.load(trained)
    eight = model.to_uint8(model.generate(model.latents(2), ["3", "8"]))  # the same latent, 0, in the first row
    drawn = model.sample(2, classes=["3", "8"], same_latents=True)
    assert eight.shape == drawn.shape
    np.testing.assert_allclose(image[19 : 19 + 64 : 8, 2 : 2 + 64 : 8].astype(int), drawn[0, ..., 0], atol=1)
    np.testing.assert_allclose(image[19 : 19 + 64 : 8, 68 : 68 + 64 : 8].astype(int), drawn[1, ..., 0], atol=1)
    _, image = shown(trained, "truncation", count=2)
    assert image.shape == (19 + 2 * 66, 2 + 7 * 66)


def test_an_interpolation_is_a_strip_and_a_closed_animation(trained):
    names, strip = shown(trained, "interpolation", count=2, classes=("1", "2", "3"))
    assert names == ["interpolation_classes1-2-3.png", "interpolation_classes1-2-3.gif"]
    assert strip.shape[0] == 2 + 3 * 66  # a row for each class
    with Image.open(trained / "explore" / f"interpolation_step2_seed0_{'classes1-2-3'}.gif") as film:
        assert film.n_frames == 2 * 16 and film.info["loop"] == 0
    with pytest.raises(UserError, match="--num_samples=1; expected with --view=interpolation: 2 to 100"):
        shown(trained, "interpolation", count=1)


@pytest.mark.slow
def test_styles_are_mixed_and_moved_and_truncated(styled, tmp_path):
    names, image = written(grids.mixing(Options(tmp_path, "mixing", count=2), styled), tmp_path)
    assert names == ["mixing_coarse.png", "mixing_middle.png", "mixing_fine.png"]
    assert image.shape == (19 + 3 * 66, 2 + 3 * 66, 3)
    options = Options(tmp_path, "directions", count=2, method="pca", layers="coarse")
    names, _ = written(grids.directions(options, styled), tmp_path)
    assert names == ["directions_pca_coarse.png", "directions_pca_coarse.npz"]
    found = directions.load(tmp_path / "explore" / "directions_step0_seed0_pca_coarse.npz")
    assert found.vectors.shape == (2, 6, 8) and found.method == "pca"
    np.testing.assert_array_equal(found.vectors[:, 2:], 0)
    _, image = written(grids.truncation(Options(tmp_path, "truncation", count=2), styled), tmp_path)
    assert image.shape == (19 + 2 * 66, 2 + 7 * 66, 3)
    # Psi 0, the second column, is the mean in every row; psi 1, the sixth, is the sample. Pixels are enlarged 4 times.
    columns = [image[19:, 2 + 66 * index : 2 + 66 * index + 64 : 4] for index in (1, 5)]
    np.testing.assert_array_equal(columns[0][:64], columns[0][66 : 66 + 64])
    np.testing.assert_allclose(columns[1][:64:4].astype(int), styled.sample(1)[0], atol=1)
    with pytest.raises(UserError, match="needs a conditional generator"):
        grids.classes(Options(tmp_path, "classes"), styled)


def test_a_direction_moves_the_samples_of_the_command(trained, styled, tmp_path):
    model = gan.load(trained)
    directions.sefa(model, 2).save(tmp_path / "d.npz")
    move = f"{tmp_path / 'd.npz'}:1*3"
    sampling.sample(trained, count=3, seed=1, out=tmp_path / "moved.npz", moves=[move])
    moved = np.load(tmp_path / "moved.npz")["images"]
    code = model.latents(3, seed=1) + directions.offset(model, [move])[None]
    np.testing.assert_allclose(moved.astype(int), model.to_uint8(model.generate(code)), atol=1)
    assert np.abs(moved.astype(int) - model.sample(3, seed=1)).max() > 1
    assert sampling.samples_file(2, 3, 1, None, [], False, [move]) != sampling.samples_file(2, 3, 1, None, [], False)
    directions.sefa(styled, 1).save(tmp_path / "w.npz")
    offset = directions.offset(styled, [f"{tmp_path / 'w.npz'}:0*3"])
    expected = styled.to_uint8(styled.synthesize(styled.styles(styled.latents(3, seed=1)) + offset[None]))
    np.testing.assert_allclose(styled.sample(3, seed=1, offset=offset).astype(int), expected, atol=1)


def test_an_image_is_projected_and_its_code_is_saved(trained):
    model = gan.load(trained)
    image = model.sample(1, seed=9)[0, ..., 0]
    Image.fromarray(image).save(trained / "mine.png")
    names, _ = shown(trained, "projection", image=trained / "mine.png", classes=["0"])
    assert names == [f"projection_classes0_mine.{suffix}" for suffix in ("png", "npz", "gif")]
    found = np.load(trained / "explore" / "projection_step2_seed0_classes0_mine.npz")
    assert found["label"] == 0 and found["psnr"] > found["start_psnr"]
    np.testing.assert_array_equal(found["target"][..., 0], image)
    Image.new("RGB", (9, 8)).save(trained / "wide.png")
    (trained / "text.png").write_text("no image")
    for path, line in (
        (trained / "wide.png", r"has 9x8 pixels \(width x height\).*have 8x8"),
        (trained / "text.png", "cannot be read as an image"),
        (trained / "none.png", "cannot be read as an image"),
        (None, "needs --image=FILE"),
    ):
        with pytest.raises(UserError, match=line):
            shown(trained, "projection", image=path)


def test_samples_are_compared_with_the_data(trained):
    names, image = shown(trained, "neighbors", count=2)
    assert names == ["neighbors.png"] and image.shape[0] == 19 + 2 * 66
    names, _ = shown(trained, "spectrum", count=50)
    assert names == ["spectrum.png", "spectrum.json"]
    record = json.loads((trained / "explore" / "spectrum_step2_seed0.json").read_text())
    # 8 pixels: 1 to 4 cycles per side.
    assert record["cycles_per_pixel"] == [0.125, 0.25, 0.375, 0.5]
    ratio = 10 * np.log10(np.array(record["samples"]) / record["data"])
    np.testing.assert_allclose(record["samples_over_data_db"], ratio, rtol=1e-6)


def test_the_nearest_of_parts_are_the_nearest_of_all(monkeypatch):
    draw = np.random.default_rng(0)
    images, samples = draw.integers(0, 256, (50, 8, 8, 1), np.uint8), draw.integers(0, 256, (4, 8, 8, 1), np.uint8)
    extractor = features.pixel_extractor(features.DatasetInfo((8, 8, 1)))
    monkeypatch.setattr(comparison, "CHUNK", 12)  # 4 parts and 2 images
    found = comparison.nearest_images(extractor, samples, images, 3)
    expected = neighbors.nearest(extractor.features(samples), extractor.features(images), 3)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.distances, expected.distances)
    assert comparison.nearest_images(extractor, samples, images[:2], 3).indices.shape == (4, 2)


def test_the_runs_own_samples_are_a_timelapse_without_a_checkpoint(trained, tmp_path):
    paths = command.explore(Options(trained, "timelapse", out=tmp_path / "growth.gif"))
    assert paths == [tmp_path / "growth.gif"]
    with Image.open(paths[0]) as film:
        assert film.n_frames == 2  # of steps 2 and 4
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_bytes((trained / "config.json").read_bytes())
    with pytest.raises(UserError, match="holds no image grids"):
        command.explore(Options(tmp_path / "run", "timelapse"))


def test_a_split_latent_is_mixed_and_another_is_not(trained, tmp_path):
    options = {"widths": (8, 4, 4), "conditioning": "shared_embedding", "embedding": 5}
    model = made("biggan", class_names=("a", "b"), image_shape=(16, 16, 1), latent=12, **options)
    assert len(grids.mixing(Options(tmp_path, "mixing", count=1), model)) == 3
    with pytest.raises(UserError, match="mixing needs styles or a split latent"):
        command.explore(Options(trained, "mixing"))
    with pytest.raises(UserError, match="--layers=fine needs styles"):
        command.explore(Options(trained, "directions", layers="fine"))


def test_points_in_the_plane_have_no_views_but_the_timelapse(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "load", lambda *_, **__: made("mlp", image_shape=(1, 1, 2), width=4))
    with pytest.raises(UserError, match="generates points in the plane"):
        command.explore(Options(tmp_path, "seeds"))


@pytest.mark.parametrize(
    "arguments, line",
    [
        ([], "--view is missing; expected: interpolation, "),
        (["--view=mixing", "--image=x.png"], "--image has no meaning with --view=mixing; expected with: projection"),
        (["--view=timelapse", "--seed=1"], "--seed has no meaning with --view=timelapse"),
        (["--view=seeds", "--same_latents"], "--same_latents has no meaning with --mode=explore"),
        (["--view=mixin"], "mixin"),
    ],
)
def test_a_flag_that_a_view_does_not_use_is_one_line(arguments, line):
    values = flags.flags.FLAGS
    saved = values.flag_values_dict()
    try:
        with pytest.raises(UserError, match=line):
            flags.parse(["gan.main", "--mode=explore", "--workdir=x", *arguments])
            flags.check_modes()
    finally:
        values.unparse_flags()
        for name, value in saved.items():
            values[name].value, values[name].present = value, 0
        values.mark_as_parsed()


def test_views_and_their_flags_agree():
    assert set(flags.VIEWS) == {*command.VIEWS, "timelapse", "app"}
    for flag, views in flags.VIEWS_OF.items():
        assert "explore" in flags.MODES_OF[flag] and set(views) <= set(flags.VIEWS)


def test_files_go_where_out_says(trained, tmp_path):
    options = {"count": 2, "classes": ("1",)}
    named = command.explore(Options(trained, "directions", out=tmp_path / "a" / "mine.png", **options))
    assert named == [tmp_path / "a" / "mine.png", tmp_path / "a" / "mine.npz"]
    placed = command.explore(Options(trained, "seeds", out=tmp_path / "b", **options))
    assert placed == [tmp_path / "b" / "seeds_step2_seed0_classes1.png"]
    with pytest.raises(UserError, match=r"--out=x\.txt; expected: a folder, or a file that ends in \.png"):
        command.explore(Options(trained, "seeds", out=tmp_path.__class__("x.txt"), **options))
    with pytest.raises(UserError, match=r"--out=.*x\.gif is no mp4 file"):
        command.explore(Options(trained, "interpolation", out=tmp_path / "x.gif", format="mp4", **options))


def test_no_file_is_replaced_that_out_did_not_name(trained, tmp_path):
    image, other = tmp_path / "mine.png", tmp_path / "all.json"
    Image.fromarray(gan.load(trained).sample(1)[0, ..., 0]).save(image)
    other.write_text("{}")
    for view, options, line in (
        ("projection", {"image": image, "out": image}, "mine.png would replace --image"),
        ("spectrum", {"out": tmp_path / "all.png"}, "all.png would also replace .*all.json"),
        ("seeds", {"out": tmp_path / "x.gif"}, "expected: a folder, or a file that ends in .png"),
    ):
        with pytest.raises(UserError, match=line):
            command.explore(Options(trained, view, **options))
    assert other.read_text() == "{}" and Image.open(image).size == (8, 8)


def test_mp4_without_its_package_is_one_line(trained, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match=r"pip install '\.\[explore\]'; expected without it: --format=gif"):
        command.explore(Options(trained, "timelapse", format="mp4"))
