"""The app: a page in the browser, or in a notebook, with the controls that a generator supports.

It is built on Gradio (pip install '.[explore]'). It listens on the loopback interface alone, never opens a tunnel, asks
no other host for anything, and writes no file: images are part of the page, and the browser saves them.
"""

import base64
import functools
import html
import io
import logging
import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gan.data import is_point
from gan.errors import UserError
from gan.explore import editor
from gan.explore.editor import Editor
from gan.inference import directions, sampling
from gan.inference.directions import Directions
from gan.inference.model import Model
from gan.io import animation, plots

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
SIDE = 512
"""Pixels: smaller images are enlarged by a whole number to at most this; frames of an animation to half of it."""
FRAME_SECONDS = 0.06
MAX_COLUMNS = 10
"""With so many classes the page begins with four samples of each."""
MAX_SEED = 2**32 - 1
ALL = "all in turn"
"""The choice of no class."""
NO_BOUND = 4.0
"""The end of the slider of the bound of latents, which stands for none."""

STYLE = """
.picture img {width: 100%; max-width: 640px; image-rendering: pixelated}
.picture figcaption {opacity: 0.7; font-size: 0.85em}
#animation img {max-width: 320px}
.save {max-width: 640px}
footer {display: none !important}
.gradio-container {overflow: clip !important}
.pictures {position: sticky; top: 0; align-self: flex-start; z-index: 100; background: var(--background-fill-primary)}
@media (max-width: 760px) {.pictures {order: -1}}
"""
"""The image stays in view while the page is scrolled to a control; on a narrow page it is above the controls."""
SAVE = """() => {
  const image = document.querySelector("#NAME img"), link = document.createElement("a");
  link.href = image.src; link.download = image.dataset.file; link.click();
}"""
"""Saves the image that is shown: the browser already has it."""


def launch(
    model: Model, *, found: Directions | str | Path | None = None, method: str = "sefa", port: int | None = None
) -> Any:
    """Serves the page of a generator on the loopback interface, and shows it where this is a notebook.

    Args:
      found: directions for the sliders: a file of `--mode=explore --view=directions`, or its content; None: found now.
      method: how they are found, "sefa" or "pca".
      port: of the page; None: the first free one from 7860.

    Returns the Gradio application: its `local_url`, and `close()` to end it.

    Raises:
      UserError: no Gradio, a generator of points, directions of another generator, or a port that is in use.
    """
    if is_point(model.game.image_shape):
        raise UserError(f"the app shows images, and {model.source} generates points in the plane")
    _gradio()
    if isinstance(found, (str, Path)):
        found = directions.load(found)
    application = page(editor.of(model, found, method))
    try:
        application.launch(
            server_name=HOST, server_port=port, share=False, prevent_thread_lock=True, quiet=True, theme=_theme(),
            css=STYLE, ssr_mode=False, mcp_server=False, pwa=False, enable_monitoring=False, run_history=False,
            footer_links=[], max_file_size=0, height=760,
        )  # fmt: skip
    except OSError as error:
        where = "the ports 7860 to 7959 are" if port is None else f"--port={port} is"
        raise UserError(f"{where} in use, or not allowed; expected: another --port") from error
    return application


def serve(model: Model, **options: Any) -> None:
    """`launch`, and then waits until the process is ended."""
    application = launch(model, **options)
    logger.info("The app of %s: %s (end it with Ctrl-C)", model.source, application.local_url)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C ends an app, and is no failure
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        application.close(verbose=False)


def page(made: Editor) -> Any:
    """The Gradio application of an editor, not yet served."""
    gradio = _gradio()
    model, name = made.model, _name(made)
    with gradio.Blocks(title=f"gan: {name}", analytics_enabled=False) as application:
        height, width, _ = model.game.image_shape
        gradio.Markdown(f"## {name}\n{model.config.generator.network}, {height}x{width}, step {model.step}")
        with gradio.Tab("Samples"):
            _samples_tab(made)
        with gradio.Tab("Between two"):
            _between_tab(made)
        if made.groups:
            with gradio.Tab("Mixing"):
                _mixing_tab(made)
    return application


