"""gan.metrics.torch_file: tensors are read in both formats, and nothing in a file is executed."""

import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from gan.errors import UserError
from gan.metrics.torch_file import read_tensors


def fragment(value):
    """The opcodes that push a plain value."""
    return pickle.dumps(value, protocol=2)[2:-1]


def tensor(key, count, offset, shape, strides, storage="FloatStorage", legacy=False):
    """The opcodes that push a tensor, as torch.save writes them, in a zip or in a stream."""
    view = fragment(None) if legacy else b""
    pid = b"(" + fragment("storage") + f"ctorch\n{storage}\n".encode() + fragment(key) + fragment("cpu")
    pid += fragment(count) + view + b"tQ"
    arguments = fragment(offset) + fragment(shape) + fragment(strides) + fragment(False)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + arguments + b"ccollections\nOrderedDict\n)RtR"


def ordered(**values):
    """The opcodes of a state_dict: an OrderedDict with its `_metadata` set as an attribute."""
    items = b"".join(fragment(name) + value for name, value in values.items())
    body = b"ccollections\nOrderedDict\n)R(" + items + b"u"
    return b"\x80\x02" + body + b"}" + fragment("_metadata") + b"}sb."


NUMBERS = np.arange(12, dtype="<f4")
TENSORS = {"plain": ("0", 12, 0, (3, 4), (4, 1)), "turned": ("0", 12, 2, (2, 2), (1, 4))}
# Read off NUMBERS: offset 2, a step down is 1, a step right is 4.
TURNED = [[2, 6], [3, 7]]


def write_zip(path, opcodes):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("any/data.pkl", opcodes)
        archive.writestr("any/data/0", NUMBERS.tobytes())
    return path


def write_stream(path, opcodes, count=12):
    parts = [pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    tail = pickle.dumps(["0"], protocol=2) + struct.pack("<q", count) + NUMBERS.tobytes()
    path.write_bytes(b"".join(parts) + opcodes + tail)
    return path


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "stream"])
def test_tensors_are_read_from_both_formats(tmp_path, legacy):
    opcodes = ordered(**{name: tensor(*what, legacy=legacy) for name, what in TENSORS.items()})
    read = read_tensors((write_stream if legacy else write_zip)(tmp_path / "weights.pth", opcodes))
    assert list(read) == ["plain", "turned"] and read["plain"].dtype == np.float32
    np.testing.assert_array_equal(read["plain"], NUMBERS.reshape(3, 4))
    np.testing.assert_array_equal(read["turned"], TURNED)


class Calls:
    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


HOSTILE = {
    "calls": lambda mark: pickle.dumps(Calls(os.system, f"touch {mark}"), protocol=2),
    "evaluates": lambda mark: pickle.dumps(Calls(eval, f"open({str(mark)!r}, 'w')"), protocol=2),
    "dots": lambda mark: b"\x80\x04\x8c\x0ctorch._utils\x8c\x1f_rebuild_tensor_v2.__globals__\x93.",
    "torch": lambda mark: b"\x80\x02ctorch\nload\n(" + fragment(str(mark)) + b"tR.",
    "old opcode": lambda mark: b"(" + fragment(f"touch {mark}") + b"ios\nsystem\n.",
    "beyond": lambda mark: ordered(a=tensor("0", 12, 1, (3, 4), (4, 1))),
    "before": lambda mark: ordered(a=tensor("0", 12, -1, (3, 4), (4, 1))),
    "backwards": lambda mark: ordered(a=tensor("0", 12, 11, (12,), (-1,))),
    "blown up": lambda mark: ordered(a=tensor("0", 12, 0, (5, 5), (0, 0))),
    "other count": lambda mark: ordered(a=tensor("0", 13, 0, (12,), (1,))),
    "other storage": lambda mark: ordered(a=tensor("1", 12, 0, (12,), (1,))),
    "no tensors": lambda mark: b"\x80\x02" + fragment({"a": 1}) + b".",
    "cut short": lambda mark: ordered(a=tensor("0", 12, 0, (12,), (1,)))[:-20],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_malicious_and_corrupted_files_are_rejected(tmp_path, name):
    mark = tmp_path / "mark"
    path = write_zip(tmp_path / "weights.pth", HOSTILE[name](mark))
    with pytest.raises(UserError, match="plain tensors") as caught:
        read_tensors(path)
    assert not mark.exists() and "\n" not in str(caught.value)


def test_the_same_opcodes_do_harm_where_they_are_obeyed(tmp_path):
    mark = tmp_path / "mark"
    pickle.loads(HOSTILE["calls"](mark))
    assert mark.exists()


def test_a_file_cannot_change_the_reader(tmp_path):
    # The BUILD opcode with a state of (None, attributes) sets attributes: here `array`, on the replacement of tensors.
    plain, state = tensor(*TENSORS["plain"]), fragment((None, {"array": "hacked"})) + b"b"
    with pytest.raises(UserError, match="plain tensors"):  # on the class
        read_tensors(write_zip(tmp_path / "weights.pth", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + state + b"."))
    read = read_tensors(write_zip(tmp_path / "weights.pth", ordered(a=plain + state)))  # on the tensor
    np.testing.assert_array_equal(read["a"], NUMBERS.reshape(3, 4))


@pytest.mark.parametrize("content", [b"", b"PK\3\4 and no more", b"plain text\n"])
def test_other_files_are_rejected(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(UserError, match="plain tensors"):
        read_tensors(tmp_path / "weights.pth")
    with pytest.raises(UserError, match="cannot read"):
        read_tensors(tmp_path / "none.pth")


def test_torch_save_is_read_in_both_formats(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch, to write the files, is not installed")
    layer = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    layer[0].weight.data = layer[0].weight.data.to(memory_format=torch.channels_last)  # strides out of order
    for new in (True, False):
        torch.save(layer.state_dict(), tmp_path / "a.pth", _use_new_zipfile_serialization=new)
        read = read_tensors(tmp_path / "a.pth")
        assert read.keys() == layer.state_dict().keys()
        for name, value in layer.state_dict().items():
            assert read[name].dtype == value.numpy().dtype  # num_batches_tracked is int64
            np.testing.assert_array_equal(read[name], value.numpy())
