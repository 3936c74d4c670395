"""The table of weights, what the run time reads from weight files, what it refuses, and that nothing in them runs."""

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
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch

from clipsheet.errors import CallError
from clipsheet.scorer import Scorer, missing
from clipsheet.weights.converted import converted, originals
from clipsheet.weights.load import load_state
from clipsheet.weights.table import absent, known, refused, table
from tests.conftest import REPO

HEAD = "sac+logos+ava1-l14-linearMSE.pth"
SAFETY = "clip_autokeras_binary_nsfw.zip"
OTHER = b"<!doctype html>" + bytes(range(256)) * 20
PACKED = 100 << 20  # bytes that a small file unpacks to


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
    return some_tensors()


def some_tensors():
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
        (
            "clip-vit-base-patch16/model.safetensors",
            "model",
            r", converted from pytorch_model\.bin, 598,641,023 bytes, .*_models clip-vit-base-patch16",
        ),
        (
            "ViT-L-14/tokenizer.json",
            "x",
            r", converted from ViT-L-14\.pt, 932,768,134 bytes, .*_models ViT-L-14\.pt",
        ),
        (
            "clip_autokeras_nsfw_b32.safetensors",
            "head",
            r", converted from clip_autokeras_nsfw_b32\.zip: .*_models nsfw-b32",
        ),
        ("sa_0_4_vit_b_16_linear.pth", "head", ": .*download_models aesthetic-b16"),  # no published sum
        ("own.pth", "aesthetic", ": .*download_models aesthetic"),
        ("own.pth", "head", ": put it there"),
        ("own/model.safetensors", "", ": put it there"),
    ],
)
def test_what_is_absent_is_said_with_what_it_is_and_where_it_comes_from(path, name, said, tmp_path):
    line = absent(tmp_path / path, name)
    assert re.fullmatch(rf"no {tmp_path / path}{said}", line)


@pytest.mark.parametrize(
    ("path", "original"),
    [
        ("ViT-L-14/config.json", "ViT-L-14.pt"),
        ("own.v2/model.safetensors", "own.v2.pt"),
        ("own/model.safetensors", "own/pytorch_model.bin"),
        ("clip_autokeras_binary_nsfw.safetensors", "clip_autokeras_binary_nsfw.zip"),
        ("own head.safetensors", "own head.h5"),
    ],
)
def test_an_original_beside_an_absent_file_is_to_be_converted(path, original, tmp_path):
    source, target = tmp_path / original, tmp_path / path
    assert source in originals(target) and converted(source).parent == target.parent
    source.parent.mkdir(exist_ok=True)
    source.touch()
    shown = f"'{source}'" if " " in original else source
    assert absent(target, "x") == f"no {target}: python -m tools.convert {shown}"


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


def test_a_scorer_says_what_a_converted_file_was_not_made_of(tensors, tmp_path):
    needing = Needing("clip_autokeras_binary_nsfw.safetensors")
    path = tmp_path / needing.file
    for metadata, said in (
        ({}, []),
        ({"original_sha256": known(tmp_path / SAFETY).sha256}, []),
        (
            {"original_sha256": "0" * 64},
            [
                f"{path} was not converted from the published file (sha256 000000000000..., published "
                "905520bb0336...): python -m tools.download_models nsfw"
            ],
        ),
    ):
        safetensors.torch.save_file(tensors, path, metadata)
        assert missing(needing, tmp_path) == said
    os.truncate(path, 20)
    [said] = missing(needing, tmp_path)
    assert said.startswith(f"{path}: broken or cut off")


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
    with pytest.raises(CallError, match=r"its pickle asks for posix\.mkdir, .*download_models aesthetic$"):
        load_state(path)
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


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_other_bytes_folders_and_absent_files_are_refused(name, tmp_path):
    each_kind_of_other_bytes_is_refused(load_state, tmp_path / name)


def each_kind_of_other_bytes_is_refused(read, path):
    for make in (lambda: None, lambda: path.write_bytes(OTHER), lambda: (path.unlink(), path.mkdir())):
        make()
        with pytest.raises(CallError, match=path.name):
            read(path)


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


def test_the_published_aesthetic_head(media):
    state = load_state(media / "weights" / HEAD)
    assert [tuple(state[f"layers.{n}.weight"].shape) for n in (0, 2, 4, 6, 7)] == [
        (1024, 768), (128, 1024), (64, 128), (16, 64), (1, 16),
    ]  # fmt: skip
    assert {t.device.type for t in state.values()} == {"cpu"}  # it was saved on a GPU


def test_a_torchscript_archive_is_to_be_converted(tmp_path):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/constants.pkl", b"\x80\x02).")
    with pytest.raises(
        CallError, match=rf"^{path}: a TorchScript archive; convert it: .*tools\.convert {path}$"
    ):
        load_state(path)


def test_no_torch_is_loaded_to_know_the_table():
    code = "import sys, clipsheet.weights.table as w; w.table(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=REPO, check=True)
