"""CLIP against the reference implementation on the same random weights, and its heads on published ones."""

from __future__ import annotations

import json
import re
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from clipsheet.engine.run import run_scorers
from clipsheet.errors import CallError
from clipsheet.media import Media
from clipsheet.options import RunOptions
from clipsheet.scorer import Home, Scorer, provenance
from scoring.aesthetic.scorer import Aesthetic, aesthetics, linear_layers
from scoring.clip.images import ClipImages, Preparation
from scoring.clip.texts import ClipTexts
from scoring.embedding.scorer import Embedding
from scoring.matching.scorer import Matching, OptionMatching, column_of
from scoring.nsfw.scorer import Nsfw
from tests import footage
from tests.conftest import listing, read_table, write_table
from tests.tiny import JOINT, PATCH, SIZE, aesthetic_predictor, nsfw_state_saved, reference

CAPTIONS = [
    "a dog runs over a green field",
    "two people, talking in a dimly-lit kitchen; it's 12 o'clock!",
    "caf\u00e9 \u00fcber stra\u00dfe \u732b",
    "word " * 200,
]
HEAD = "sac+logos+ava1-l14-linearMSE.pth"


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    sides = [(240, 320), (120, 90), (64, 64), (700, 301)]
    return [np.asarray(Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).resize(s)) for s in sides]


def reference_input(rgb: np.ndarray, size: int) -> torch.Tensor:
    """OpenAI's own preprocessing."""
    from clip.clip import _transform

    return _transform(size)(Image.fromarray(rgb))


def normalised(picture: np.ndarray) -> np.ndarray:
    from scoring.clip.images import OPENAI_MEAN, OPENAI_STD

    return (picture.transpose(2, 0, 1) / 255 - np.reshape(OPENAI_MEAN, (3, 1, 1))) / np.reshape(
        OPENAI_STD, (3, 1, 1)
    )


# --- pictures ----------------------------------------------------------------------------------


def test_preprocessing_is_that_of_the_reference(pictures: list[np.ndarray]) -> None:
    for rgb in pictures:
        ours = normalised(Preparation(224, True, 3).picture(rgb))
        assert np.abs(ours - reference_input(rgb, 224).numpy()).max() < 1e-6


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 3), (40, 3000), (20_000, 2), (1, 60_000)])
def test_a_picture_of_any_shape_becomes_a_square(shape: tuple[int, int]) -> None:
    ramp = np.linspace(0, 255, max(shape)).astype(np.uint8).reshape(max(shape), 1)
    ramp = np.ascontiguousarray(np.broadcast_to(ramp if shape[0] >= shape[1] else ramp.T, shape))
    tracemalloc.start()
    small = Preparation(224, True, 3).picture(np.repeat(ramp[..., None], 3, axis=2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert small.shape == (224, 224, 3)
    if max(shape) > 100:
        assert small.mean() == pytest.approx(127, abs=3)  # the middle
    assert peak < 100 << 20


def test_preprocessing_of_real_pictures_is_that_of_the_reference(media: Path) -> None:
    found = sorted(p for p in (media / "images").rglob("*") if p.suffix in (".jpg", ".png"))[::5][:10]
    assert len(found) == 10
    for path in found:
        [frame] = Media(str(path)).frames()
        ours = normalised(Preparation(224, True, 3).picture(frame.rgb()))
        assert np.abs(ours - reference_input(frame.rgb(), 224).numpy()).max() < 1e-6


def encode(clip: str, models: Path, pictures: list[np.ndarray]) -> np.ndarray:
    feature = ClipImages(clip)
    prepare = feature.preparation(models)
    model = feature.load(Home(models))
    return feature.encode(model, [prepare.picture(p) for p in pictures])  # type: ignore[attr-defined]


@pytest.mark.parametrize("clip", ["tiny", "openai.pt"])
def test_image_embeddings_are_those_of_the_reference(models: Path, pictures: Any, clip: str) -> None:
    ours = encode(clip, models, pictures)
    with torch.inference_mode():
        theirs = reference().encode_image(torch.stack([reference_input(p, SIZE) for p in pictures]))
    assert ours.dtype == np.float32
    assert ours == pytest.approx(theirs.numpy(), rel=1e-4, abs=1e-5)


def test_any_batch_gives_the_same_bytes(models: Path, pictures: Any) -> None:
    together = encode("tiny", models, pictures)
    alone = np.concatenate([encode("tiny", models, [p]) for p in pictures[::-1]])[::-1]
    assert together.tobytes() == alone.tobytes()


# --- texts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", ["tiny", "openai.pt"])
def test_text_embeddings_are_those_of_the_reference(models: Path, clip: str) -> None:
    import clip as openai_clip

    ours, truncated = ClipTexts(clip, "float32", Home(models))(CAPTIONS)
    with torch.inference_mode():
        theirs = reference().encode_text(openai_clip.tokenize(CAPTIONS, truncate=True))
    theirs = theirs / theirs.norm(dim=-1, keepdim=True)
    assert ours == pytest.approx(theirs.numpy(), abs=1e-5)
    assert truncated == [False, False, False, True]


# --- scores ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(
    models: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, str]]]:
    """Clips and a picture with captions, scored by all at once."""
    folder = tmp_path_factory.mktemp("scored")
    Image.fromarray(footage.picture(5)).save(folder / "photo.jpg")
    rows = [*listing(clips), {"path": str(folder / "photo.jpg")}]
    texts = [*CAPTIONS, "", "NaN", "one picture. And another sentence! Yes?"]
    table = write_table(folder / "m.csv", [{**r, "text": t} for r, t in zip(rows, texts, strict=True)])
    status = run_scorers([str(table)], everything(), options(models))
    return folder, read_table(status.output)


