"""LPIPS against the package of its authors, on the same random weights, and what refuses wrong ones."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lpips
import numpy as np
import pytest
import torch
from PIL import Image

from clipsheet.engine.run import run_scorers
from clipsheet.engine.sample import prepare_together
from clipsheet.media import Media
from clipsheet.options import RunOptions
from clipsheet.scorer import Home, file_sha256, provenance
from scoring.lpips.scorer import BACKBONES, MAX_PAIRS, Lpips
from tests import footage
from tests.conftest import listing, read_table, write_table
from tests.tiny import BUILDERS, random_backbone, save_backbone


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a backbone of each kind."""
    folder = tmp_path_factory.mktemp("weights")
    for net in BACKBONES:
        save_backbone(folder, net)
    return folder


@pytest.fixture(scope="module")
def metric(weights: Path) -> Any:
    """AlexNet's, loaded as a run does."""
    return Lpips(net="alex").load(Home(weights))


Distance = Callable[[np.ndarray, np.ndarray], float]


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Distance]:
    """The package itself, given the random weights where it would download trained ones."""

    def build(net: str) -> Distance:
        name = BUILDERS[net].__name__
        monkeypatch.setattr(lpips.pretrained_networks.tv, name, lambda pretrained: random_backbone(net))
        whole = lpips.LPIPS(net=net, verbose=False)

        def distance(one: np.ndarray, other: np.ndarray) -> float:
            pair = [lpips.im2tensor(image) for image in (one, other)]  # [1, 3, H, W], -1 to 1
            with torch.inference_mode():
                return float(whole(*pair, normalize=False))

        return distance

    return build


def taken(scorer: Lpips, path: Path) -> Any:
    """What a scorer takes of a file."""
    [item] = prepare_together(Media(str(path)), [(scorer, {})])
    if isinstance(item, Exception):
        raise item
    return item


def score(scorer: Lpips, model: Any, path: Path) -> float:
    [(value,)] = scorer.score(model, [taken(scorer, path)])
    return float(value)


def shown(path: Path, seconds: list[float], height: int = 224, width: int = 224) -> list[np.ndarray]:
    """The pictures of a file at some times."""
    media = Media(str(path))
    return [f.rgb(height, width) for f in media.frames([media.info.index_at(s) for s in seconds])]


# --- the numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize("net", BACKBONES)
def test_it_is_what_the_package_of_its_authors_says(net, weights, published, tmp_path):
    path = footage.encode(tmp_path / "shots.mp4", footage.shots(3, 4, 5, seconds=1))
    distance = published(net)
    scorer = Lpips(net=net, seconds=0.6)
    expected = [distance(*pair) for pair in pairwise(shown(path, [0, 0.6, 1.2, 1.8, 2.4]))]
    assert min(expected) > 1e-3
    found = score(scorer, scorer.load(Home(weights)), path)
    assert found == pytest.approx(np.mean(expected), rel=1e-4)  # float32 sums in another order


def test_pictures_of_the_authors_go_in_as_they_put_them_in(media, metric, published):
    folder = media / "images" / "perceptualsimilarity"
    ref, *others = (lpips.load_image(str(folder / f"ex_{name}.png")) for name in ("ref", "p0", "p1"))
    for other in others:
        found = metric.to_next(np.stack([ref, other]))
        assert found == pytest.approx([published("alex")(ref, other), 0], rel=1e-4)
        assert found[0] > 0.001
    assert metric.to_next(np.stack([ref, ref])).tolist() == [0, 0]


def test_the_calibrated_heads_are_all_there(metric):
    """The package leaves a head that its file lacks at random; a calibrated one is never negative."""
    for head in metric.net.lins:
        [weight] = head.parameters()
        assert weight.min() >= 0
        assert weight.max() > 0


def test_each_frame_goes_through_the_network_once(metric):
    images = np.random.default_rng(0).integers(0, 256, (11, 224, 224, 3), np.uint8)
    sizes: list[int] = []
    hook = metric.net.net.register_forward_hook(lambda net, given, made: sizes.append(len(given[0])))
    together = replace(metric, together=True)
    try:
        alone = metric.to_next(images)
        assert sum(sizes) == 11
        assert len(sizes) > 2  # pairs lie across the chunks too
        assert together.to_next(images) == pytest.approx(alone, rel=1e-4)
    finally:
        hook.remove()
    pairs = [metric.to_next(images[n : n + 2])[0] for n in range(10)]
    assert alone == pytest.approx([*pairs, 0], rel=1e-4)


