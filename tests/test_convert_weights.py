"""Foreign weight files: what is read of them, what is refused, that nothing in them runs, and what they become."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import sys
import tracemalloc
import warnings
import zipfile
from contextlib import contextmanager
from itertools import pairwise
from string import ascii_lowercase

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

from clipsheet.errors import CallError
from clipsheet.scorer import Home, file_sha256, missing
from clipsheet.weights.load import load_state
from scoring.clip.files import architecture
from scoring.clip.images import ClipImages
from scoring.clip.texts import ClipTexts
from scoring.matching.scorer import Matching
from scoring.nsfw.head import read_head
from scoring.nsfw.scorer import Nsfw
from tests import tiny
from tests.test_weights import (
    HEAD,
    PACKED,
    SAFETY,
    Hostile,
    each_kind_of_other_bytes_is_refused,
    equal,
    some_tensors,
)
from tools.convert.formats import convert, is_converted, read
from tools.convert.keras import safety_head
from tools.convert.layout import DTYPES, write_aligned
from tools.convert.openai_clip import SETTINGS, from_openai, openai_config, openai_tokenizer
from tools.convert.torchscript import openai_clip_state

WIDTHS = (768, 64, 512, 256, 1)


@pytest.fixture
def tensors():
    return some_tensors()


@pytest.mark.parametrize("name", ["x.pt", "x.pth", "x.zip", "x.h5"])
def test_other_bytes_folders_and_absent_files_are_refused(name, tmp_path):
    each_kind_of_other_bytes_is_refused(convert, tmp_path / name)
    each_kind_of_other_bytes_is_refused(lambda path: read(path).state, tmp_path / f"again_{name}")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, f"again_{name}"])


@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.bin", "x.safetensors"])
def test_plain_tensors_come_back(name, tensors, tmp_path):
    save = safetensors.torch.save_file if name.endswith(".safetensors") else torch.save
    save(tensors, tmp_path / name)
    equal(openai_clip_state(tmp_path / name), tensors)


@pytest.mark.parametrize("old", [False, True])
def test_pickled_code_is_refused_and_does_not_run(old, tmp_path):
    held = {"w": torch.zeros(2), "x": Hostile(tmp_path / "ran")}
    torch.save(held, tmp_path / "x.pth", _use_new_zipfile_serialization=not old)
    for reader in (openai_clip_state, read, convert):
        with pytest.raises(CallError, match=r"x\.pth: its pickle asks for posix\.mkdir, "):
            reader(tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()


# --- OpenAI's archives -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def openai(tmp_path_factory):
    """A tiny CLIP of OpenAI's own code as they publish it, and its state dict."""
    with warnings.catch_warnings():  # of the package, of tracing its shapes, of tracing at all
        warnings.simplefilter("ignore")
        from clip.model import CLIP, convert_weights

        torch.manual_seed(1)
        model = CLIP(
            embed_dim=8, image_resolution=32, vision_layers=2, vision_width=64, vision_patch_size=16,
            context_length=6, vocab_size=20, transformer_width=64, transformer_heads=1, transformer_layers=2,
        ).eval()  # fmt: skip
        model.register_buffer("input_resolution", torch.tensor(32))
        example = (torch.zeros(1, 3, 32, 32), torch.zeros(1, 6, dtype=torch.long))
        archive = torch.jit.trace(model, example, check_trace=False)
        convert_weights(archive)
        path = tmp_path_factory.mktemp("openai") / "ViT-L-14.pt"
        torch.jit.save(archive, path)
        state = torch.jit.load(path, map_location="cpu").state_dict()
    return path, state


def test_an_archive_of_openai_gives_exactly_its_tensors(openai):
    path, state = openai
    read = openai_clip_state(path)
    assert {t.dtype for t in read.values()} >= {torch.float16, torch.float32, torch.int64}
    assert not [name for name in read if name.endswith("attn_mask")]
    equal(read, dict(state))


