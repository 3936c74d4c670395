"""What is read from weight files, what is refused, and that nothing in them ever runs."""

from __future__ import annotations

import collections
import copy
import importlib.util
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from string import ascii_lowercase

import numpy as np
import pytest
import safetensors.torch
import torch

from clipsheet.errors import CallError
from clipsheet.scorer import Scorer, missing
from clipsheet.weights.keras import nsfw_state
from clipsheet.weights.load import load_state
from clipsheet.weights.table import absent, known, refused, table
from clipsheet.weights.torchscript import openai_clip_state
from tests.conftest import REPO

HEAD = "sac+logos+ava1-l14-linearMSE.pth"
SAFETY = "clip_autokeras_binary_nsfw.zip"
WIDTHS = (768, 64, 512, 256, 1)


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]), name


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return {"a.weight": torch.randn(3, 4), "a.bias": torch.zeros(3, dtype=torch.float16)}


# --- the table ---------------------------------------------------------------------------------


def test_the_table_is_well_formed(published_table):
    files = [file for model in table().values() for file in model.files]
    assert {"clip-vit-large-patch14", "aesthetic", "nsfw", "lpips-vgg", "ViT-L-14.pt"} <= table().keys()
    for file in files:
        assert file.url.startswith("https://") and not file.path.startswith("/")
        assert file.sha256 is None or (len(file.sha256) == 64 and int(file.sha256, 16))
        assert file.bytes is None or file.bytes > 0
    assert len({(f.url, f.bytes, f.sha256) for f in files}) == len({f.path for f in files})
    for file in files:  # the sum is in the names that OpenAI and torchvision give
        if "openaipublic" in file.url:
            assert file.url.split("/")[-2] == file.sha256
        if "download.pytorch.org" in file.url:
            assert file.path.rsplit("-", 1)[1].split(".")[0] == (file.sha256 or "")[:8]


def test_published_files_are_what_the_table_says(media):
    for name in (HEAD, SAFETY):
        file = known(media / "weights" / name)
        assert file is not None and file.wrong(media / "weights" / name) == ""


def test_the_vocabulary_of_openais_package_is_what_the_table_says():
    file = known(Path("bpe_simple_vocab_16e6.txt.gz"))
    [package] = importlib.util.find_spec("clip").submodule_search_locations
    assert file is not None and file.wrong(Path(package, file.path)) == ""


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("x/ViT-L-14.pt", "ViT-L-14.pt"),
        ("clip-vit-base-patch16/pytorch_model.bin", "clip-vit-base-patch16"),
        ("other/pytorch_model.bin", None),
        ("model.safetensors", None),
    ],
)
def test_a_file_is_known_by_its_name_and_folder(path, model, tmp_path):
    file = known(tmp_path / path)
    assert (file and file.model) == model


def test_a_refusal_says_the_file_the_reason_and_the_way_out(tmp_path):
    said = str(refused(tmp_path / SAFETY, "broken\nbadly"))
    assert said.startswith(f"{tmp_path / SAFETY}: broken\\nbadly; its sha256 should be 905520bb")
    assert said.endswith("; python -m tools.download_models nsfw") and "\n" not in said
    assert str(refused(Path("own.pth"), "broken")) == "own.pth: broken; get it again from where it came"


@pytest.mark.parametrize(
    ("path", "name", "said"),
    [
        ("ViT-L-14.pt", "x", r", 932,768,134 bytes, sha256 b8cca3fd41\w{54}: .*download_models ViT-L-14\.pt"),
        ("clip-vit-base-patch16/config.json", "config", ", 4,104 bytes, .*_models clip-vit-base-patch16"),
        ("clip-vit-base-patch16/model.safetensors", "model", ": .*_models clip-vit-base-patch16"),
        ("sa_0_4_vit_b_16_linear.pth", "head", ": .*download_models aesthetic-b16"),  # no published sum
        ("own.pth", "aesthetic", ": .*download_models aesthetic"),
        ("own.pth", "head", ": put it there"),
        ("own/model.safetensors", "", ": put it there"),
    ],
)
def test_what_is_absent_is_said_with_what_it_is_and_where_it_comes_from(path, name, said, tmp_path):
    line = absent(tmp_path / path, name)
    assert re.fullmatch(rf"no {tmp_path / path}{said}", line)


@pytest.mark.parametrize("model", ["ViT-L-14.pt", "ViT-B-32.pt", "ViT-B-16.pt"])
def test_a_shared_file_is_of_the_model_beside_it(model, tmp_path):
    (tmp_path / model).touch()
    vocabulary = tmp_path / "bpe_simple_vocab_16e6.txt.gz"
    assert known(vocabulary).model == model
    assert absent(vocabulary).endswith(f"python -m tools.download_models {model}")


@dataclass(frozen=True)
class Needing(Scorer):
    """Needs a file."""

    name = "needing"
    file: str = HEAD

    def weights(self, models):
        return {"head": models / self.file}