def test_a_distance_counts_for_the_seconds_between_its_frames(metric, published, tmp_path):
    made = footage.vfr(tmp_path / "vfr.mp4")  # 60, 60, 60 and 20 ms apart
    scorer = Lpips(net="alex", seconds=0.02)
    distance = published("alex")
    distances = [distance(*pair) for pair in pairwise(shown(made.path, made.seconds.tolist()))]
    expected = np.average(distances, weights=np.diff(made.seconds))
    found = score(scorer, metric, made.path)
    assert found == pytest.approx(expected, rel=1e-4)
    assert abs(np.mean(distances) - expected) > 1e-3 * expected


def test_a_frozen_clip_does_not_change(clips, metric):
    assert score(Lpips(net="alex", seconds=0.5), metric, clips / "still.mp4") < 1e-3


def test_fewer_than_two_frames_are_minus_one(clips, metric, tmp_path):
    Image.fromarray(footage.picture(5)).save(tmp_path / "photo.jpg")
    for path in (clips / "one.mp4", tmp_path / "photo.jpg"):
        assert score(Lpips(net="alex"), metric, path) == -1
    assert score(Lpips(net="alex", seconds=2), metric, clips / "a.mp4") == -1  # two seconds long
    assert score(Lpips(net="alex", seconds=1.9), metric, clips / "a.mp4") > 0


def test_of_a_long_clip_pairs_are_spread_evenly(tmp_path):
    path = footage.numbered(tmp_path / "long.mp4", 500)
    scorer = Lpips(net="alex", seconds=0.08, target_height=120, target_width=160)
    item = taken(scorer, path)
    assert len(item.images) <= 2 * MAX_PAIRS
    compared = np.flatnonzero(item.seconds)
    assert len(compared) == MAX_PAIRS
    assert item.seconds[compared] == pytest.approx(0.08)
    numbers = [footage.number_in(image) for image in item.images]
    begins = [numbers[k] for k in compared]
    assert [numbers[k + 1] - numbers[k] for k in compared] == [2] * MAX_PAIRS
    assert begins[0] == 0
    assert begins[-1] == 496  # the last pair
    assert set(np.diff(begins)) <= {6, 8}

    images = SimpleNamespace(together=False, to_next=lambda images: np.arange(len(images), dtype=float))
    [(mean,)] = scorer.score(images, [item])
    assert mean == pytest.approx(compared.mean(), abs=1e-6)


def test_flags_change_the_frames_and_the_fingerprint(clips, weights):
    variants = {
        Lpips(net="alex"): (3, 224, 224),
        Lpips(net="alex", seconds=0.5): (5, 224, 224),
        Lpips(net="alex", target_height=96): (3, 96, 224),
        Lpips(net="alex", target_width=64): (3, 224, 64),
        Lpips(net="squeeze"): (3, 224, 224),
    }
    assert len({provenance(scorer, weights) for scorer in variants}) == len(variants)
    for scorer, shape in variants.items():
        assert taken(scorer, clips / "b.mkv").images.shape == (*shape, 3)


def test_the_smallest_and_odd_sizes_do(clips, weights):
    for net in BACKBONES:
        scorer = Lpips(net=net, target_height=32, target_width=33)
        assert score(scorer, scorer.load(Home(weights)), clips / "c.mp4") > 0


# --- a run -------------------------------------------------------------------------------------


def test_neither_batches_nor_order_nor_workers_change_a_score(clips, weights, tmp_path):
    rows = listing(clips)
    found = []
    for number, (table, options) in enumerate(
        [
            (rows, {"bs": 1, "num_workers": 1}),
            (rows[::-1], {"bs": 8, "num_workers": 2}),
            (rows[2:], {"bs": 3}),
        ]
    ):
        path = write_table(tmp_path / str(number) / "m.csv", table)
        options = RunOptions(pretrained_models=str(weights), max_failed=1.0, use_cpu=True, **options)  # type: ignore[arg-type]
        status = run_scorers([str(path)], [Lpips(net="alex")], options)
        found.append({row["path"]: (row["lpips"], row["error"]) for row in read_table(status.output)})
    assert found[0] == found[1]
    assert found[2].items() <= found[0].items()
    said = {Path(path).name: cells for path, cells in found[0].items()}
    assert said.pop("cut_off.mp4") == ("", "lpips: corrupt")
    assert said["one.mp4"] == ("-1.0", "")
    assert all(error == "" for _, error in said.values())


