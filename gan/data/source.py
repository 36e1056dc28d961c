"""Datasets by name: found or prepared through TFDS, read at random access, decoded once and kept.

`load` is the only door; every mistake a user can make on the way is a `UserError` of one line.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gan.data import cache, pixels, stacked, toys
from gan.errors import UserError, lookup, nearest

logger = logging.getLogger(__name__)

# Large enough to make light of the cost of a call, small enough to keep all threads busy to the end.
IMAGES_PER_TASK = 256
# A host that does not answer a first knock within this many seconds counts as unreachable.
PATIENCE_SECONDS = 10
# Raised by one with every change of how an image becomes pixels, so that no old array is taken for a new one.
DECODING = 1
# Of the images that are delivered, in pixels.
LARGEST_SIDE = 2**13
VERSION = re.compile(r"(\d+|\*)(\.(\d+|\*)){2}|")
# What TFDS writes last, when a dataset is complete.
DESCRIPTION = "dataset_info.json"
# A fingerprint is taken of so many images, and of fewer where they are large: a tenth of a second for any dataset.
FINGERPRINT_IMAGES = 1024
FINGERPRINT_BYTES = 4 << 20


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One split of a dataset, each image already cropped, resized and with the channels that were asked for."""

    name: str
    split: str
    class_names: tuple[str, ...]
    fingerprint: str
    image_shape: tuple[int, int, int]
    crop: str
    _records: Sequence = dataclasses.field(repr=False, compare=False)
    _features: object = dataclasses.field(repr=False, compare=False)
    _cache: pathlib.Path = dataclasses.field(repr=False, compare=False)
    _state: Sequence = dataclasses.field(repr=False, compare=False)
    _ends: np.ndarray = dataclasses.field(repr=False, compare=False)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """{"image": uint8 [H, W, C], "label": int32 scalar}; the label is 0 where the dataset has none."""
        images, labels = self.read([index])
        return {"image": images[0], "label": labels[0]}

    def read(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """The examples at `indices` (a sequence of k): uint8 [k, H, W, C] and int32 [k]. Safe to call from threads.

        Raises `UserError` where the files that hold them are damaged, or no longer those that were opened.
        """
        images = np.empty((len(indices), *self.image_shape), np.uint8)
        labels = np.zeros(len(indices), np.int32)
        try:
            for row, record in enumerate(self._records.__getitems__([int(index) for index in indices])):
                example = self._features.deserialize_example_np(record, decoders=_image_undecoded())
                images[row] = self._pixels(example["image"])
                labels[row] = example.get("label", 0)
        except Exception as error:  # ArrayRecord, protocol buffers and PIL each have their own
            self._check_unchanged(indices)
            folder = pathlib.Path(self._state[0][0]).parent
            raise UserError(
                f"{folder} is damaged ({_one_line(error) or type(error).__name__}); delete that folder and prepare "
                f"{self.name} again"
            ) from error
        self._check_unchanged(indices)
        return images, labels

    def arrays(self, progress: Callable[[int, int], None] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The whole split: uint8 [N, H, W, C] and int32 [N], decoded at the first call and memory-mapped ever after.

        Args:
          progress: called with (images decoded so far, N) while the split is decoded.
        """
        what = (self.fingerprint, self._state, self.image_shape, self.crop, DECODING)
        key = hashlib.sha256(repr(what).encode()).hexdigest()[:16]
        folder = self._cache / "arrays" / f"{_file_name(self.name)}-{_file_name(self.split)}-{key}"
        kept = cache.read_arrays(folder, ("images", "labels"))
        if kept is None:
            logger.info("Decoding the %s images of %s into %s, once.", f"{len(self):,}", self.name, folder)
            kept = dict(zip(("images", "labels"), self._decoded(progress), strict=True))
            cache.write_arrays(folder, kept)
        return kept["images"], kept["labels"]

    def _check_unchanged(self, indices):
        """To be called after a read, so that nothing read of a changed file is ever used."""
        for shard in np.unique(np.searchsorted(self._ends, np.asarray(indices, np.int64), side="right")):
            path, size, time = self._state[shard]
            if (cache.stamp(path) or ())[:2] != (size, time):
                raise UserError(
                    f"{path} was changed or removed during the run: put it back as it was, and launch again"
                )

    def _decoded(self, progress):
        images = np.empty((len(self), *self.image_shape), np.uint8)
        labels = np.empty(len(self), np.int32)

        def decode(start):
            rows = range(start, min(start + IMAGES_PER_TASK, len(self)))
            images[rows.start : rows.stop], labels[rows.start : rows.stop] = self.read(rows)
            return rows.stop

        # Threads, not processes: PIL lets go of the interpreter while it decodes, and a fork of a JAX process may hang.
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
            for done in threads.map(decode, range(0, len(self), IMAGES_PER_TASK)):
                if progress is not None:
                    progress(done, len(self))
        return images, labels

    def _pixels(self, encoded):
        height, width, channels = self.image_shape
        image = pixels.flattened(pixels.opened(encoded))
        return pixels.as_array(pixels.fitted(image, (height, width), self.crop), channels)


def open_dataset(
    settings: Mapping[str, Any], split: str | None = None, *, name: str | None = None
) -> Dataset | toys.Points | stacked.Stacks:
    """The dataset of `config.data`, or another split of it, or another dataset in its place: see `load`."""
    return load(
        name=name or settings["name"],
        data_dir=settings["dir"],
        split=split or settings["split"],
        image_size=settings["image_size"] or None,
        channels=settings["channels"] if name is None else 0,
        crop=settings["crop"],
        skip_broken=settings["skip_broken"],
    )


def load(
    *,
    name: str,
    data_dir: str | os.PathLike = "",
    split: str = "train",
    image_size: tuple[int, int] | None = None,
    channels: int = 0,
    crop: str = "center",
    skip_broken: bool = False,
    cache_dir: str | os.PathLike | None = None,
) -> Dataset | toys.Points | stacked.Stacks:
    """Open a dataset; prepare it first where it is not prepared yet.

    Args:
      name: "digits", "folder", "stacked_mnist", a toy of `toys.NAMES`, or a TFDS name, possibly with config and
        version ("mnist", "cifar10:3.0.2").
      data_dir: where prepared data lies or goes; for "folder" the folder of images itself. When empty, the variable
        TFDS_DATA_DIR, else ~/tensorflow_datasets; what we make ourselves (digits, folders) lives in the cache folder.
      split: a TFDS split ("train", "test", "train[:80%]").
      image_size: (height, width), or None for the size that the images have.
      channels: 1 (grey), 3 (RGB), or 0 for as many as the dataset has.
      crop: "center" (cut to the aspect ratio of image_size, then resize) or "none" (stretch).
      skip_broken: for "folder": leave out files that cannot be read rather than stop.
      cache_dir: see `cache.cache_folder`.

    Raises:
      UserError: an unknown name, split or crop; data that is missing, damaged or of another kind.
    """
    if name in toys.NAMES:
        return toys.load(name, split, image_size, channels)
    if name == stacked.NAME:
        if channels not in (0, 3):
            raise UserError(f"config.data.channels={channels!r}: {name} has a digit in each of 3; expected: 0 or 3")
        if split not in stacked.COUNTS:
            raise UserError(f"config.data.split={split!r} is unknown for {name}; expected: {', '.join(stacked.COUNTS)}")
        return stacked.stacks(
            split, load(name="mnist", data_dir=data_dir, split=split, image_size=image_size, cache_dir=cache_dir)
        )
    lookup(dict.fromkeys(pixels.CROPS), crop, "config.data.crop")
    if channels not in (0, 1, 3):
        raise UserError(f"config.data.channels={channels!r} is not 0 (as the dataset has), 1 (grey) or 3 (RGB)")
    if image_size is not None and (len(image_size) != 2 or not 1 <= min(image_size) <= max(image_size) <= LARGEST_SIDE):
        raise UserError(
            f"config.data.image_size={image_size!r} is not (height, width) in pixels; expected: 1 to "
            f"{LARGEST_SIDE} each"
        )
    folder = cache.cache_folder(cache_dir)
    builder = _builder(name, data_dir, folder, skip_broken)
    features = _image_and_label(builder, name)
    _prepare(builder, name)
    _check_prepared(builder, name)
    records, shards = _records(builder, name, split)
    # A folder is known by all of its contents, and that stands in the name of the place where it is prepared.
    identity = builder.data_path.parts[-3:] if name == "folder" else (builder.info.full_name,)
    try:
        fingerprint = _fingerprint((*identity, split), records, features)
    except Exception as error:
        raise UserError(f"{builder.data_path} is damaged ({_one_line(error)}); {_again(builder, name)}") from error
    return Dataset(
        name=name,
        split=split,
        class_names=tuple(getattr(features["label"], "names", ())) if "label" in features else (),
        fingerprint=fingerprint,
        image_shape=_image_shape(name, features["image"].shape, image_size, channels),
        crop=crop,
        _records=records,
        _features=features,
        _cache=folder,
        _state=_state(shards),
        _ends=np.cumsum([shard.take for shard in shards]),
    )


def _builder(name, data_dir, cache_folder, skip_broken):
    """The TFDS builder of a dataset, prepared or not: ours where we have one, else the catalogue's."""
    import tensorflow_datasets as tfds  # half a second

    from gan.data import builders, folder

    ours = cache_folder / "prepared"
    if name == "folder":
        return folder.builder(data_dir, ours, skip_broken)
    root = os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    bare_name, _, version = name.partition(":")
    if not VERSION.fullmatch(version):
        raise UserError(
            f"config.data.name={name!r}: what stands after the colon is a version, such as cifar10:3.0.2; datasets of "
            f"others' collections come with code of theirs, which is not run"
        )
    builder_class = builders.builder_class(bare_name)
    if builder_class is not None and version in ("", str(builder_class.VERSION)):
        where = root if data_dir or bare_name != "digits" else ours
        try:
            return builder_class(data_dir=where)
        except Exception as error:  # TFDS, protocol buffers and JSON each have their own for a damaged record
            told = _one_line(error) or type(error).__name__
            raise UserError(
                f"{pathlib.Path(where, bare_name)} is damaged ({told}); delete that folder and launch again"
            ) from error
    try:
        return tfds.builder(name, data_dir=root)
    except tfds.core.registered.DatasetNotFoundError as error:
        known = ["digits", "folder", stacked.NAME, *toys.NAMES, *tfds.list_builders(with_community_datasets=False)]
        raise UserError(
            f"config.data.name={name!r} is unknown{nearest(name, known)}; expected: digits, folder, {stacked.NAME}, "
            f"{', '.join(toys.NAMES)}, every image dataset of https://www.tensorflow.org/datasets/catalog, and what is "
            f"prepared in {root}"
        ) from error
    except (AssertionError, ValueError) as error:  # an unknown config or version of a known dataset
        reason = str(error).rpartition('}": ')[2]  # TFDS repeats the call first
        raise UserError(f"config.data.name={name!r} cannot be used: {_one_line(reason)}") from error


def _prepare(builder, name):
    """Download and write what is not there yet. Prepared data is used without a look at the network."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    if builder.data_path.exists():
        return
    unprepared = f"{name} is not prepared in {builder.data_path}"
    foreign = _is_foreign(builder)
    if foreign and importlib.util.find_spec("tensorflow") is None:
        raise UserError(f"{unprepared}, and TFDS needs TensorFlow to prepare it, once: {_command(builder, name)}")
    if reason := _unreachable(builder):
        raise UserError(
            f"{unprepared}, and {reason}; set TFDS_DATA_DIR or config.data.dir to a folder that holds it, or prepare "
            f"it where there is a network: {_command(builder, name)}"
        )
    logger.info("Preparing %s in %s, once.", name, builder.data_path)
    tfds.display_progress_bar(bool(builder.url_infos))
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints its news; what matters of it is logged here
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False), file_format="array_record"
            )
    except Exception as error:
        if (builder.data_path / DESCRIPTION).exists():  # another process was faster
            builder.info.read_from_directory(builder.data_path)
            return
        expected = (OSError, tfds.download.DownloadError, NonMatchingChecksumError)
        if not foreign and not isinstance(error, expected):
            raise
        mend = f"run: {_command(builder, name)}" if foreign else "mend that and launch again"
        raise UserError(f"{unprepared}: {type(error).__name__}: {_one_line(error)}; {mend}") from error


def _is_foreign(builder):
    """Whether the catalogue's own code prepares it, which needs TensorFlow to unpack and to encode."""
    from gan.data import builders

    return type(builder).__module__.startswith("tensorflow_datasets.") and not isinstance(builder, builders.READERS)


def _command(builder, name):
    """The shell command that prepares a dataset here, also from scratch."""
    python, root = sys.executable, builder.data_dir_root
    if not _is_foreign(builder):
        return f"""{python} -c "from gan import data; data.load(name='{name}', data_dir='{root}')\""""
    # Not `tfds build`: that wants Apache Beam as well.
    build = f"tfds.builder('{name}', data_dir='{root}').download_and_prepare(file_format='array_record')"
    return f'{python} -m pip install tensorflow && {python} -c "import tensorflow_datasets as tfds; {build}"'


def _unreachable(builder):
    """Why the files that are still to be downloaded cannot be had, or "".

    TFDS alone would try for minutes. What lies in its folder of downloads already is not asked for.
    """
    from tensorflow_datasets.core.download import resource

    downloads = pathlib.Path(builder.data_dir_root, "downloads")
    missing = {}
    for address, info in (builder.url_infos or {}).items():
        file_name = resource.get_dl_fname(address, info.checksum)
        present = (downloads / file_name).exists() or (downloads / builder.name / file_name).exists()
        if address.startswith("http") and not present:
            missing.setdefault(urllib.parse.urlsplit(address).netloc, address)
    reason = ""
    for host, address in list(missing.items())[:3]:
        try:
            with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE_SECONDS):
                return ""
        except urllib.error.HTTPError:  # it answers
            return ""
        except OSError as error:
            reason = f"{host} does not answer ({_one_line(getattr(error, 'reason', error))})"
    return reason


def _image_and_label(builder, name):
    """The two features that are read, as a TFDS dictionary of features."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    present = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
    image, label = present.get("image"), present.get("label")
    if not isinstance(image, tfds.features.Image) or np.dtype(image.np_dtype).kind != "u":
        raise UserError(f"config.data.name={name!r} has no 'image' of integer pixels; it has: {', '.join(present)}")
    if label is None or label.shape != () or np.dtype(label.np_dtype).kind not in "iu":
        return tfds.features.FeaturesDict({"image": image})
    return tfds.features.FeaturesDict({"image": image, "label": label})


def _image_undecoded():
    import tensorflow_datasets as tfds

    return {"image": tfds.decode.SkipDecoding()}


def _image_shape(name, native, image_size, channels):
    """(H, W, C) to deliver, from the shape in the dataset's description, whose sizes are None where images differ."""
    height, width = image_size or native[:2]
    if height is None or width is None:
        raise UserError(f"The images of {name} differ in size: set config.data.image_size=(height, width)")
    return int(height), int(width), channels or (1 if native[2] == 1 else 3)


def _records(builder, name, split):
    """The serialized examples of a split, by index, and the shards that hold them."""
    import tensorflow_datasets as tfds

    splits = builder.info.splits
    try:
        shards = splits[split].file_instructions
    except (KeyError, ValueError) as error:
        raise UserError(
            f"config.data.split={split!r} is not a split of {name}{nearest(split, splits)}; "
            f"expected: {', '.join(splits)}, and parts such as {next(iter(splits))}[:80%]"
        ) from error
    if not shards:
        raise UserError(f"config.data.split={split!r} of {name} holds no examples")
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    try:
        records = builder.as_data_source(split, deserialize_method=raw, file_format="array_record")
        records[len(records) - 1]  # a file that is missing or cut short fails here, and not in the middle of a run
    except Exception as error:
        raise UserError(f"{builder.data_path} is damaged ({_one_line(error)}); {_again(builder, name)}") from error
    return records, shards


def _check_prepared(builder, name):
    """Refuse prepared data that was left half deleted, or that lies there in a format without random access."""
    if not (builder.data_path / DESCRIPTION).exists():
        raise UserError(f"{builder.data_path} holds no {DESCRIPTION}; {_again(builder, name)}")
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    if "array_record" not in formats:
        found = " and ".join(sorted(formats)) or "an unknown format"
        raise UserError(
            f"{builder.data_path} holds {name} as {found}, not as array_record; set config.data.dir to another folder, "
            f"or {_again(builder, name)}"
        )


def _again(builder, name):
    return "delete that folder and " + (f"run: {_command(builder, name)}" if _is_foreign(builder) else "launch again")


def _fingerprint(identity, records, features):
    """Hexadecimal digest of what a split holds: its identity, its length, and pixels and labels of a spread sample.

    Decoded, because the stored bytes depend on who prepared them (PNG encoder, order of protocol buffer fields).
    """
    digest = hashlib.sha256(repr((*identity, len(records))).encode())
    sample = min(len(records), FINGERPRINT_IMAGES, max(4, FINGERPRINT_BYTES // len(records[0])))
    for record in records.__getitems__([number * len(records) // sample for number in range(sample)]):
        example = features.deserialize_example_np(record, decoders=_image_undecoded())
        image = pixels.flattened(pixels.opened(example["image"]))
        digest.update(repr((image.size, image.mode, int(example.get("label", 0)))).encode() + image.tobytes())
    return digest.hexdigest()[:32]


def _state(shards):
    """What tells one state of the prepared files from another at once: their paths, sizes and times."""
    return [(str(shard.filename), *cache.stamp(shard.filename)[:2]) for shard in shards]


def _file_name(text):
    return "".join(character if character.isalnum() or character in "._" else "-" for character in text)


def _one_line(error):
    return " ".join(str(error).split())[:300]