def test_a_scorer_says_what_is_absent_and_what_is_not_the_published_file(media, tmp_path):
    path = tmp_path / HEAD
    assert missing(Needing(), tmp_path) == [absent(path)]
    assert "3,714,759 bytes, sha256 21dd590f" in absent(path)
    path.write_bytes(b"")
    assert missing(Needing(), tmp_path) == [
        f"{path} is not the published file (sha256 e3b0c44298fc..., published 21dd590f3ccd...): "
        "python -m tools.download_models aesthetic"
    ]
    shutil.copy(media / "weights" / HEAD, path)
    assert missing(Needing(), tmp_path) == []
    for unchecked in ("own.pth", "sa_0_4_vit_b_16_linear.pth"):
        (tmp_path / unchecked).write_bytes(b"x")
        assert missing(Needing(unchecked), tmp_path) == []


@pytest.mark.parametrize("text", ["", "5", "- name: x", "- {name: x, about: [", "missing"])
def test_a_broken_table_is_one_line(text, tmp_path, monkeypatch):
    path = tmp_path / "table.yaml"
    if text != "missing":
        path.write_text(text)
    monkeypatch.setenv("CLIPSHEET_WEIGHTS", str(path))
    with pytest.raises(CallError, match=r"table\.yaml: not a table of weights: .*see tools/weights\.yaml$"):
        table()


def test_a_table_cannot_write_elsewhere(tmp_path, monkeypatch):
    entry = {"name": "x", "about": "", "columns": [], "licence": "", "files": []}
    entry["files"] = [{"path": "../x", "url": "http://x/x", "bytes": 1, "sha256": None}]
    (tmp_path / "table.yaml").write_text(json.dumps([entry]))
    monkeypatch.setenv("CLIPSHEET_WEIGHTS", str(tmp_path / "table.yaml"))
    with pytest.raises(CallError, match=r"path '\.\./x' leaves the folder"):
        table()


# --- tensors and pickles of tensors ------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.pth", "x.pt", "x.bin", "x.ckpt", "x.safetensors"])
def test_tensors_come_back(name, tensors, tmp_path):
    path = tmp_path / name
    save = safetensors.torch.save_file if path.suffix == ".safetensors" else torch.save
    save(tensors, path)
    equal(load_state(path), tensors)
    equal(openai_clip_state(path), tensors)


def test_nested_states_and_old_pickles_and_parameters(tensors, tmp_path):
    torch.save({"state_dict": {"state_dict": tensors}, "epoch": 3}, tmp_path / "nested.ckpt")
    equal(load_state(tmp_path / "nested.ckpt"), tensors)
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    equal(load_state(tmp_path / "old.pth"), tensors)
    layer = torch.nn.Linear(2, 2)
    torch.save(collections.OrderedDict(layer.named_parameters()), tmp_path / "p.pth")
    read = load_state(tmp_path / "p.pth")
    assert not read["weight"].requires_grad and torch.equal(read["weight"], layer.weight)


@pytest.mark.parametrize("old", [False, True])
def test_pickled_code_is_refused_and_does_not_run(old, tmp_path):
    marker = tmp_path / "ran"
    path = tmp_path / HEAD
    held = {"w": torch.zeros(2), "x": Hostile(marker)}
    torch.save(held, path, _use_new_zipfile_serialization=not old)
    for read in (load_state, openai_clip_state):
        with pytest.raises(
            CallError, match=r"its pickle asks for posix\.mkdir, .*download_models aesthetic$"
        ):
            read(path)
    plain = tmp_path / "plain.bin"
    plain.write_bytes(pickle.dumps(Hostile(marker)))
    with pytest.raises(CallError, match=r"plain\.bin: "):
        load_state(plain)
    assert not marker.exists()


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["x.pth", "old.pth", "x.safetensors"])
def test_a_cut_off_file_is_refused(name, share, tmp_path):
    path = tmp_path / name
    state = {f"layer{i}.weight": torch.randn(16, 16) for i in range(8)}
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=name != "old.pth")
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(CallError) as caught:
        load_state(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "held", [[torch.zeros(2)], torch.zeros(2), {}, {"a": 3}, {3: torch.zeros(2)}, {"state_dict": {"a": "b"}}]
)
def test_what_is_no_dict_of_tensors_is_refused(held, tmp_path):
    torch.save(held, tmp_path / "x.pth")
    with pytest.raises(CallError, match=r"x\.pth: holds .* needed; get it again"):
        load_state(tmp_path / "x.pth")


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.zip", "x.h5"])
def test_other_bytes_folders_and_absent_files_are_refused(name, tmp_path):
    path = tmp_path / name
    read = nsfw_state if path.suffix in (".zip", ".h5") else openai_clip_state
    with pytest.raises(CallError, match=name):
        read(path)
    path.write_bytes(b"<!doctype html>" + bytes(range(256)) * 20)
    with pytest.raises(CallError, match=name):
        read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CallError, match=name):
        read(path)


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


def test_an_archive_is_no_plain_state(openai):
    with pytest.raises(
        CallError, match=r"a TorchScript archive, where plain .*download_models ViT-L-14\.pt$"
    ):
        load_state(openai[0])


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
    monkeypatch.setattr("clipsheet.weights.torchscript._TensorsOnly", fails)
    with pytest.raises(CallError, match="broken or cut off"):
        read(tmp_path / "x.pth" if read is load_state else openai[0])