def test_a_scripted_module_gives_exactly_its_tensors(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
        torch.jit.save(torch.jit.script(net), tmp_path / "net.pt")
    equal(openai_clip_state(tmp_path / "net.pt"), dict(net.state_dict()))


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_cut_off_archive_is_refused(openai, share, tmp_path):
    path = tmp_path / "ViT-B-32.pt"
    shutil.copy(openai[0], path)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(CallError, match=r"ViT-B-32\.pt: .*40d365715913.*download_models ViT-B-32\.pt$"):
        openai_clip_state(path)


def rewritten(source, target, change):
    """A copy of a zip whose members went through change(name, data); None leaves one out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if (data := change(name, old.read(name))) is not None:
                new.writestr(name, data)
    return target


def test_code_in_an_archives_pickle_is_refused_and_does_not_run(openai, tmp_path):
    marker = tmp_path / "ran"
    for protocol in (2, 4):
        evil = pickle.dumps({"w": Hostile(marker)}, protocol)
        path = rewritten(
            openai[0], tmp_path / "x.pt", lambda n, d, e=evil: e if n.endswith("/data.pkl") else d
        )
        with pytest.raises(
            CallError, match=r"x\.pt: its pickle asks for posix\.mkdir, weights are tensors only"
        ):
            openai_clip_state(path)
    assert not marker.exists()


@pytest.mark.parametrize("asked", ["os.system", "torch.load", "torch.serialization.load", "builtins.eval"])
def test_no_function_can_be_asked_for(openai, asked, tmp_path):
    module, _, name = asked.rpartition(".")
    evil = f"\x80\x02c{module}\n{name}\n.".encode("latin-1")
    path = rewritten(openai[0], tmp_path / "x.pt", lambda n, d: evil if n.endswith("/data.pkl") else d)
    with pytest.raises(CallError, match=f"asks for {asked}"):
        openai_clip_state(path)


@pytest.mark.parametrize("what", ["short", "long", "absent", "no code", "big-endian", "garbage"])
def test_a_broken_archive_is_refused(openai, what, tmp_path):
    def change(name, data):
        if name.endswith("/data/0"):
            return {"short": data[:-2], "long": data + b"xx", "absent": None}.get(what, data)
        if name.endswith("/byteorder") and what == "big-endian":
            return b"big"
        if name.endswith("/data.pkl") and what == "garbage":
            return b"\x80\x02" + bytes(range(256))
        return None if what == "no code" and name.endswith(".py") else data

    with pytest.raises(CallError, match=r"x\.pt: "):
        openai_clip_state(rewritten(openai[0], tmp_path / "x.pt", change))


def put(number):
    """LONG_BINPUT."""
    return b"r" + number.to_bytes(4, "little")


@pytest.mark.parametrize(
    "evil",
    [
        b"\x80\x04\x8e" + (1 << 45).to_bytes(8, "little") + b".",  # BINBYTES8
        b"\x80\x04\x8e" + (1 << 34).to_bytes(8, "little") + b".",
        b"\x80\x02}" + put((1 << 31) - 1) + b".",
        b"\x80\x02}" + put(1 << 28) + b".",
    ],
)
def test_a_pickle_that_asks_for_memory_is_refused(openai, evil, tool, tmp_path):
    path = rewritten(openai[0], tmp_path / "x.pt", lambda n, d: evil if n.endswith("/data.pkl") else d)
    said = tool("tools.pth_to_safetensors", path, tmp_path / "x.safetensors", code=2).stderr
    assert said.startswith(f"error: {path}: ") and said.count("\n") == 1


@pytest.mark.parametrize("listed", ["[" + "(" * 9999, '["w", os]', "(", '["w"'])
def test_code_that_lists_no_names_is_refused(listed, tool, tmp_path):
    path = archive(tmp_path / "x.pt", tensor_of(4, 1, 0), listed=listed)
    said = tool("tools.pth_to_safetensors", path, tmp_path / "x.safetensors", code=2).stderr
    assert "class Net lists its tensors as " in said and said.count("\n") == 1


@pytest.mark.parametrize("error", [MemoryError(), SyntaxError("too deep")])
@pytest.mark.parametrize("read", [load_state, openai_clip_state])
def test_whatever_a_reader_raises_is_a_refusal(read, error, openai, tensors, monkeypatch, tmp_path):
    def fails(*_, **__):
        raise error

    torch.save(tensors, tmp_path / "x.pth")
    monkeypatch.setattr("torch.load", fails)
    monkeypatch.setattr("tools.convert.torchscript._TensorsOnly", fails)
    with pytest.raises(CallError, match="broken or cut off"):
        read(tmp_path / "x.pth" if read is load_state else openai[0])


@contextmanager
def little_memory():
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < PACKED // 2


@pytest.mark.parametrize("member", ["data/0", "data.pkl", "byteorder", "code/__torch__.py"])
@pytest.mark.parametrize("how", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_small_archive_cannot_unpack_to_much(member, how, tmp_path):
    numbers = PACKED // 4 if member == "data/0" else 4
    path = archive(tmp_path / "x.pt", tensor_of(numbers, 1, 0), left_out=member)
    with zipfile.ZipFile(path, "a", how) as whole, whole.open(f"x/{member}", "w") as file:
        for _ in range(PACKED >> 20):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    with little_memory(), pytest.raises(CallError, match=r"x\.pt: .*(packed|unpacks)"):
        openai_clip_state(path)


def test_a_member_that_lies_about_its_size_is_not_unpacked(tmp_path):
    path = archive(tmp_path / "x.pt", tensor_of(4, 1, 0), left_out="data.pkl")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as whole:
        whole.writestr("x/data.pkl", bytes(PACKED))
        whole.getinfo("x/data.pkl").file_size = 100
    with little_memory(), pytest.raises(CallError, match=r"x\.pt: "):
        openai_clip_state(path)


def test_a_storage_is_read_once(tmp_path):
    numbers = 1 << 20
    many = b"".join(b"X\x01\0\0\0" + name.encode() + tensor_of(numbers, 1, 0) for name in ascii_lowercase)
    whole = b"\x80\x02c__torch__\nNet\n)\x81}(" + many + b"ub."
    path = archive(tmp_path / "x.pt", b"", bytes(4 * numbers), '["a", "z", ]', whole=whole)
    tracemalloc.start()
    state = openai_clip_state(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert state.keys() == {"a", "z"} and state["a"].data_ptr() == state["z"].data_ptr()
    assert peak < 4 * (4 * numbers)


def test_modules_that_hold_each_other_end(tmp_path):
    twice = b"c__torch__\nNet\n)\x81}b"
    for _ in range(40):
        twice = b"c__torch__\nNet\n)\x81}(X\x01\0\0\0a" + twice + b"q\x01X\x01\0\0\0bh\x01ub"
    path = archive(tmp_path / "x.pt", b"", whole=b"\x80\x02" + twice + b".")
    with pytest.raises(CallError, match=r"more than 100,000 modules"):
        openai_clip_state(path)


def number_of(value):
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def tensor_of(size, stride, offset, numbers=None):
    """The pickle of a tensor [size] in storage 0."""
    return b"".join(
        [
            b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n",
            b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu", number_of(numbers or size), b"tQ",
            number_of(offset), number_of(size), b"\x85", number_of(stride), b"\x85", b"\x89)tR",
        ]
    )  # fmt: skip


def archive(path, tensor, storage=bytes(16), listed='["w", ]', left_out="", whole=b""):
    """An archive of a module with a tensor `w`."""
    members = {
        "constants.pkl": b"\x80\x02).",
        "byteorder": b"little",
        "code/__torch__.py": f"class Net(Module):\n  __parameters__ = {listed}\n  w : Tensor\n".encode(),
        "data/0": storage,
        "data.pkl": whole or b"\x80\x02c__torch__\nNet\n)\x81}X\x01\x00\x00\x00w" + tensor + b"sb.",
    }
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            if name != left_out:
                file.writestr(f"x/{name}", data)
    return path


@pytest.mark.parametrize(
    ("size", "stride", "offset"), [(4, 1, 0), (5, 1, 0), (3, 1, 2), (3, 2, 0), (10**12, 0, 0), (2, -1, 1)]
)
def test_a_tensor_cannot_reach_beyond_its_storage(size, stride, offset, tmp_path):
    path = archive(tmp_path / "x.pt", tensor_of(size, stride, offset, 4))
    if size == 4:
        equal(openai_clip_state(path), {"w": torch.zeros(4)})
        return
    with pytest.raises(CallError, match=r"x\.pt: (a tensor \[|broken or cut off \()"):
        openai_clip_state(path)


# --- LAION's safety head -----------------------------------------------------------------------


def head(widths=WIDTHS):
    """Keras' arrays of such a head: mean, variance, then kernels [in, out] and biases."""
    rng = np.random.default_rng(3)
    arrays = [rng.normal(size=widths[0]), rng.uniform(1, 2, widths[0])]
    for before, after in pairwise(widths):
        arrays += [rng.normal(size=(before, after)), rng.normal(size=after)]
    return [a.astype(np.float32) for a in arrays]


def expected(arrays):
    state = {"mean": arrays[0], "variance": arrays[1]}
    for number in range(len(arrays) // 2 - 1):
        state[f"{2 * number}.weight"] = arrays[2 + 2 * number].T
        state[f"{2 * number}.bias"] = arrays[3 + 2 * number]
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in state.items()}


def keras2(path, arrays, names=("normalization", "dense", "dense_1", "dense_2", "dense_3")):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [b"input_1", *(name.encode() for name in names)]
        group.create_group("input_1").attrs["weight_names"] = []
        for number, name in enumerate(names):
            weights_of = (
                [f"{name}/mean:0", f"{name}/variance:0"]
                if not number
                else [f"{name}/kernel:0", f"{name}/bias:0"]
            )
            layer = group.create_group(name)
            layer.attrs["weight_names"] = [w.encode() for w in weights_of]
            for weight, array in zip(weights_of, arrays[2 * number :], strict=False):
                layer[weight] = array


def keras3(path, arrays, names=("normalization", "dense", "dense_1", "dense_2", "dense_3")):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.create_group("layers/re_lu")
        for number, name in enumerate(names):
            for at, array in enumerate(arrays[2 * number : 2 * number + 2]):
                file[f"layers/{name}/vars/{at}"] = array
        file["layers/normalization/vars/2"] = np.int64(5)


@pytest.mark.parametrize("write", [keras2, keras3])
def test_a_head_in_hdf5(write, tmp_path):
    arrays = head()
    write(tmp_path / "head.h5", arrays)
    equal(safety_head(tmp_path / "head.h5"), expected(arrays))


def test_the_smaller_head(tmp_path):
    arrays = head((512, 32, 32, 1))
    keras2(tmp_path / "head.h5", arrays, ("normalization", "dense", "dense_1", "dense_2"))
    equal(safety_head(tmp_path / "head.h5"), expected(arrays))


@pytest.mark.parametrize(
    ("widths", "said"),
    [
        ((768, 64, 512, 255, 1), r"4\.bias is \[255\], needed is \[256\]"),
        ((767, 64, 512, 256, 1), r"no `mean` of 768 or 512 numbers"),
    ],
)
def test_another_head_is_refused(widths, said, tmp_path):
    keras2(tmp_path / "head.h5", head(widths))
    with pytest.raises(CallError, match=said):
        safety_head(tmp_path / "head.h5")
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(CallError, match="not LAION's safety head"):
        read_head(tmp_path / "x.safetensors")


def test_without_h5py_the_message_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(CallError, match=r"x\.h5: HDF5 is read by h5py; pip install h5py"):
        safety_head(tmp_path / "x.h5")


def test_the_published_head(media):
    state = safety_head(media / "weights" / SAFETY)
    shapes = {name: tuple(t.shape) for name, t in state.items()}
    assert shapes["mean"] == shapes["variance"] == (768,) and (state["variance"] > 0).all()
    assert [shapes[f"{n}.weight"] for n in (0, 2, 4, 6)] == [(64, 768), (512, 64), (256, 512), (1, 256)]
    bound = (6 / (768 + 64)) ** 0.5  # Keras' initial weights lie within; training moves them little
    assert all(t.isfinite().all() for t in state.values()) and state["0.weight"].abs().median() < bound


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_cut_off_published_head_is_refused(media, share, tmp_path):
    path = tmp_path / SAFETY
    path.write_bytes((media / "weights" / SAFETY).read_bytes())
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(CallError, match=r"cut off.*905520bb.*download_models nsfw$"):
        safety_head(path)


@pytest.mark.parametrize("member", ["variables.index", "variables.data-00000-of-00001"])
def test_a_broken_bundle_is_refused(media, member, tmp_path):
    for change in (lambda d: d[: len(d) // 4], lambda d: b""):
        path = rewritten(
            media / "weights" / SAFETY,
            tmp_path / "x.zip",
            lambda n, d, c=change: c(d) if n.endswith(member) else d,
        )
        with pytest.raises(CallError, match=r"x\.zip: "):
            safety_head(path)


@pytest.mark.parametrize("member", ["variables.index", "variables.data-00000-of-00001"])
@pytest.mark.parametrize("how", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_small_zip_cannot_unpack_to_much(member, how, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", how) as file:
        for name in ("variables.index", "variables.data-00000-of-00001"):
            with file.open(f"x/variables/{name}", "w") as packed:
                for _ in range(PACKED >> 20 if name == member else 0):
                    packed.write(bytes(1 << 20))
    said = "unpacks to 104,857,600 bytes" if how == zipfile.ZIP_DEFLATED else "is packed by method 12"
    with little_memory(), pytest.raises(CallError, match=rf"x\.zip: .*{said}"):
        safety_head(tmp_path / "x.zip")


def test_a_number_without_an_end_is_refused(media, tmp_path):
    def change(name, data):
        return b"\xff" * 1_000_000 + data[-8:] if name.endswith("variables.index") else data

    path = rewritten(media / "weights" / SAFETY, tmp_path / "x.zip", change)
    with pytest.raises(CallError, match="a number without an end"):
        safety_head(path)


def test_a_huge_array_in_hdf5_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    keras3(tmp_path / "x.h5", head())
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        del file["layers/dense/vars/0"]
        file.create_dataset("layers/dense/vars/0", (1 << 12, 1 << 14), "f4")  # fills, and lies nowhere
    with little_memory(), pytest.raises(CallError, match="has 268,435,456 bytes"):
        safety_head(tmp_path / "x.h5")


# --- the converter -----------------------------------------------------------------------------


def test_a_pickle_becomes_safetensors(tool, tensors, tmp_path):
    tied = {**tensors, "tied": tensors["a.weight"], "turned": tensors["a.weight"].T}
    torch.save(tied, tmp_path / "x.pth")
    said = tool("tools.pth_to_safetensors", tmp_path / "x.pth", tmp_path / "out" / "x.safetensors").stdout
    equal(load_state(tmp_path / "out" / "x.safetensors"), tied)
    with safetensors.safe_open(tmp_path / "out" / "x.safetensors", "pt") as file:
        assert file.metadata() == {
            "format": "pt", "original": "x.pth", "original_sha256": file_sha256(tmp_path / "x.pth")
        }  # fmt: skip
    assert said.startswith(f"{tmp_path}/out/x.safetensors: 4 tensors, ")


def test_openais_archive_and_the_safety_head_become_safetensors(tool, openai, tmp_path):
    shutil.copy(openai[0], tmp_path / "own.pt")
    tool("tools.pth_to_safetensors", tmp_path / "own.pt", tmp_path / "clip.safetensors")
    equal(load_state(tmp_path / "clip.safetensors"), dict(openai[1]))
    keras2(tmp_path / "head.h5", head())
    tool("tools.pth_to_safetensors", tmp_path / "head.h5", tmp_path / "head.safetensors")
    equal(read_head(tmp_path / "head.safetensors"), expected(head()))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_plain_pickle_is_refused_in_one_line(protocol, tool, tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(pickle.dumps(Hostile(tmp_path / "ran"), protocol))
    said = tool("tools.pth_to_safetensors", path, tmp_path / "x.safetensors", code=2).stderr
    assert said.startswith(f"error: {path}: ") and said.count("\n") == 1
    assert not (tmp_path / "ran").exists()


def test_a_hostile_pickle_leaves_nothing(tool, tmp_path):
    torch.save({"x": Hostile(tmp_path / "ran")}, tmp_path / "x.pth")
    said = tool("tools.pth_to_safetensors", tmp_path / "x.pth", tmp_path / "x.safetensors", code=2).stderr
    assert "asks for posix.mkdir" in said and said.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


def test_wrong_names_are_refused(tool, tensors, tmp_path):
    torch.save(tensors, tmp_path / "x.pth")
    said = tool("tools.pth_to_safetensors", tmp_path / "x.pth", tmp_path / "y.pth", code=2).stderr
    assert said == f"error: {tmp_path}/y.pth: not called .safetensors; give another name\n"
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors")
    same = tmp_path / "x.safetensors"
    assert "the input itself" in tool("tools.pth_to_safetensors", same, same, code=2).stderr


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_written_is_read_and_lies_aligned(dtype, tmp_path):
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    state = {"scale": torch.tensor(3).to(kind), "none": torch.zeros(0, 4).to(kind)}
    state |= {name: (torch.randn(64, 64) * 9).to(kind) for name in ("a", "b")}
    state["turned"] = state["a"].T
    with open(tmp_path / "x.safetensors", "wb") as file:
        write_aligned(state, {"format": "pt"}, file)
    equal(load_state(tmp_path / "x.safetensors"), state)
    data = (tmp_path / "x.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    assert all((start + header[name]["data_offsets"][0]) % 64 == 0 for name in ("a", "b", "turned"))


def test_tensors_that_safetensors_do_not_have_are_refused(tool, tmp_path):
    with pytest.raises(ValueError, match="w is sparse_coo float32"):
        write_aligned({"w": torch.eye(2).to_sparse()}, {}, io.BytesIO())
    torch.save({"w": torch.zeros(2, dtype=torch.complex64)}, tmp_path / "x.pth")
    said = tool("tools.convert", tmp_path / "x.pth", code=2).stderr
    assert said.startswith(f"error: {tmp_path}/x.pth: w is ") and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


# --- what conversion makes for scorers ---------------------------------------------------------


def published(model, path):
    """An archive of OpenAI's as they publish it, most of its numbers in 16 bits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from clip.model import convert_weights

        example = (torch.zeros(1, 3, tiny.SIZE, tiny.SIZE), torch.zeros(1, 77, dtype=torch.int))
        archive = torch.jit.trace(model, example, check_trace=False)
        convert_weights(archive)
        torch.jit.save(archive, path)


@pytest.fixture(scope="module", params=["16 bits", "32 bits", "pickle"])
def own(request, tmp_path_factory):
    """A folder with a CLIP in OpenAI's format, `own.pt`, and its vocabulary."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copy(tiny.VOCABULARY, folder)
    model = tiny.reference()
    if request.param == "16 bits":
        published(model, folder / "own.pt")
    elif request.param == "32 bits":
        tiny.save_openai(model, folder / "own.pt")
    else:
        torch.save(model.state_dict(), folder / "own.pt")
    return folder


def half_of(kind, path, name):
    """The image or text half of a model made of OpenAI's tensors, without any file between."""
    state = openai_clip_state(path)
    config = openai_config(state, path)
    model = kind(kind.config_class(**config[f"{name}_config"], projection_dim=config["projection_dim"]))
    needed = model.state_dict()
    model.load_state_dict({to: tensor.float() for to, tensor in from_openai(state) if to in needed})
    return model.eval()


def test_a_converted_clip_gives_the_bits_of_the_tensors_of_its_original(own, tool):
    said = tool("tools.convert", own / "own.pt").stdout
    assert said.startswith(f"{own}/own/model.safetensors: ") and is_converted(own / "own.pt")
    feature, rng = ClipImages("own.pt"), np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (tiny.SIZE, tiny.SIZE, 3), np.uint8) for _ in range(3)]
    images = feature.load(Home(own))
    found = feature.encode(images, pictures)
    images._model = half_of(transformers.CLIPVisionModelWithProjection, own / "own.pt", "vision")
    assert found.tobytes() == feature.encode(images, pictures).tobytes()
    captions = ["a dog runs", "caf\u00e9 \u732b; it's 12 o'clock!", "word " * 99]
    texts = ClipTexts("own.pt", "float32", Home(own))
    vectors, truncated = texts(captions)
    texts._model = half_of(transformers.CLIPTextModelWithProjection, own / "own.pt", "text")
    tokenizer = openai_tokenizer(tiny.VOCABULARY)
    assert [texts._tokenizer(text) for text in captions] == [
        tokenizer(text)["input_ids"] for text in captions
    ]
    assert vectors.tobytes() == texts(captions)[0].tobytes() and truncated == [False, False, True]


def test_a_converted_clip_is_a_whole_hugging_face_folder(own):
    convert(own / "own.pt", own / "elsewhere")
    model, report = transformers.CLIPModel.from_pretrained(own / "elsewhere", output_loading_info=True)
    assert not any(report.values())
    assert {path.name for path in (own / "elsewhere").iterdir()} == {*SETTINGS, "model.safetensors"}
    assert model.config.projection_dim == architecture("elsewhere", own).dimensions == tiny.JOINT


def test_the_published_safety_head_keeps_its_numbers(media, tool, tmp_path):
    shutil.copy(media / "weights" / SAFETY, tmp_path)
    tool("tools.convert", tmp_path / SAFETY)
    target = tmp_path / SAFETY.replace(".zip", ".safetensors")
    equal(read_head(target), safety_head(tmp_path / SAFETY))
    scorer = Nsfw(clip="clip-vit-large-patch14")
    assert list(scorer.weights(tmp_path).values()) == [target]
    assert [line for line in missing(scorer, tmp_path) if "nsfw" in line.partition(":")[0]] == []


def test_an_original_can_be_named_before_and_after_its_conversion(own, tmp_path):
    shutil.copytree(own, tmp_path / "models", ignore=lambda folder, names: [n for n in names if "." not in n])
    models, scorer = tmp_path / "models", Matching(clip="own.pt")
    assert missing(scorer, models)[0] == (
        f"no {models}/own/config.json: python -m tools.convert {models}/own.pt; or --clip another"
    )
    convert(models / "own.pt")
    (models / "own.pt").unlink()
    assert missing(scorer, models) == []


def test_openais_file_stands_in_for_the_hugging_face_folder_of_its_model(tmp_path):
    (tmp_path / "ViT-L-14.pt").touch()
    [said] = ClipImages().missing(tmp_path)
    assert said.startswith(
        f"no {tmp_path}/ViT-L-14/config.json: python -m tools.convert {tmp_path}/ViT-L-14.pt;"
    )


@pytest.mark.parametrize("name", ["ViT-B-32.pt", SAFETY, HEAD])
def test_what_is_not_the_published_file_of_its_name_is_not_converted(name, tensors, tool, tmp_path):
    torch.save(tensors, tmp_path / name)
    said = tool("tools.convert", tmp_path / name, code=2).stderr
    assert f"{name} is not the published file (sha256 " in said and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_clip_needs_the_published_vocabulary(own, tool, tmp_path):
    shutil.copy(own / "own.pt", tmp_path)
    said = tool("tools.convert", tmp_path / "own.pt", code=2).stderr
    assert f"no {tmp_path}/{tiny.VOCABULARY.name}, 1,356,917 bytes, " in said
    assert said.endswith(f"; then python -m tools.convert {tmp_path}/own.pt\n")
    (tmp_path / tiny.VOCABULARY.name).write_bytes(b"no vocabulary")
    assert "is not the published file" in tool("tools.convert", tmp_path / "own.pt", code=2).stderr
    with pytest.raises(CallError, match="not a vocabulary"):
        openai_tokenizer(tmp_path / tiny.VOCABULARY.name)
    assert not (tmp_path / "own").exists()


def test_a_clip_does_not_become_a_file(own, tool):
    said = tool("tools.convert", own / "own.pt", "--output", own / "x.safetensors", code=2).stderr
    assert "a CLIP model becomes a folder" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "state",
    [
        {"visual.conv1.weight": torch.zeros(3), "text_projection": torch.zeros(2, 2)},
        {"visual.conv1.weight": torch.zeros(4, 3, 2, 2), "text_projection": torch.zeros(2, 2)},
        {name: tensor for name, tensor in tiny.reference().state_dict().items() if "ln_final" not in name},
        {**tiny.reference().state_dict(), "visual.proj": torch.zeros(tiny.WIDTH, 3)},
    ],
)
def test_a_state_that_is_no_clip_is_refused(tool, tmp_path, state):
    shutil.copy(tiny.VOCABULARY, tmp_path)
    torch.save(state, tmp_path / "own.pt")
    said = tool("tools.convert", tmp_path / "own.pt", code=2).stderr
    assert said.startswith(f"error: {tmp_path}/own.pt: not ") and said.count("\n") == 1
    assert not (tmp_path / "own").exists()