def everything() -> list[Scorer]:
    return [
        Aesthetic(clip="tiny", head="head.pth"),
        Nsfw(clip="tiny", head="nsfw.safetensors"),
        Matching(clip="tiny"),
        OptionMatching(("Red car", "dog"), clip="tiny"),
    ]


def options(models: Path, **more: Any) -> RunOptions:
    return RunOptions(max_failed=1.0, use_cpu=True, pretrained_models=str(models), **more)


def embeddings(path: str) -> torch.Tensor:
    """[P, D] by the reference, of the frames at 10, 50 and 90 %."""
    media = Media(path)
    wanted = [media.info.index_at(seconds) for seconds in media.info.at(0.1, 0.5, 0.9)]
    shown = {frame.index: frame.rgb() for frame in media.frames(set(wanted))}
    with torch.inference_mode():
        vectors = reference().encode_image(torch.stack([reference_input(shown[i], SIZE) for i in wanted]))
        return vectors / vectors.norm(dim=-1, keepdim=True)


def whole(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [row for row in rows if not row["path"].endswith("cut_off.mp4")]


def test_aesthetic_is_that_of_the_reference(scored: Any, models: Path) -> None:
    predictor = aesthetic_predictor(JOINT)
    state = torch.load(models / "head.pth", weights_only=True)
    predictor.load_state_dict({k.removeprefix("layers."): v for k, v in state.items()})
    for row in whole(scored[1]):
        with torch.inference_mode():
            expected = predictor(embeddings(row["path"])).mean()
        assert float(row["aes"]) == pytest.approx(float(expected), rel=1e-4, abs=1e-4)


def test_nsfw_is_that_of_the_published_architecture(scored: Any, tmp_path: Path) -> None:
    state = nsfw_state_saved(tmp_path / "again.safetensors")
    for row in whole(scored[1]):
        values = (embeddings(row["path"]) - state["mean"]) / state["variance"].sqrt()
        for layer in (0, 2, 4):
            values = torch.nn.functional.linear(values, state[f"{layer}.weight"], state[f"{layer}.bias"])
            values = values.relu() if layer < 4 else values.sigmoid()
        assert float(row["nsfw"]) == pytest.approx(float(values.max()), abs=1e-4)


def test_match_is_that_of_the_reference(scored: Any) -> None:
    import clip as openai_clip

    for row in whole(scored[1]):
        if not row["text"]:
            assert row["error"] == "match: bad_value"
            assert row["match"] == row["match_truncated"] == ""
            continue
        with torch.inference_mode():
            texts = reference().encode_text(openai_clip.tokenize([row["text"]], truncate=True))
        texts = texts / texts.norm(dim=-1, keepdim=True)
        expected = 100 * float((embeddings(row["path"]) @ texts.T).max())
        assert float(row["match"]) == pytest.approx(expected, rel=1e-4, abs=1e-3)
        assert row["match_truncated"] == ("true" if row["text"].startswith("word word") else "false")


def test_options_are_matched_in_columns_of_their_own(scored: Any) -> None:
    import clip as openai_clip

    with torch.inference_mode():
        texts = reference().encode_text(openai_clip.tokenize(["Red car", "dog"]))
    texts = texts / texts.norm(dim=-1, keepdim=True)
    for row in whole(scored[1]):
        expected = (100 * embeddings(row["path"]) @ texts.T).max(dim=0).values.tolist()
        found = [float(row["match_red_car"]), float(row["match_dog"])]
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_a_file_that_cannot_be_read_fails_for_all(scored: Any) -> None:
    [row] = [row for row in scored[1] if row["path"].endswith("cut_off.mp4")]
    names = ("aes", "nsfw", "match", "option")
    assert row["error"] == "; ".join(f"{name}: corrupt" for name in names)
    assert all(row[column] == "" for column in ("aes", "nsfw", "match", "match_dog"))


def test_openai_weights_score_as_hugging_face_ones(scored: Any, models: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "m.csv", [{"path": r["path"], "text": r["text"]} for r in scored[1]])
    scorers = [Aesthetic(clip="openai.pt", head="head.pth"), Matching(clip="openai.pt")]
    rows = read_table(run_scorers([str(table)], scorers, options(models)).output)
    for ours, theirs in zip(rows, scored[1], strict=True):
        for column in ("aes", "match"):
            assert bool(ours[column]) == bool(theirs[column])
            if ours[column]:
                assert float(ours[column]) == pytest.approx(float(theirs[column]), abs=2e-4)


@pytest.mark.parametrize("bs", [1, 3])
def test_batches_workers_and_order_change_no_score(
    scored: Any, models: Path, tmp_path: Path, bs: int
) -> None:
    given = [{"path": r["path"], "text": r["text"]} for r in scored[1]][::-1]
    table = write_table(tmp_path / "m.csv", given)
    rows = read_table(run_scorers([str(table)], everything(), options(models, bs=bs, num_workers=1)).output)
    assert rows[::-1] == scored[1]


def test_sentences_are_matched_one_by_one(models: Path, tmp_path: Path) -> None:
    Image.fromarray(footage.picture(5)).save(tmp_path / "p.png")
    parts = ["A dog runs.", "It is red!", "Why?"]
    rows = [{"path": str(tmp_path / "p.png"), "text": text} for text in [" ".join(parts), *parts]]
    table = write_table(tmp_path / "m.csv", rows)
    found = {}
    for how in ("", "mean", "min"):
        status = run_scorers([str(table)], [Matching(clip="tiny", sentences=how)], options(models))
        found[how] = [float(row["match"]) for row in read_table(status.output)]
    assert found["mean"][1:] == found["min"][1:] == found[""][1:]
    assert found["mean"][0] == pytest.approx(np.mean(found[""][1:]), abs=1e-3)
    assert found["min"][0] == pytest.approx(min(found[""][1:]), abs=1e-3)


def test_new_captions_need_no_picture(scored: Any, models: Path) -> None:
    folder, rows = scored
    [vectors] = (folder / ".clipsheet" / "features").glob("clip-*")
    before = {path.name: path.stat().st_size for path in vectors.glob("*.vectors")}
    table = write_table(folder / "m.csv", [{"path": r["path"], "text": "new words"} for r in rows])
    status = run_scorers([str(table)], [Matching(clip="tiny")], options(models))
    assert status.scored == 6
    assert {path.name: path.stat().st_size for path in vectors.glob("*.vectors")} == before


# --- SigLIP ------------------------------------------------------------------------------------


def siglip(folder: Path) -> tuple[Any, Any]:
    """A tiny SigLIP in a folder; the model and its processor of pictures."""
    import transformers

    torch.manual_seed(1)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.SiglipConfig(
        vision_config={**tower, "image_size": SIZE, "patch_size": PATCH},
        text_config={**tower, "vocab_size": 100, "max_position_embeddings": 8, "projection_size": 32},
    )
    theirs = transformers.SiglipModel(config).eval()
    theirs.save_pretrained(folder)
    processor = transformers.SiglipImageProcessor(size={"height": SIZE, "width": SIZE})
    processor.save_pretrained(folder)
    return theirs, processor


def test_a_siglip_folder_is_one_more_model(tmp_path: Path, pictures: Any) -> None:
    theirs, processor = siglip(tmp_path / "siglip")
    ours = encode("siglip", tmp_path, pictures)
    inputs = processor([Image.fromarray(p) for p in pictures], return_tensors="pt")
    with torch.inference_mode():
        expected = theirs.get_image_features(**inputs).pooler_output.numpy()
    assert ours == pytest.approx(expected, rel=0.02, abs=0.02)  # the processor resizes tensors, not pictures


# --- published heads ---------------------------------------------------------------------------


def test_the_published_heads_say_what_their_architecture_says(media: Path) -> None:
    from scoring.nsfw.scorer import probabilities
    from tools.convert.keras import safety_head

    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(5, 768)).astype(np.float32)
    unit = torch.nn.functional.normalize(torch.from_numpy(vectors).double())
    predictor = aesthetic_predictor(768).double()
    state = torch.load(media / "weights" / HEAD, weights_only=True, map_location="cpu")
    predictor.load_state_dict({k.removeprefix("layers."): v.double() for k, v in state.items()})
    with torch.inference_mode():
        expected = predictor(unit)[:, 0].numpy()
    assert aesthetics(linear_layers(media / "weights" / HEAD), vectors) == pytest.approx(expected, rel=1e-9)
    rated = sorted((media / "truth_sources" / "aesthetic-predictor").glob("rating*.npy"))
    scores = [aesthetics(linear_layers(media / "weights" / HEAD), np.load(path)).item() for path in rated]
    assert len(scores) == 5
    assert scores == sorted(scores)
    raw = safety_head(media / "weights" / "clip_autokeras_binary_nsfw.zip")
    found = probabilities({k: v.double().numpy() for k, v in raw.items()}, vectors)
    assert found.shape == (5,)
    assert ((found > 0) & (found < 1)).all()


