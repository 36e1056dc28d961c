"""Fuzz tests with Hypothesis: any file of a cache, a run or weights is read or rejected in one line.

There is never a traceback, a hang, or a result from a part of a file. The examples are the same in every run; the slow
variants of the tests use many more.
"""

import functools
import io
import json
import pickle
import shutil
import struct
import zipfile

import numpy as np
import pytest
import runs
from fuzzing import DAMAGE, EXTREMES, LOSS, NAMES, damage_file, damaged, fuzzed, over, rejected_or, within
from hypothesis import strategies as st

from gan import data
from gan.build import make_game, make_schedules
from gan.data import cache
from gan.errors import UserError, machine_failures
from gan.inference import command, model, sampling
from gan.io import checkpoint, workdir, writer
from gan.metrics import classifier
from gan.metrics.torch_file import read_tensors
from gan.parallel import sharding
from gan.train import setup


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A prepared dataset in a cache of its own."""
    root = tmp_path_factory.mktemp("prepared")
    data.load(name="digits", split="train[:64]", cache_dir=root).arrays()
    return root


@fuzzed(20, 160)
def test_prepared_data_and_decoded_arrays(examples, digits, tmp_path):
    """A damaged copy gives the original data or an error."""
    images, labels = map(np.array, data.load(name="digits", split="train[:64]", cache_dir=digits).arrays())
    paths = sorted(path.relative_to(digits) for path in digits.rglob("*") if path.is_file())

    @over(examples, place=st.floats(0, 0.999), damage=DAMAGE | LOSS)
    def check(place, damage):
        copy = tmp_path / "copy"
        shutil.copytree(digits, copy)
        try:
            damage_file(copy / paths[int(place * len(paths))], damage)
            loaded = rejected_or(data.load, name="digits", split="train[:64]", cache_dir=copy)
            arrays = loaded and rejected_or(loaded.arrays)
            if arrays is not None:
                np.testing.assert_array_equal(arrays[0], images)
                np.testing.assert_array_equal(arrays[1], labels)
        finally:
            shutil.rmtree(copy)


@fuzzed(300, 1400)
def test_cached_arrays(examples, tmp_path):
    folder = tmp_path / "arrays"
    arrays = {"images": np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3), "labels": np.arange(2, dtype=np.int32)}
    cache.write_arrays(folder, arrays)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    @over(examples, name=st.sampled_from(sorted(before)), damages=st.lists(DAMAGE, min_size=1, max_size=2))
    def check(name, damages):
        for path, content in before.items():
            (folder / path).write_bytes(content)
        for damage in damages:
            damage_file(folder / name, damage)
        found = cache.read_arrays(folder, ("images", "labels"))
        if found is not None:
            for key, array in arrays.items():
                assert found[key].dtype == array.dtype and not found[key].flags.writeable
                np.testing.assert_array_equal(found[key], array)


@fuzzed(300, 1400)
def test_a_saved_classifier(examples, tmp_path):
    rng = np.random.default_rng(0)
    variables = classifier._initial_variables(rng, (8, 8, 1), 3)
    path = tmp_path / "classifier.npz"
    classifier._write(path, classifier.Classifier(variables, 0.5))
    before, shapes = path.read_bytes(), {name: leaf.shape for name, leaf in classifier._flat(variables).items()}
    identity = classifier._read(path, shapes).identity

    @over(examples, damages=st.lists(DAMAGE, min_size=1, max_size=2))
    def check(damages):
        path.write_bytes(functools.reduce(damaged, damages, before))
        saved = classifier._read(path, shapes)
        assert saved is None or (saved.identity == identity and saved.test_accuracy == 0.5)


def fragment(value):
    return pickle.dumps(value, protocol=2)[2:-1]


def weights(legacy):
    """A small PyTorch file, as torch.save writes it: two tensors that share a storage."""
    numbers = np.arange(12, dtype="<f4")

    def tensor(offset, shape, strides):
        pid = b"(" + fragment("storage") + b"ctorch\nFloatStorage\n" + fragment("0") + fragment("cpu") + fragment(12)
        pid += (fragment(None) if legacy else b"") + b"tQ"
        arguments = fragment(offset) + fragment(shape) + fragment(strides) + fragment(False)
        return b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + arguments + b"ccollections\nOrderedDict\n)RtR"

    items = fragment("first") + tensor(0, (3, 4), (4, 1)) + fragment("second") + tensor(2, (2, 2), (1, 4))
    described = b"\x80\x02ccollections\nOrderedDict\n)R(" + items + b"u}" + fragment("_metadata") + b"}sb."
    if legacy:
        parts = [pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
        return b"".join(parts) + described + pickle.dumps(["0"], protocol=2) + struct.pack("<q", 12) + numbers.tobytes()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("any/data.pkl", described)
        archive.writestr("any/data/0", numbers.tobytes())
    return content.getvalue()


@fuzzed(150, 1500)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "stream"])
def test_weights(examples, legacy, tmp_path):
    """A damaged file may contain other values (its SHA-256 is verified elsewhere), but nothing else than tensors."""
    before, path = weights(legacy), tmp_path / "weights.pth"
    path.write_bytes(before)
    assert {name: array.shape for name, array in read_tensors(path).items()} == {"first": (3, 4), "second": (2, 2)}

    @over(examples, damages=st.lists(DAMAGE, min_size=1, max_size=3))
    def check(damages):
        content = functools.reduce(damaged, damages, before)
        path.write_bytes(content)
        found = rejected_or(read_tensors, path)
        if found is not None:
            assert all(type(name) is str and type(array) is np.ndarray for name, array in found.items())
            assert sum(array.nbytes for array in found.values()) <= 2 * len(content)


def test_a_small_file_cannot_exhaust_memory_or_time(tmp_path):
    """Each level of a tuple contains the next one twice: 2^60 entries if it is traversed."""
    nested = b")" + b"".join(b"q%ch%ch%c\x86" % (n, n, n) for n in range(60))
    path = tmp_path / "weights.pth"
    for described in (
        b"\x80\x02}" + nested + b"K\1s.",  # as a key
        b"\x80\x02" + nested + b"Q.",  # as the name of a storage
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + nested + b"K\0" + nested + b"))tR.",  # as its sizes
        b"\x80\x02X\xff\xff\xff\xffabc.",  # a string that declares 4 GiB
        b"\x80\x02Nr\xff\xff\xff\xff.",  # the last of 2^32 memo entries
    ):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("any/data.pkl", described)
        with within(5), pytest.raises(UserError, match="plain tensors"):
            read_tensors(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("any/data.pkl", bytes(10**7))
    with pytest.raises(UserError, match="compressed, or longer than the file"):
        read_tensors(path)
    # A thousand tensors of one storage.
    content = weights(legacy=True)
    pair = content[content.index(fragment("first")) : content.index(b"u}")]
    items = b"".join(pair.replace(b"first", b"%05d" % n).replace(b"second", b"%06d" % n) for n in range(1000))
    path.write_bytes(content.replace(pair, items))
    assert len(read_tensors(path)) == 2000  # they are not larger than their descriptions


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """(folder of a run after 8 of 12 steps with checkpoints at 4 and 8, digests of its states, dataset); untrained."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    config, mesh = runs.config(), sharding.device_mesh()
    dataset = data.open_dataset(config.data)
    digests = {}
    with workdir.lock(folder):
        opened = setup.prepare_run(config, folder, dataset, mesh)
        for step in (4, 8):
            state = sharding.replicate(opened.state.replace(step=np.int32(step)), mesh)
            checkpoint.save(opened.manager, step, state)
            digests[step] = checkpoint.digests(state)
        opened.manager.wait_until_finished()
        opened.manager.close()
    metrics = {"images": 8, "discriminator_loss": 1.0, "generator_loss": 1.0}
    for name in ("metrics", "evaluations"):
        lines = [json.dumps({"step": step} | metrics) for step in (4, 8)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder, digests, dataset


@fuzzed(4, 28)
def test_a_run_on_the_disk(examples, run_folder, tmp_path):
    """A damaged run resumes from an intact checkpoint or is rejected; it never restarts, nor uses part of one."""
    folder, digests, dataset = run_folder
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    newest = [path for path in paths if path.parts[:2] == ("checkpoints", "8")]
    records = [path for path in paths if len(path.parts) == 1]
    config, mesh = runs.config(), sharding.device_mesh()

    @over(
        examples,
        where=st.sampled_from([paths, newest, records]),
        place=st.floats(0, 0.999),
        damage=DAMAGE | LOSS,
        again=st.none() | DAMAGE,
    )
    def check(where, place, damage, again):
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        path = copy / where[int(place * len(where))]
        damage_file(path, damage)
        if again is not None and path.is_file():
            damage_file(path, again)

        def resumed():
            with machine_failures(str(copy)), workdir.lock(copy):
                opened = setup.prepare_run(config, copy, dataset, mesh)
                opened.manager.close()
                step = int(opened.state.step)
                assert step in digests or path.name == "config.json" and not path.exists(), step
                assert checkpoint.digests(opened.state) == digests[step]
                written = writer.RunWriter(copy, step=step, total=12)
                written.close()
                assert all(line["step"] <= step for line in written.evaluations())

        try:
            rejected_or(resumed)
            found = rejected_or(model.load, copy)
            assert found is None or found.step in digests
        finally:
            shutil.rmtree(copy)


@fuzzed(80, 500)
def test_the_record_of_a_run(examples, run_folder, tmp_path):
    """`config.json` may have been edited: any value at any position."""
    record = json.loads((run_folder[0] / "config.json").read_text())

    def places(tree, path=()):
        yield path
        entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
        for name, entry in entries:
            yield from places(entry, (*path, name))

    known = sorted(places(record), key=repr)
    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(NAMES),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    )

    @over(examples, place=st.floats(0, 0.999), value=json_values, drop=st.booleans())
    def check(place, value, drop):
        changed = json.loads(json.dumps(record))
        path = known[int(place * len(known))]
        tree = changed
        for name in path[:-1]:
            tree = tree[name]
        if not path:
            changed = value
        elif drop:
            del tree[path[-1]]
        else:
            tree[path[-1]] = value
        (tmp_path / "config.json").write_text(json.dumps(changed))

        def resumed():
            old = workdir.read(tmp_path)
            config, dataset = model.recorded(tmp_path)
            workdir.continue_with(tmp_path, old, record["config"], record["dataset"])
            make_game(config, image_shape=tuple(dataset["image_shape"]), num_classes=len(dataset["class_names"]))
            make_schedules(config)

        rejected_or(resumed)


@fuzzed(30, 500)
def test_flags_of_sampling(examples, run_folder, monkeypatch, tmp_path):
    """Flags of --mode=sample; no samples are drawn."""

    def draw(*_, count, **__):
        return [{"image": np.zeros((count, 8, 8, 1), np.uint8), "label": np.zeros(count, np.int32)}]

    monkeypatch.setattr(sampling, "draw", draw)
    monkeypatch.chdir(tmp_path)

    @over(
        examples,
        count=st.integers(-1, 9) | st.integers(max_value=0) | st.integers(min_value=sampling.MAX_SAMPLES + 1),
        name=st.text() | st.integers(-1, 12).map(str) | st.sampled_from(EXTREMES),
        truncation=st.none() | st.floats(),
        out=st.sampled_from(["x.npz", "a/b.npz", "/proc/x.npz", "x.png", ".npz", "y" * 300 + ".npz", "~/x", ""]),
    )
    def check(count, name, truncation, out):
        rejected_or(command.sample, run_folder[0], count=count, seed=0, truncation=truncation, out=tmp_path / out)
        found = rejected_or(model.class_index, name, ["cat", "dog", "7"])
        assert found in (None, 0, 1, 2)
