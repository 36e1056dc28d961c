"""Prepare a dataset with TFDS: find its builder, download and write it once, and explain in one line what failed."""

import contextlib
import importlib.util
import io
import logging
import os
import pathlib
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from gan.data import stacked, toys
from gan.data.reasons import one_line
from gan.errors import UserError, machine_failure, nearest

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 10
"""A host that does not answer a first request within this time counts as unreachable."""
ENCODED_FILES = ("folder", "huggingface")
"""Datasets of a user's own encoded images."""
OWN_FILES = (*ENCODED_FILES, "npz")
"""Datasets of a user's own files, which `config.data.dir` names. They are identified by their contents."""
VERSION = re.compile(r"(\d+|\*)(\.(\d+|\*)){2}|")
PREPARED = "prepared"
"""The subfolder of the cache folder for what is prepared there: digits and folders of images."""
DATASET_INFO = "dataset_info.json"
"""The file that TFDS writes last, when a dataset is complete."""


def find_builder(
    name: str, data_dir: str | os.PathLike, cache_folder: pathlib.Path, skip_broken: bool, white: float
) -> Any:
    """The TFDS builder of a dataset, prepared or not: this project's own if there is one, else TFDS's.

    The arguments are those of `datasets.load`. Raises `UserError` for an unknown name, config or version, and for a
    corrupted description of prepared data.
    """
    import tensorflow_datasets as tfds  # takes 0.5 s

    from gan.data import builders, folder, huggingface, npz

    own_root = cache_folder / PREPARED
    if name == "folder":
        return folder.builder(data_dir, own_root, skip_broken, white)
    if name == "huggingface":
        return huggingface.builder(data_dir, own_root, skip_broken, white)
    if name == "npz":
        return npz.builder(data_dir, own_root)
    root = os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    bare_name, _, version = name.partition(":")
    if not VERSION.fullmatch(version):
        raise UserError(
            f"config.data.name={name!r}: expected a version after the colon, such as cifar10:3.0.2; community datasets "
            "run code of their authors and are not supported"
        )
    builder_class = builders.builder_class(bare_name)
    if builder_class is not None and version in ("", str(builder_class.VERSION)):
        parent = own_root if bare_name in builders.BUNDLED and not data_dir else root
        try:
            return builder_class(data_dir=parent)
        except Exception as error:  # TFDS, protocol buffers and JSON each raise their own for a corrupted description
            raise UserError(
                f"{pathlib.Path(parent, bare_name)} is damaged ({one_line(error)}); delete that folder and run again"
            ) from error
    try:
        return tfds.builder(name, data_dir=root)
    except tfds.core.registered.DatasetNotFoundError as error:
        own = (*builders.BUNDLED, *OWN_FILES, stacked.NAME, *toys.NAMES)
        known = [*own, *tfds.list_builders(with_community_datasets=False)]
        raise UserError(
            f"config.data.name={name!r} is unknown{nearest(name, known)}; expected: {', '.join(own)}, an image dataset "
            f"of https://www.tensorflow.org/datasets/catalog, or one that is prepared in {root}"
        ) from error
    except (AssertionError, ValueError) as error:  # an unknown config or version of a known dataset
        raise UserError(f"config.data.name={name!r} cannot be used: {_reason(error)}") from error
    except Exception as error:  # the code of a dataset may need any package, or a file that TFDS is shipped without
        if package := _missing_package(error):
            raise UserError(
                f"config.data.name={name!r} cannot be used: TFDS needs the package {package!r} to describe and prepare "
                f"it; if it is a set of images: {sys.executable} -m pip install {package}"
            ) from error
        raise UserError(f"config.data.name={name!r} cannot be used: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return one_line(str(error).rpartition('}": ')[2])  # TFDS repeats the call first


def _missing_package(error: BaseException | None) -> str:
    """The package whose import failed, in this error or in one that caused it; "" where there is none."""
    while error is not None:
        if isinstance(error, ImportError):
            return (error.name or "").partition(".")[0] or _missing_package(error.__cause__ or error.__context__)
        error = error.__cause__ or error.__context__
    return ""


def prepare(builder: Any, name: str) -> None:
    """Downloads and writes a dataset that is not prepared yet. Prepared data is used without any network access.

    Raises:
      UserError: TensorFlow is needed and not installed, the hosts are unreachable, or preparing failed.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    if builder.data_path.exists():
        return
    unprepared = f"{name} is not prepared in {builder.data_path}"
    needs_tensorflow = _needs_tensorflow(builder)
    if needs_tensorflow and importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"{unprepared}, and TFDS needs TensorFlow to prepare it, once: {_prepare_command(builder, name)}"
        )
    if reason := _unreachable(builder):
        raise UserError(
            f"{unprepared}, and {reason}; set TFDS_DATA_DIR or config.data.dir to a folder that contains it, or "
            f"prepare it on a machine with network access: {_prepare_command(builder, name)}"
        )
    logger.info("Preparing %s in %s (only once).", name, builder.data_path)
    tfds.display_progress_bar(bool(builder.url_infos))
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints; what matters is logged here
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False), file_format="array_record"
            )
    except Exception as error:
        if (builder.data_path / DATASET_INFO).exists():  # another process has prepared it in the meantime
            builder.info.read_from_directory(builder.data_path)
            return
        if line := machine_failure(error, str(builder.data_path), _elsewhere(builder)):
            raise UserError(line) from error
        expected = (OSError, tfds.download.DownloadError, NonMatchingChecksumError)
        if not needs_tensorflow and not isinstance(error, expected):
            raise
        fix = f"run: {_prepare_command(builder, name)}" if needs_tensorflow else "fix that and run again"
        raise UserError(f"{unprepared}: {type(error).__name__}: {one_line(error)}; {fix}") from error


def check_prepared(builder: Any, name: str) -> None:
    """Raises `UserError` for prepared data that is incomplete, or in a format without random access."""
    if not (builder.data_path / DATASET_INFO).exists():
        raise UserError(f"{builder.data_path} contains no {DATASET_INFO}; {repair_hint(builder, name)}")
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    if "array_record" not in formats:
        found = " and ".join(sorted(formats)) or "an unknown format"
        raise UserError(
            f"{builder.data_path} contains {name} as {found}, not as array_record; set config.data.dir to another "
            f"folder, or {repair_hint(builder, name)}"
        )


def repair_hint(builder: Any, name: str) -> str:
    """What to do about damaged prepared data, as the end of a message."""
    command = f"run: {_prepare_command(builder, name)}" if _needs_tensorflow(builder) else "run again"
    return f"delete that folder and {command}"


def _needs_tensorflow(builder):
    """Whether TFDS's own code prepares the dataset, which needs TensorFlow to extract and to encode."""
    from gan.data import builders

    return type(builder).__module__.startswith("tensorflow_datasets.") and not isinstance(builder, builders.READERS)


def _elsewhere(builder):
    """How to have a dataset prepared on another disk."""
    variable = "GAN_CACHE_DIR" if PREPARED in pathlib.Path(builder.data_dir_root).parts else "TFDS_DATA_DIR"
    return f"set {variable} to a folder on another disk"


def _prepare_command(builder, name):
    """The shell command that prepares a dataset from scratch."""
    python, root = sys.executable, builder.data_dir_root
    if not _needs_tensorflow(builder):
        return f"""{python} -c "from gan import data; data.load(name='{name}', data_dir='{root}')\""""
    # Not `tfds build`, which needs Apache Beam as well.
    build = f"tfds.builder('{name}', data_dir='{root}').download_and_prepare(file_format='array_record')"
    return f'{python} -m pip install tensorflow && {python} -c "import tensorflow_datasets as tfds; {build}"'


def _unreachable(builder):
    """Why the files that are still to be downloaded cannot be fetched, or "".

    TFDS itself would retry for minutes. Files that are already in its download folder are not requested.
    """
    from tensorflow_datasets.core.download import resource

    downloads = pathlib.Path(builder.data_dir_root, "downloads")
    missing: dict[str, str] = {}
    for address, info in (builder.url_infos or {}).items():
        file_name = resource.get_dl_fname(address, info.checksum)
        present = (downloads / file_name).exists() or (downloads / builder.name / file_name).exists()
        if address.startswith("http") and not present:
            missing.setdefault(urllib.parse.urlsplit(address).netloc, address)
    reason = ""
    for host, address in list(missing.items())[:3]:
        try:
            with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=TIMEOUT_SECONDS):
                return ""
        except urllib.error.HTTPError:  # the host answers
            return ""
        except OSError as error:
            reason = f"{host} does not answer ({one_line(getattr(error, 'reason', error))})"
    return reason