# --- bad input ---------------------------------------------------------------------------------

FLAGS = ("--clip", "tiny", "--use_cpu")


def refused(tool: Any, module: str, table: Path, models: Path, *more: str) -> str:
    done = tool(module, table, *FLAGS, "--pretrained_models", models, *more, code=2)
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return str(done.stderr)


@pytest.fixture
def broken(models: Path, tmp_path: Path) -> Path:
    """A copy of the folder of weights, to be broken."""
    shutil.copytree(models, tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def one_row(clips: Path, tmp_path: Path) -> Path:
    return write_table(tmp_path / "m.csv", [{"path": str(clips / "a.mp4"), "text": "a dog"}])


def test_missing_weights_are_named_with_the_command_that_brings_them(
    tool: Any, one_row: Path, tmp_path: Path
) -> None:
    done = tool("scoring.aesthetic.inference", one_row, "--pretrained_models", tmp_path, code=2)
    assert "tools.download_models clip-vit-large-patch14" in done.stderr
    assert "tools.download_models aesthetic" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_cut_off_weights_are_refused(tool: Any, one_row: Path, broken: Path) -> None:
    path = broken / "tiny" / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert str(path) in refused(tool, "scoring.matching.inference", one_row, broken)


def test_weights_of_another_architecture_are_refused(tool: Any, one_row: Path, broken: Path) -> None:
    config = json.loads((broken / "tiny" / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] += 1
    (broken / "tiny" / "config.json").write_text(json.dumps(config))
    said = refused(tool, "scoring.aesthetic.inference", one_row, broken, "--head", "head.pth")
    assert "another architecture" in said
    config["model_type"] = "bert"
    (broken / "tiny" / "config.json").write_text(json.dumps(config))
    assert "bert" in refused(tool, "scoring.aesthetic.inference", one_row, broken, "--head", "head.pth")


def test_a_head_for_other_vectors_is_refused(tool: Any, one_row: Path, broken: Path) -> None:
    torch.save({"weight": torch.zeros(1, 99), "bias": torch.zeros(1)}, broken / "other.pth")
    assert "other.pth" in refused(tool, "scoring.aesthetic.inference", one_row, broken, "--head", "other.pth")
    assert "--head" in refused(tool, "scoring.aesthetic.inference", one_row, broken)


class Harmful:
    """Makes a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def test_code_in_weights_is_not_executed(tool: Any, one_row: Path, broken: Path, tmp_path: Path) -> None:
    torch.save({"layers.0.weight": Harmful(tmp_path / "marker")}, broken / "head.pth")
    assert "head.pth" in refused(tool, "scoring.aesthetic.inference", one_row, broken, "--head", "head.pth")
    assert not (tmp_path / "marker").exists()


# --- the commands ------------------------------------------------------------------------------


def test_option_matching_writes_a_table_named_after_its_words(tool: Any, one_row: Path, models: Path) -> None:
    more = ("--pretrained_models", models, "--option", "animal", "--option", "red car")
    tool("scoring.matching.inference", one_row, *FLAGS, *more)
    [row] = read_table(one_row.with_name("m_match-animal-red_car.csv"))
    assert list(row) == ["path", "text", "match_animal", "match_red_car", "error"]
    assert re.fullmatch(r"-?\d+\.\d+", row["match_animal"])


def test_two_words_for_one_column_are_refused(tool: Any, one_row: Path, models: Path) -> None:
    done = tool(
        "scoring.matching.inference", one_row, *FLAGS, "--pretrained_models", models,
        "--option", "red car", "--option", "Red-Car", code=2,
    )  # fmt: skip
    assert "match_red_car" in done.stderr


def test_embeddings_are_exported(tool: Any, scored: Any, models: Path) -> None:
    folder, rows = scored
    table = write_table(folder / "e.csv", [{"path": row["path"]} for row in rows])
    tool("scoring.embedding.inference", table, *FLAGS, "--pretrained_models", models, "--max_failed", "1")
    found = pq.read_table(folder / "e_embedding_vectors.parquet").to_pylist()
    assert [row["path"] for row in found] == [row["path"] for row in whole(rows)]
    for row in found:
        expected = embeddings(row["path"]).numpy()
        vectors = np.array(row["vectors"])
        assert row["positions"] == [0.1, 0.5, 0.9]
        assert vectors / np.linalg.norm(vectors, axis=1, keepdims=True) == pytest.approx(expected, abs=1e-5)
        mean = expected.mean(axis=0)
        assert row["mean"] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)
    assert Embedding(clip="tiny").columns == ()


def test_embeddings_that_were_deleted_are_made_again(
    tool: Any, clips: Path, models: Path, tmp_path: Path
) -> None:
    table = write_table(tmp_path / "m.csv", listing(clips, "[ab].*"))
    command = ("scoring.embedding.inference", table, *FLAGS, "--pretrained_models", models)
    for more in ((), ("--skip_if_existing",)):
        shutil.rmtree(tmp_path / ".clipsheet" / "features", ignore_errors=True)
        assert "vectors of 2 of 2 rows" in tool(*command, *more).stdout
        assert pq.read_table(tmp_path / "m_embedding_vectors.parquet").num_rows == 2


def test_a_siglip_says_how_it_wants_its_pictures_in_either_file(tmp_path: Path, pictures: Any) -> None:
    siglip(tmp_path / "siglip")
    older = tmp_path / "siglip" / "preprocessor_config.json"
    with_older = encode("siglip", tmp_path, pictures)
    newer = {"image_processor": json.loads(older.read_text())}
    older.unlink()
    without = encode("siglip", tmp_path, pictures)
    (tmp_path / "siglip" / "processor_config.json").write_text(json.dumps(newer))
    assert np.array_equal(encode("siglip", tmp_path, pictures), with_older)
    assert np.array_equal(without, with_older)  # of bicubic and bilinear: as trained
    assert "processor_config" in ClipImages("siglip").weights(tmp_path)


def test_whatever_changes_the_tokens_is_in_the_fingerprint(broken: Path) -> None:
    scorer = Matching(clip="tiny")
    before = provenance(scorer, broken)
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        path = broken / "tiny" / name
        path.write_text((path.read_text() if path.exists() else "{}") + " ")
        after = provenance(scorer, broken)
        assert after != before, name
        before = after


@pytest.mark.parametrize(
    ("word", "column"),
    [
        ("Red car", "match_red_car"),
        ("\u732b", "match_\u732b"),
        ("\uff43\uff41\uff54", "match_cat"),
        ("m\u00b2", "match_m2"),
    ],
)
def test_a_column_is_named_after_its_word(word: str, column: str) -> None:
    assert column_of(word) == column


def test_words_that_would_share_a_column_do_not() -> None:
    words = ["C++", "C#", "c", "truncated", "it's", "its"]
    columns = [column_of(word) for word in words]
    assert len(set(columns)) == len(words)
    assert "match_truncated" not in columns
    assert all(column.isidentifier() for column in columns)
    assert OptionMatching(("\u732b",)).suffix != OptionMatching(("\u72ac",)).suffix


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", {"vision_config": None}),
        ("config.json", {"projection_dim": "many"}),
        ("config.json", {"vision_config": {"image_size": "large"}}),
        ("preprocessor_config.json", {"resample": None}),
        ("preprocessor_config.json", {"resample": 99}),
        ("preprocessor_config.json", {"image_mean": None}),
        ("preprocessor_config.json", {"image_std": [1, 0, 1]}),
        ("model.safetensors.index.json", {}),
    ],
)
def test_a_folder_that_says_nonsense_is_refused(
    tool: Any, one_row: Path, broken: Path, name: str, change: dict[str, Any]
) -> None:
    path = broken / "tiny" / name
    said = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(said | change))
    assert "tiny" in refused(tool, "scoring.aesthetic.inference", one_row, broken, "--head", "head.pth")


@pytest.mark.parametrize(
    "state",
    [
        {"a.weight": torch.zeros(1, JOINT), "a.bias": torch.zeros(7)},
        {"a.weight": torch.zeros(1, JOINT), "a.bias": torch.zeros(1), "b.weight": torch.zeros(1, 1)},
        {"a0.weight": torch.zeros(2, JOINT), "a0.bias": torch.zeros(2)},
        {"a0.weight": torch.zeros(2, JOINT), "a0.bias": torch.zeros(2), "a1.weight": torch.zeros(1, 3),
         "a1.bias": torch.zeros(1)},
    ],
)  # fmt: skip
def test_a_head_of_other_layers_is_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save(state, tmp_path / "head.pth")
    with pytest.raises(CallError, match=r"head\.pth"):
        linear_layers(tmp_path / "head.pth")
