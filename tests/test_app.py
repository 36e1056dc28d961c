"""The app: its images are those of the generator, and its page is served to this machine alone."""

import base64
import io
import re
import signal
import socket
import sys
import time
import urllib.error
import urllib.request

import jax.numpy as jnp
import models
import numpy as np
import pytest
import runs
from PIL import Image

from gan.errors import UserError
from gan.explore import app, editor
from gan.inference import codes, directions
from gan.io import plots

DIGITS = tuple("0123456789")


def split_config():
    from configs import biggan

    config = biggan.get_config()
    config.update({"latent": {"size": 12}, "batch_size": 8})
    config.update({player: {"width": 4, "attention": ()} for player in ("generator", "discriminator")})
    config.generator.embedding = 4
    return config


@pytest.fixture(scope="module")
def conditional():
    return editor.of(models.made("dcgan", class_names=DIGITS, width=4, conditioning="embedding"))


@pytest.fixture(scope="module")
def styled():
    return editor.of(models.made("stylegan2", widths=(8, 8), mapping_layers=2, style_width=8))


def close(images, expected):
    """Within a rounding: a batch of another size is another program."""
    np.testing.assert_allclose(images.astype(int), expected.astype(int), atol=1)


def test_images_are_the_samples_of_the_seed(conditional, styled):
    close(conditional.samples(3, 4), conditional.model.sample(4, seed=3))
    close(conditional.samples(3, 3, 7), conditional.model.sample(3, seed=3, classes=[7]))
    close(conditional.samples(3, 2, None, 0.5), conditional.model.sample(2, seed=3, truncation=0.5))
    close(styled.samples(3, 4), styled.model.sample(4, seed=3))
    close(styled.samples(3, 2, None, 0.3), styled.model.sample(2, seed=3, truncation=0.3))


def test_sliders_move_samples_along_directions(conditional, styled):
    for made in (conditional, styled):
        vectors = made.directions.vectors
        moved = made.samples(1, 2, None, None, [0.0, 2.0, -1.5])
        close(moved, made.model.sample(2, seed=1, offset=jnp.asarray(2.0 * vectors[1] - 1.5 * vectors[2])))
        assert np.abs(moved.astype(int) - made.samples(1, 2)).max() > 1


def test_a_path_leads_from_one_seed_to_the_other_and_back(conditional, styled):
    for made in (conditional, styled):
        ends = np.concatenate([made.model.sample(1, seed=seed, classes=[0] * made.model.game.is_conditional)
                               for seed in (4, 9)])  # fmt: skip
        for step, same in ((0, 0), (editor.STEPS, 1)):
            first, middle, second = made.between((4, 9), step)
            close(np.stack([first, second]), ends)
            close(middle, ends[same])
        frames = made.animation((4, 9))
        assert len(frames) == 2 * editor.STEPS
        close(frames[[0, editor.STEPS]], ends)
        close(frames[1], frames[-1])  # back on the same path


def test_a_mixed_image_has_the_chosen_part_of_the_second(styled):
    assert list(styled.groups) == ["coarse", "middle"]  # two sizes of image
    first, mixed, second = styled.mixed((4, 9), "middle")
    styles = [codes.encode(styled.model, styled.model.latents(1, seed=seed)) for seed in (4, 9)]
    expected = jnp.concatenate([styles[0][:, :2], styles[1][:, 2:]], axis=1)
    close(mixed[None], styled.model.to_uint8(styled.model.synthesize(expected)))
    close(np.stack([first, second]), np.concatenate([styled.model.sample(1, seed=seed) for seed in (4, 9)]))


def test_directions_of_another_generator_and_points_are_one_line(conditional, styled, tmp_path):
    styled.directions.save(tmp_path / "directions.npz")
    with pytest.raises(UserError, match=r"the directions have the shape \[4, 8\], and a code of .* has \[8\]"):
        editor.of(conditional.model, directions.load(tmp_path / "directions.npz"))
    given = editor.of(styled.model, directions.load(tmp_path / "directions.npz"))
    np.testing.assert_array_equal(given.directions.vectors, styled.directions.vectors)


def test_without_gradio_one_line_names_the_extra(conditional, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    app._gradio.cache_clear()
    try:
        with pytest.raises(UserError, match=r"needs Gradio: pip install '.\[explore\]'"):
            app.launch(conditional.model)
    finally:
        app._gradio.cache_clear()


def labels(made):
    """The labels of the controls of a page, each once."""
    config = app.page(made).get_config_file()
    return {entry["props"].get("label") for entry in config["components"]}


def test_a_page_has_the_controls_that_its_generator_supports(conditional, styled):
    pytest.importorskip("gradio")
    assert {"Seed", "Class", "Truncation"} <= labels(conditional)
    assert not {"Truncation psi", "Mixing"} & labels(conditional)
    assert {"Seed", "Truncation psi", "Mixing"} <= labels(styled)
    assert not {"Class", "Truncation"} & labels(styled)
    uniform = editor.of(models.made("dcgan", prior="uniform", width=4))
    assert not {"Class", "Truncation", "Truncation psi", "Mixing"} & labels(uniform)


def test_the_page_is_served_to_this_machine_alone_and_shows_the_samples(conditional, tmp_path, monkeypatch):
    client_of = pytest.importorskip("gradio_client").Client
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "temporary"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # where nothing listens
    port, connected = runs.free_port(), []
    sys.addaudithook(lambda event, given: connected.append(given[1]) if event == "socket.connect" else None)
    application = app.launch(conditional.model, port=port)
    try:
        assert application.local_url == f"http://127.0.0.1:{port}/" and application.share_url is None
        for host in {socket.gethostbyname(socket.gethostname())} - {"127.0.0.1"}:  # this machine's other address
            with pytest.raises(OSError):
                socket.create_connection((host, port), timeout=2)
        with pytest.raises(UserError, match=f"--port={port} is in use, or not allowed; expected: another --port"):
            app.launch(conditional.model, port=port)
        client = client_of(application.local_url, verbose=False, analytics_enabled=False)
        html = client.predict(5, 4, "3", 4.0, 0.0, 0.0, 0.0, 0.0, 0.0, api_name="/samples")
        image = Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])))
        expected = plots.grid(conditional.samples(5, 4, 3))
        scale = image.width // expected.shape[1]
        np.testing.assert_array_equal(np.asarray(image)[::scale, ::scale], expected[..., 0])
        with pytest.raises(urllib.error.HTTPError, match="413"):  # nobody can leave a file here
            upload(application.local_url)
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    finally:
        application.close(verbose=False)
    hosts = {address[0] for address in connected if isinstance(address, tuple)}
    assert "127.0.0.1" in hosts  # and no other machine is asked for anything
    assert hosts <= {"127.0.0.1", socket.gethostbyname(socket.gethostname())}


def upload(url):
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\ntext\r\n--x--\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    urllib.request.urlopen(urllib.request.Request(f"{url}gradio_api/upload", body, kind), timeout=10)


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted(tmp_path):
    pytest.importorskip("gradio")
    runs.save(tmp_path / "run", split_config(), image_shape=(32, 32, 3), class_names=DIGITS)
    port = runs.free_port()
    process = runs.command("--mode=explore", "--view=app", f"--workdir={tmp_path / 'run'}", f"--port={port}")
    for line in process.stderr:
        if "The app of" in line:
            break
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30).read().decode()
    assert "googleapis" not in page and "Mixing" in page
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