def _samples_tab(made: Editor) -> None:
    gradio, columns = _gradio(), sampling.class_columns(made.model.game)
    start = 4 * columns if 0 < columns <= MAX_COLUMNS else 16
    with gradio.Row():
        with gradio.Column(min_width=300):
            seed = _seed("Seed", 0)
            another = gradio.Button("Another seed", size="sm")
            count = gradio.Slider(1, editor.MAX_SAMPLES, start, step=1, label="Number of samples")
            choices = _choices(made, with_all=True)
            sliders = _direction_sliders(made)
        with _pictures():
            picture = _picture("samples")

    def draw(*values: Any) -> str:
        number, total, strengths = _as_seed(values[0]), int(values[1]), values[2 + len(choices) :]
        label, truncation = _chosen(made, values[2:])
        images = made.samples(number, total, label, truncation, strengths)
        sheet = plots.grid(images, min(total, columns) if label is None else 0)
        name = f"{total} sample{'s' if total > 1 else ''} of seed {number}"
        return _html(_png(sheet), "png", name, _file(made, f"seed{number}"))

    _on_change([seed, count, *choices, *sliders], draw, picture, "samples")
    another.click(lambda: random.randrange(MAX_SEED + 1), None, seed, api_visibility="private")


def _between_tab(made: Editor) -> None:
    gradio = _gradio()
    with gradio.Row():
        with gradio.Column(min_width=300):
            seeds = _seed("First seed", 0), _seed("Second seed", 1)
            step = gradio.Slider(0, editor.STEPS, editor.STEPS // 2, step=1, label="Step from the first to the second")
            choices = _choices(made, with_all=False)
            play = gradio.Button("Animate")
        with _pictures():
            picture = _picture("between")
            with gradio.Column(visible=False) as shown:
                film = _picture("animation", "Save as GIF")

    def draw(one: float, two: float, place: float, *values: Any) -> str:
        pair = _as_seed(one), _as_seed(two)
        images = made.between(pair, int(place), *_chosen(made, values))
        name = f"Seed {pair[0]}, step {int(place)} of {editor.STEPS}, and seed {pair[1]}"
        return _html(_png(plots.grid(images, 3)), "png", name, _file(made, f"between{pair[0]}-{pair[1]}-{int(place)}"))

    def animate(one: float, two: float, *values: Any) -> tuple:
        pair = _as_seed(one), _as_seed(two)
        frames = made.animation(pair, *_chosen(made, values))
        name = f"From seed {pair[0]} to seed {pair[1]} and back"
        shown_film = _html(_gif(frames), "gif", name, _file(made, f"animation{pair[0]}-{pair[1]}"))
        return shown_film, gradio.update(visible=True)

    _on_change([*seeds, step, *choices], draw, picture, "between")
    play.click(animate, [*seeds, *choices], [film, shown], api_name="animation")


def _mixing_tab(made: Editor) -> None:
    gradio, names = _gradio(), list(made.groups)
    with gradio.Row():
        with gradio.Column(min_width=300):
            seeds = _seed("First seed", 0), _seed("Second seed", 1)
            group = gradio.Radio(names, value=names[0], label="Part from the second")
            choices = _choices(made, with_all=False)
        with _pictures():
            picture = _picture("mixing")

    def draw(one: float, two: float, part: str, *values: Any) -> str:
        pair = _as_seed(one), _as_seed(two)
        images = made.mixed(pair, part, *_chosen(made, values))
        name = f"Seed {pair[0]}, the same with the {part} part of seed {pair[1]}, and seed {pair[1]}"
        return _html(_png(plots.grid(images, 3)), "png", name, _file(made, f"mixing{pair[0]}-{pair[1]}-{part}"))

    _on_change([*seeds, group, *choices], draw, picture, "mixing")


def _seed(label: str, value: int) -> Any:
    return _gradio().Number(value, label=label, precision=0, minimum=0, maximum=MAX_SEED)


def _choices(made: Editor, *, with_all: bool) -> list:
    """The controls of the class and of the truncation, where the generator has them."""
    gradio, names, found = _gradio(), list(made.model.class_names), []
    if made.model.game.is_conditional:
        shown = [(name, str(index)) for index, name in enumerate(names)]
        shown = [(ALL, ALL), *shown] if with_all else shown
        found.append(gradio.Dropdown(shown, value=shown[0][1], label="Class"))
    if made.truncates == "psi":
        meaning = "0: the mean style; 1: no truncation"
        found.append(gradio.Slider(-1.0, 1.5, 1.0, step=0.05, label="Truncation psi", info=meaning))
    if made.truncates == "bound":
        meaning = f"of the latents, in standard deviations; {NO_BOUND:g}: none"
        found.append(gradio.Slider(0.1, NO_BOUND, NO_BOUND, step=0.1, label="Truncation", info=meaning))
    return found


def _chosen(made: Editor, values: tuple) -> tuple[int | None, float | None]:
    """The class and the truncation, from the values of `_choices` and whatever follows them."""
    given = iter(values)
    name = next(given) if made.model.game.is_conditional else ALL
    truncation = next(given) if made.truncates else None
    if truncation is None or (made.truncates == "bound" and truncation >= NO_BOUND):
        return None if name == ALL else int(name), None
    return None if name == ALL else int(name), float(truncation)


def _direction_sliders(made: Editor) -> list:
    if made.directions is None:
        return []
    gradio = _gradio()
    shares = made.directions.shares[: editor.SHOWN_DIRECTIONS]
    with gradio.Accordion(f"Directions ({made.directions.method})", open=True):
        sliders = [
            gradio.Slider(-5.0, 5.0, 0.0, step=0.1, label=f"Direction {index} ({share:.0%})")
            for index, share in enumerate(shares)
        ]
        reset = gradio.Button("All to zero", size="sm")
    reset.click(lambda: [0.0] * len(sliders), None, sliders, api_visibility="private")
    return sliders


def _pictures() -> Any:
    return _gradio().Column(scale=2, min_width=300, elem_classes="pictures")


def _picture(name: str, save: str = "Save as PNG") -> Any:
    """A place for an image, above a button that saves it."""
    gradio = _gradio()
    picture = gradio.HTML(elem_id=name, elem_classes="picture", label=name)
    button = gradio.Button(save, size="sm", elem_classes="save")
    button.click(None, js=SAVE.replace("NAME", name), api_visibility="private")
    return picture


def _on_change(inputs: list, draw: Callable, picture: Any, name: str) -> None:
    """Draws at the start and when a control changes; while an image is drawn only the last change waits."""
    options = {"trigger_mode": "always_last", "show_progress": "hidden", "api_name": name}
    _gradio().on(None, draw, inputs, picture, **options)


def _as_seed(value: float | None) -> int:
    return int(value or 0) % (MAX_SEED + 1)  # an empty field is None


def _name(made: Editor) -> str:
    return Path(made.model.source).absolute().name


def _file(made: Editor, choice: str) -> str:
    return f"{_name(made)}_step{made.model.step}_{choice}"


def _html(data: bytes, kind: str, name: str, file: str) -> str:
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    image = f'<img src="{source}" alt="{html.escape(name)}" data-file="{html.escape(file)}.{kind}">'
    return f"<figure>{image}<figcaption>{html.escape(name)}</figcaption></figure>"


def _enlarged(image: np.ndarray, side: int) -> np.ndarray:
    scale = max(1, side // max(image.shape[:2]))
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def _png(image: np.ndarray) -> bytes:
    image, data = _enlarged(image, SIDE), io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(data, format="PNG")
    return data.getvalue()


def _gif(frames: np.ndarray) -> bytes:
    data = io.BytesIO()
    shown = [_enlarged(np.broadcast_to(frame, (*frame.shape[:2], 3)), SIDE // 2) for frame in frames]
    animation.save_gif(data, shown, FRAME_SECONDS, FRAME_SECONDS)
    return data.getvalue()


def _theme() -> Any:
    """Gradio's plain theme with the system's own fonts: the others ask Google for theirs."""
    gradio = _gradio()
    return gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


@functools.cache
def _gradio() -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    # It asks its own server whether it has started: not by way of a proxy.
    os.environ["no_proxy"] = ",".join(filter(None, [os.environ.get("no_proxy", os.environ.get("NO_PROXY")), HOST]))
    try:
        import gradio  # late: an extra
    except ImportError:
        raise UserError("the app needs Gradio: pip install '.[explore]'") from None
    return gradio