def test_clips_that_share_their_chunks_score_as_alone(clips, weights, metric):
    scorer = Lpips(net="alex", seconds=0.5)
    items = [taken(scorer, clips / name) for name in ("one.mp4", "a.mp4", "c.mp4", "one.mp4", "b.mkv")]
    alone = [scorer.score(metric, [item])[0] for item in items]
    together = scorer.score(replace(metric, together=True), items)
    assert np.array(together) == pytest.approx(np.array(alone), rel=1e-4)
    assert [together[0], together[3]] == [(-1,), (-1,)]


def test_a_gpu_says_the_same(clips, weights, metric):
    if not torch.cuda.is_available():
        if os.environ.get("FAIL_WITHOUT_CUDA"):
            pytest.fail("no GPU")
        pytest.skip("no GPU (FAIL_WITHOUT_CUDA=1 makes this a failure)")
    scorer = Lpips(net="alex", seconds=0.5)
    on_gpu = scorer.load(Home(weights, "cuda:0"))
    items = [taken(scorer, clips / name) for name in ("one.mp4", "a.mp4", "c.mp4")]
    found = scorer.score(on_gpu, items)
    assert np.array(found) == pytest.approx(np.array(scorer.score(metric, items)), rel=1e-3)
    assert [scorer.score(on_gpu, [item])[0] for item in items] == found


def test_the_program_says_nothing_but_its_summary(clips, weights, tool, tmp_path):
    table = write_table(tmp_path / "m.csv", listing(clips, "[ac].mp4"))
    done = tool(
        "scoring.lpips.inference", table, "--net", "alex", "--target-height", 64, "--target_width", 96,
        "--use-cpu", "--pretrained_models", weights, env={"PYTHONWARNINGS": "default"},
    )  # fmt: skip
    assert "Warning" not in done.stderr
    assert [float(row["lpips"]) > 0 for row in read_table(tmp_path / "m_lpips.csv")] == [True, True]


# --- weights that are not what they should be --------------------------------------------------


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100_000])


def of_another_net(path: Path) -> None:
    path.unlink()
    save_backbone(path.parent, "squeeze").rename(path)


def one_layer_short(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    del state["features.10.weight"]
    torch.save(state, path)


def one_layer_more(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    torch.save({**state, "features.13.weight": torch.zeros(1)}, path)


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def malicious(path: Path) -> None:
    torch.save({"features.0.weight": Malicious(path.with_name("owned"))}, path)


def plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"features.0.weight": Malicious(path.with_name("owned"))}))


@pytest.mark.parametrize(
    "spoil", [truncated, of_another_net, one_layer_short, one_layer_more, malicious, plain_pickle]
)
def test_wrong_weights_end_the_run_in_one_line(spoil, clips, tool, tmp_path):
    path = save_backbone(tmp_path / "models", "alex")
    spoil(path)
    table = write_table(tmp_path / "m.csv", listing(clips, "a.mp4"))
    done = tool(
        "scoring.lpips.inference", table, "--net", "alex", "--use_cpu",
        "--pretrained_models", tmp_path / "models", code=2,
    )  # fmt: skip
    [line] = done.stderr.strip().splitlines()
    assert BACKBONES["alex"] in line
    assert not (tmp_path / "models" / "owned").exists()
    assert not (tmp_path / "m_lpips.csv").exists()


@pytest.mark.parametrize("net", BACKBONES)
def test_missing_weights_are_named_with_their_command(net, clips, tool, tmp_path):
    table = write_table(tmp_path / "m.csv", listing(clips, "a.mp4"))
    done = tool("scoring.lpips.inference", table, "--net", net, "--pretrained_models", tmp_path, code=2)
    [line] = done.stderr.strip().splitlines()
    assert str(tmp_path / BACKBONES[net]) in line
    assert f"python -m tools.download_models lpips-{net}" in line


def test_weights_that_are_not_the_published_ones_are_refused(weights, clips, tool, tmp_path, published_table):
    table = write_table(tmp_path / "m.csv", listing(clips, "a.mp4"))
    done = tool(
        "scoring.lpips.inference", table, "--net", "alex", "--pretrained_models", weights, code=2,
    )  # fmt: skip
    path = weights / BACKBONES["alex"]
    assert re.fullmatch(
        rf"error: lpips: {path} is not the published file \(sha256 {file_sha256(path)[:12]}\.\.\., "
        r"published 7be5be791159\.\.\.\): python -m tools\.download_models lpips-alex\n",
        done.stderr,
    )
    assert [file.name for file in tmp_path.iterdir()] == ["m.csv"]


def test_a_missing_package_is_named_with_its_command(weights, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert Lpips().missing(weights) == ["pip install lpips"]