PACKED = 100 << 20  # bytes that a small file unpacks to


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


def test_members_that_share_their_bytes_are_refused(tmp_path):
    torch.save({"w": torch.zeros(1 << 14)}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth", "a") as file:
        file.filelist += [copy.copy(file.getinfo("x/data/0")) for _ in range(99)]
        file.writestr("x/end", b"")
    with pytest.raises(CallError, match=r"x/data/0 is packed, tensors lie as they are"):
        load_state(tmp_path / "x.pth")


def test_a_packed_pickle_of_tensors_is_refused(tmp_path):
    torch.save({"w": torch.zeros(PACKED // 4)}, tmp_path / "big.pth")
    with zipfile.ZipFile(tmp_path / "big.pth") as old, zipfile.ZipFile(tmp_path / "x.pth", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name), zipfile.ZIP_DEFLATED)
    with pytest.raises(CallError, match=r"x\.pth: big/.* is packed, tensors lie as they are"):
        load_state(tmp_path / "x.pth")


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
    equal(nsfw_state(tmp_path / "head.h5"), expected(arrays))


def test_the_smaller_head(tmp_path):
    arrays = head((512, 32, 32, 1))
    keras2(tmp_path / "head.h5", arrays, ("normalization", "dense", "dense_1", "dense_2"))
    equal(nsfw_state(tmp_path / "head.h5"), expected(arrays))


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
        nsfw_state(tmp_path / "head.h5")
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(CallError, match="not LAION's safety head"):
        nsfw_state(tmp_path / "x.safetensors")


def test_without_h5py_the_message_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(CallError, match=r"x\.h5: HDF5 is read by h5py; pip install h5py"):
        nsfw_state(tmp_path / "x.h5")


def test_the_published_head(media):
    state = nsfw_state(media / "weights" / SAFETY)
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
        nsfw_state(path)


@pytest.mark.parametrize("member", ["variables.index", "variables.data-00000-of-00001"])
def test_a_broken_bundle_is_refused(media, member, tmp_path):
    for change in (lambda d: d[: len(d) // 4], lambda d: b""):
        path = rewritten(
            media / "weights" / SAFETY,
            tmp_path / "x.zip",
            lambda n, d, c=change: c(d) if n.endswith(member) else d,
        )
        with pytest.raises(CallError, match=r"x\.zip: "):
            nsfw_state(path)


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
        nsfw_state(tmp_path / "x.zip")


def test_a_number_without_an_end_is_refused(media, tmp_path):
    def change(name, data):
        return b"\xff" * 1_000_000 + data[-8:] if name.endswith("variables.index") else data

    path = rewritten(media / "weights" / SAFETY, tmp_path / "x.zip", change)
    with pytest.raises(CallError, match="a number without an end"):
        nsfw_state(path)


def test_a_huge_array_in_hdf5_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    keras3(tmp_path / "x.h5", head())
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        del file["layers/dense/vars/0"]
        file.create_dataset("layers/dense/vars/0", (1 << 12, 1 << 14), "f4")  # fills, and lies nowhere
    with little_memory(), pytest.raises(CallError, match="has 268,435,456 bytes"):
        nsfw_state(tmp_path / "x.h5")


def test_the_published_aesthetic_head(media):
    state = load_state(media / "weights" / HEAD)
    assert [tuple(state[f"layers.{n}.weight"].shape) for n in (0, 2, 4, 6, 7)] == [
        (1024, 768), (128, 1024), (64, 128), (16, 64), (1, 16),
    ]  # fmt: skip
    assert {t.device.type for t in state.values()} == {"cpu"}  # it was saved on a GPU


# --- the converter -----------------------------------------------------------------------------


def test_a_pickle_becomes_safetensors(tool, tensors, tmp_path):
    tied = {**tensors, "tied": tensors["a.weight"], "turned": tensors["a.weight"].T}
    torch.save(tied, tmp_path / "x.pth")
    said = tool("tools.pth_to_safetensors", tmp_path / "x.pth", tmp_path / "out" / "x.safetensors").stdout
    equal(load_state(tmp_path / "out" / "x.safetensors"), tied)
    with safetensors.safe_open(tmp_path / "out" / "x.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert said.startswith(f"{tmp_path}/out/x.safetensors: 4 tensors, ")


def test_openais_archive_and_the_safety_head_become_safetensors(tool, openai, tmp_path):
    tool("tools.pth_to_safetensors", openai[0], tmp_path / "clip.safetensors")
    equal(load_state(tmp_path / "clip.safetensors"), dict(openai[1]))
    keras2(tmp_path / "head.h5", head())
    tool("tools.pth_to_safetensors", tmp_path / "head.h5", tmp_path / "head.safetensors")
    equal(nsfw_state(tmp_path / "head.safetensors"), expected(head()))


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


def test_no_torch_is_loaded_to_know_the_table():
    code = "import sys, clipsheet.weights.table as w; w.table(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)
