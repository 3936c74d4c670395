"""Captioners whose model runs here, on tiny models of the real classes with random weights."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from captioning import viewing
from captioning.answers import judged
from captioning.caption_llava import CaptionLlava
from captioning.caption_pllava import CaptionPllava
from captioning.caption_qwen2vl import CaptionQwen2vl
from captioning.enhance import Enhance
from captioning.models import folder as model_folder
from captioning.models.folder import of_like_length
from captioning.models.language_model import Answer, Ask, View
from captioning.models.llava import Llava
from captioning.models.pllava import as_llava
from captioning.models.pooling import Pooling
from captioning.models.qwen_vl import QwenVl, fitting
from captioning.viewing import windows
from clipsheet.engine.run import run_scorers
from clipsheet.engine.sample import prepare_together
from clipsheet.errors import CallError, MediaError
from clipsheet.media import Media
from clipsheet.options import RunOptions
from clipsheet.scorer import Home, provenance
from tests import footage, tiny_captioners
from tests.conftest import read_table, write_table

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """A model of each family, by its name."""
    made = tmp_path_factory.mktemp("captioners")
    for family in FAMILIES:
        tiny_captioners.save_qwen(made / family, family)
    tiny_captioners.save_llava(made / "llava")
    tiny_captioners.save_llava(made / "vicuna", template=None)
    tiny_captioners.save_llava_next(made / "next")
    tiny_captioners.save_llava_onevision(made / "onevision")
    tiny_captioners.save_pllava(made / "pllava")
    tiny_captioners.save_words(made / "words")
    return made


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Videos of different length, shape and rate, and a picture."""
    made = tmp_path_factory.mktemp("videos")
    footage.numbered(made / "a.mp4", 50)
    footage.numbered(made / "b.mp4", 24, fps=12)
    footage.numbered(made / "c.mp4", 9)
    footage.encode(made / "d.mp4", [footage.picture(200 + n, 320, 280) for n in range(30)])
    footage.encode(made / "e.mp4", [footage.picture(3)])
    return made


def captioner_of(name: str, **fields: Any) -> Any:
    if name in FAMILIES:
        return CaptionQwen2vl(pretrained_model_name_or_path=name, max_new_tokens=8, **fields)
    if name == "pllava":
        return CaptionPllava(
            pretrained_model_name_or_path=name, max_new_tokens=8, pooling_shape=(4, 2, 2), **fields
        )
    return CaptionLlava(pretrained_model_name_or_path=name, max_new_tokens=8, num_frames=2, **fields)


def asks_of(scorer: Any, folder: Path, models: Path) -> list[Ask]:
    """What is asked about each video of a folder."""
    placed = scorer.placed(models)
    items = [
        prepare_together(Media(str(path)), [(placed, {"path": str(path)})])[0]
        for path in sorted(folder.iterdir())
    ]
    return [ask for item in items for ask in item]


every_model = pytest.mark.parametrize("name", [*FAMILIES, "llava", "vicuna", "next", "onevision", "pllava"])


@every_model
def test_one_at_a_time_says_what_many_at_once_say(name, folders, videos):
    scorer = captioner_of(name)
    language_model = scorer.language_model
    model = language_model.load(Home(folders))
    asks = asks_of(scorer, videos, folders)
    together = language_model.answers(model, asks)
    assert together == [language_model.answers(model, [ask])[0] for ask in asks]
    assert len({answer.text for answer in together}) == len(asks), "what is shown makes a difference"


@pytest.mark.parametrize("name", ["qwen2_vl", "llava", "pllava"])
def test_questions_of_any_kind_and_length_are_answered_in_one_batch(name, folders, videos):
    scorer = captioner_of(name)
    language_model = scorer.language_model
    model = language_model.load(Home(folders))
    views = [ask.view for ask in asks_of(scorer, videos, folders)]
    questions = ("Who is seen?", "Is it red? yes or no", "describe the dog in detail")
    asks = [Ask(questions[k % 3], (1, 3, 12)[k % 3], view) for k, view in enumerate(views)]
    together = language_model.answers(model, asks)
    assert together == [language_model.answers(model, [ask])[0] for ask in asks]


def pictures_in(patches: torch.Tensor, grid: torch.Tensor, side: int) -> np.ndarray:
    """[T, H, W, 3] uint8: the pictures that Qwen's patches were made of."""
    t, h, w = grid.tolist()
    blocks = patches.reshape(t, h // 2, w // 2, 2, 2, 3, 2, side, side)
    frames = blocks.permute(0, 6, 1, 3, 7, 2, 4, 8, 5).reshape(2 * t, h * side, w * side, 3)
    return frames.numpy()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_frames_of_a_video_reach_the_model_in_order(name, folders, videos):
    scorer = captioner_of(name)
    language_model = scorer.language_model
    model = language_model.load(Home(folders))
    inputs = language_model.inputs(model, asks_of(scorer, videos, folders))
    side = 16 if name == "qwen3_vl" else 14
    video = model.processor.video_processor
    mean, std = (torch.tensor(values) for values in (video.image_mean, video.image_std))
    sizes = [(240, 320), (240, 320), (240, 320), (320, 280), (240, 320)]
    seen, at = [], 0
    for grid, size in zip(inputs["video_grid_thw"], sizes, strict=True):
        count = int(grid.prod())
        shown = (
            pictures_in(inputs["pixel_values_videos"][at : at + count], grid, side) * std.numpy()
            + mean.numpy()
        )
        at += count
        pictures = (shown * 255).round().clip(0, 255).astype(np.uint8)
        seen.append([footage.number_in(picture, *size) for picture in pictures])

    def evenly(count: int, number: int, first: int = 0) -> list[int]:
        return [first + round(k) for k in np.linspace(0, count - 1, number)]

    assert seen == [
        evenly(50, 8),  # 2 s at 4 frames per second
        evenly(24, 8),
        evenly(9, 4),  # 0.36 s: four at least
        evenly(30, 4, 200),
        [3, 3],  # one frame, shown twice
    ]
    merged = inputs["video_grid_thw"].prod(1) // 4
    assert (inputs["input_ids"] == model.model.config.video_token_id).sum(1).tolist() == merged.tolist()
    if name == "qwen2_5_vl":
        apart = [float(seconds) for seconds in inputs["second_per_grid_ts"]]
        assert apart == pytest.approx([2 * 2.0 / 8, 2 * 2.0 / 8, 2 * 0.36 / 4, 2 * 1.2 / 4, 2 * 0.04])
    if name == "qwen3_vl":
        said = model.words.decode(inputs["input_ids"][0])
        assert "<0.1 seconds>" in said  # the mean of the first two, at 0 and 0.28 s


@every_model
def test_it_says_what_transformers_alone_says(name, folders, videos):
    """The processor and the model of the folder, as their own documentation uses them, on the same frames."""
    scorer = captioner_of(name)
    language_model = scorer.language_model
    model = language_model.load(Home(folders))
    for ask in asks_of(scorer, videos, folders)[:3]:
        if name in FAMILIES:
            expected = qwen_alone(folders / name, name, ask)
        elif name == "pllava":
            expected = pllava_alone(folders / name, ask)
        else:
            expected = llava_alone(folders / name, ask)
        assert language_model.answers(model, [ask])[0].text == expected


def greedy(model: Any, inputs: Any, words: Any) -> str:
    made = model.eval().generate(**inputs, max_new_tokens=8, do_sample=False)
    return words.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def qwen_alone(folder: Path, family: str, ask: Ask) -> str:
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    content = [{"type": "video"}, {"type": "text", "text": ask.question}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    times = {"fps": 1000.0, "frames_indices": [round(s * 1000) for s in ask.view.seconds],
             "total_num_frames": round(ask.view.length * 1000)}  # fmt: skip
    inputs = processor(
        text=[text], videos=[np.stack(ask.view.pictures)], return_tensors="pt",
        videos_kwargs={"do_sample_frames": False, "video_metadata": [times], "do_resize": False},
    )  # fmt: skip
    return greedy(model, inputs, processor.tokenizer)


def llava_alone(folder: Path, ask: Ask) -> str:
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    text = f"USER: {'<image>' * len(ask.view.pictures)}\n{ask.question} ASSISTANT:"
    if processor.chat_template:
        text = "USER: " + "<image>\n" * len(ask.view.pictures) + f"{ask.question} ASSISTANT:"
    inputs = processor(text=[text], images=[list(ask.view.pictures)], return_tensors="pt")
    return greedy(model, inputs, processor.tokenizer)


def pllava_alone(folder: Path, ask: Ask) -> str:
    """PLLaVA's own way: LoRA as a sum of two paths, features pooled one video at a time."""
    state = load_file(folder / "model.safetensors")
    plain = {
        key.replace("language_model.base_model.model.", "language_model.").replace(".base_layer", ""): tensor
        for key, tensor in state.items()
        if ".lora_" not in key
    }
    config = transformers.LlavaConfig.from_pretrained(folder)
    model = transformers.LlavaForConditionalGeneration.from_pretrained(
        None, config=config, state_dict=plain, dtype=torch.float32
    )

    def with_lora(key: str) -> Any:
        down, up = (state[f"{key}.lora_{half}.default.weight"] for half in "AB")
        return lambda module, given, made: made + given[0] @ down.T @ up.T * (4 / 8)

    for number, layer in enumerate(model.model.language_model.layers):
        for part in ("q_proj", "v_proj"):
            key = f"language_model.base_model.model.model.layers.{number}.self_attn.{part}"
            getattr(layer.self_attn, part).register_forward_hook(with_lora(key))

    def pooled(module: Any, given: Any, made: torch.Tensor) -> torch.Tensor:
        frames, _, channels = made.shape
        volume = made.reshape(frames, 4, 4, channels).permute(3, 0, 1, 2)[None]
        return torch.nn.functional.adaptive_avg_pool3d(volume, (4, 2, 2))[0].reshape(channels, -1).T[None]

    model.model.multi_modal_projector.register_forward_hook(pooled)
    words = transformers.AutoTokenizer.from_pretrained(folder)
    pictures = transformers.AutoImageProcessor.from_pretrained(folder)
    inputs = words(f"USER: {'<image>' * 16} USER: {ask.question} ASSISTANT:", return_tensors="pt")
    inputs["pixel_values"] = pictures(list(ask.view.pictures), return_tensors="pt")["pixel_values"]
    return greedy(model, inputs, words)


def test_pooling_averages_over_areas_of_the_picture():
    features = torch.arange(2 * 4 * 16, dtype=torch.float32).reshape(
        8, 16, 1
    )  # two videos of four frames of 4x4
    made = Pooling(torch.nn.Identity(), 4, (4, 2, 2))(features)
    assert made.shape == (2, 16, 1)
    assert made[0, :4, 0].tolist() == [2.5, 4.5, 10.5, 12.5]
    assert made[1, 0, 0] == 64 + 2.5


def test_lora_is_added_by_its_weight_and_may_be_left_out():
    state = {
        "language_model.base_model.model.model.q_proj.base_layer.weight": torch.eye(2),
        "language_model.base_model.model.model.q_proj.lora_A.default.weight": torch.ones(4, 2),
        "language_model.base_model.model.model.q_proj.lora_B.default.weight": torch.ones(2, 4),
        "vision_tower.vision_model.norm.weight": torch.ones(1),
    }
    name = "language_model.model.q_proj.weight"
    assert as_llava(state, 4)[name].tolist() == [[5, 4], [4, 5]]
    assert as_llava(state, 1)[name].tolist() == [[2, 1], [1, 2]]
    assert as_llava(state, 0)[name].tolist() == [[1, 0], [0, 1]]
    assert set(as_llava(state, 4)) == {name, "vision_tower.vision_model.norm.weight"}


@pytest.mark.parametrize(
    ("height", "width", "most", "expected"),
    [
        (1080, 1920, 448 * 672, (392, 728)), (720, 1280, 448 * 672, (392, 728)), (448, 672, 448 * 672, (448, 672)),
        (100, 100, 448 * 672, (112, 112)), (20, 3000, 448 * 672, (28, 2996)), (10, 10, 448 * 672, (56, 56)),
    ],
)  # fmt: skip
def test_sizes_are_multiples_within_the_budget(height, width, most, expected):
    assert fitting(height, width, 28, most) == expected


def test_sizes_are_those_of_transformers():
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import smart_resize

    for height, width in itertools.product((120, 360, 481, 1080), (90, 640, 853, 1920)):
        ours = fitting(height, width, 28, 448 * 672)
        assert ours == smart_resize(height, width, 28, min_pixels=4 * 28 * 28, max_pixels=448 * 672)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [(257, [256]), (383, [256]), (384, [256, 384]), (600, [256, 600]), (640, [256, 512, 640]), (200, [200]),
     (1000, [256, 512, 768, 1000])],
)  # fmt: skip
def test_a_rest_of_half_a_window_is_one_of_its_own(frames, expected):
    made = windows(frames / 25, 256 / 25)
    ends = [round(end * 25) for _, end in made]
    assert ends[-1] == frames
    assert ends[:-1] == expected[:-1] or (len(made) == 1 and len(expected) == 1)
    assert len(made) == len(expected)


def test_out_of_memory_halves_the_batch_and_only_who_is_too_large_alone_fails(
    folders, videos, tmp_path, monkeypatch
):
    real = QwenVl.answers
    sizes: list[int] = []

    def answers(self: Any, model: Any, asks: Any) -> Any:
        sizes.append(len(asks))
        if len(asks) > 2 or len(asks[0].view.pictures) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, model, asks)

    monkeypatch.setattr(QwenVl, "answers", answers)
    table = write_table(tmp_path / "m.csv", [{"path": path} for path in sorted(videos.iterdir())])
    status = run_scorers(
        [str(table)],
        [captioner_of("qwen2_vl")],
        RunOptions(bs=5, pretrained_models=str(folders), max_failed=1),
    )
    rows = read_table(status.output)
    assert [row["error"] for row in rows] == ["", "", "", "", "caption_qwen2vl: gpu_oom"]
    assert all(bool(row["text"]) != bool(row["error"]) for row in rows)
    assert sizes[0] == 5


@pytest.mark.parametrize(
    ("name", "module"),
    [("qwen2_vl", "caption_qwen2vl"), ("llava", "caption_llava"), ("pllava", "caption_pllava")],
)
def test_the_programs(name, module, folders, videos, tmp_path, tool):
    table = write_table(tmp_path / "m.csv", [{"path": path} for path in sorted(videos.iterdir())])
    flags = [
        "--pretrained_models",
        folders,
        "--pretrained_model_name_or_path",
        name,
        "--max_new_tokens",
        12,
        "--bs",
        2,
    ]
    if name == "pllava":
        flags += ["--pooling_shape", 4, 2, 2]
    tool(f"captioning.{module}", table, *flags)
    rows = read_table(tmp_path / f"m_{module}.csv")
    assert all(row["text"] and not row["error"] for row in rows)
    if name != "qwen2_vl":
        return
    absolute = [folders / name if flag == name else flag for flag in flags]
    shutil.move(tmp_path / f"m_{module}.csv", tmp_path / "first.csv")
    done = tool(f"captioning.{module}", table, *absolute, "--bs", 1)
    assert (tmp_path / "first.csv").read_bytes() == (tmp_path / f"m_{module}.csv").read_bytes()
    assert "5 rows in" in done.stdout


def test_a_folder_that_is_not_there_or_of_another_family_is_refused(folders, videos, tmp_path):
    table = write_table(tmp_path / "m.csv", [{"path": videos / "c.mp4"}])

    def refused(kind: Any, folder: object) -> str:
        with pytest.raises(CallError) as error:
            scorer = kind(pretrained_model_name_or_path=str(folder))
            run_scorers([str(table)], [scorer], RunOptions(pretrained_models=str(folders)))
        return str(error.value)

    assert "hf download OWNER/nowhere" in refused(CaptionQwen2vl, "nowhere")
    assert "a model of the family llava, not qwen2_vl or" in refused(CaptionQwen2vl, "llava")
    assert "a model of the family qwen2_vl, not llava" in refused(CaptionLlava, "qwen2_vl")

    def changed(name: str) -> Path:
        return shutil.copytree(folders / "qwen2_vl", tmp_path / name)

    weights = "model.safetensors"
    state = load_file(folders / "qwen2_vl" / weights)
    save_file(dict(list(state.items())[3:]), changed("other") / weights)
    assert "weights of another architecture" in refused(CaptionQwen2vl, tmp_path / "other")
    (changed("broken") / weights).write_bytes(b"not weights")
    assert weights in refused(CaptionQwen2vl, tmp_path / "broken")
    (changed("empty") / weights).unlink()
    assert weights in refused(CaptionQwen2vl, tmp_path / "empty")
    (changed("mute") / "chat_template.jinja").unlink()
    assert "chat_template" in refused(CaptionQwen2vl, tmp_path / "mute")


def test_what_a_caption_is_known_by(folders, tmp_path):
    scorer = captioner_of("qwen2_vl")
    known = provenance(scorer, folders)
    moved = replace(scorer, pretrained_model_name_or_path=str(folders / "qwen2_vl"))
    assert provenance(moved, tmp_path) == known
    for other in (
        replace(scorer, question="Who?"), replace(scorer, prompt="short"), replace(scorer, fps=2.0),
        replace(scorer, max_new_tokens=9), replace(scorer, window_seconds=1.0), replace(scorer, lengths=("short",)),
        replace(scorer, pretrained_model_name_or_path="qwen2_5_vl"),
    ):  # fmt: skip
        assert provenance(other, folders) != known
    shutil.copytree(folders / "qwen2_vl", tmp_path / "qwen2_vl")
    (tmp_path / "qwen2_vl" / "chat_template.jinja").write_text("{{ messages }}")
    assert provenance(scorer, tmp_path) != known


def test_captions_are_rewritten_by_a_model_of_a_folder(folders, tmp_path):
    parts = json.dumps([{"start": 0, "end": 5, "text": "a dog runs"}])
    rows = [{"path": f"{k}.mp4", "text": f"the cat {k}", "windows": parts} for k in range(5)]
    table = write_table(tmp_path / "m.csv", [*rows, {"path": "x.mp4", "text": "", "windows": ""}])
    scorer = Enhance("words", max_new_tokens=6)
    options = RunOptions(pretrained_models=str(folders), max_failed=1)
    made = read_table(run_scorers([str(table)], [scorer], options).output)
    words = transformers.AutoTokenizer.from_pretrained(folders / "words")
    model = transformers.AutoModelForCausalLM.from_pretrained(folders / "words", dtype=torch.float32)
    for row in made[:5]:
        old = f"the cat {Path(row['path']).stem}"
        text = words.apply_chat_template(
            [{"role": "user", "content": scorer.asked.format(text=old)}],
            tokenize=False,
            add_generation_prompt=True,
        )
        inputs = words(text, return_tensors="pt", add_special_tokens=False)
        inputs.pop("token_type_ids", None)
        said = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert row["text"] == words.decode(said, skip_special_tokens=True).replace("\0", "").strip()
    assert made[5]["error"] == "enhance: bad_value"
    merged = run_scorers([str(table)], [Enhance("words", prompt="merge", max_new_tokens=6)], options)
    assert len({row["text"] for row in read_table(merged.output)[:5]}) == 1


def test_the_end_of_an_answer_that_goes_round_in_circles_is_found():
    for text in (
        "a dog runs. " * 9, "yes " * 9, "It is. " + "ha ha, " * 8 + "and", "no." * 16, "a" * 40, "。" * 50, "- " * 50,
        "A long street. " + "The dog goes on and on along the street at night. " * 3, "<think>A dog",
    ):  # fmt: skip
        verdict = judged(Answer(text, True))
        assert isinstance(verdict, MediaError)
        assert verdict.code == "bad_output"
    for text in (
        "A very, very, very, very long road.", "1000000000", "da da da " * 2 + "da", "A sign reads HAHAHAHAHAHAHAHA",
        "A dog. A cat. A dog. A cat. A dog. A cat.",
    ):  # fmt: skip
        assert isinstance(judged(Answer(text, False)), Answer)


def test_cells_of_windows_and_lengths():
    scorer = CaptionQwen2vl(window_seconds=2.0)
    assert [column.name for column in scorer.columns] == ["text", "windows", "text_truncated"]
    asks = [Ask("?", 9, View(start=start, end=end)) for start, end in ((0.0, 2.0), (2.0, 4.5))]
    cells = scorer.asking.cells(asks, [Answer("one", False), Answer("two", True)])
    assert isinstance(cells, tuple)
    text, cell, truncated = cells
    assert (text, truncated) == ("one two", True)
    assert json.loads(cell)[1] == {"start": 2.0, "end": 4.5, "text": "two"}
    failed = scorer.asking.cells(asks, [Answer("one", False), MediaError("bad_output")])
    assert isinstance(failed, MediaError)
    lengths = CaptionQwen2vl(lengths=("short", "long"))
    assert lengths.asking.cells(asks, [Answer("one", False), Answer("two", False)]) == ("one", "two", False)
    assert [column.name for column in lengths.columns] == ["text_short", "text_long", "text_truncated"]


def test_lengths_and_windows_exclude_each_other():
    with pytest.raises(CallError, match="one or the other"):
        CaptionQwen2vl(lengths=("short",), window_seconds=2.0)


def test_long_videos_are_answered_apart_from_short_ones(folders, videos, monkeypatch):
    assert of_like_length([10, 30_000, 20, 5_000, 16_000, 16_000]) == [[1], [4, 5], [3, 2, 0]]
    assert of_like_length([]) == []
    scorer = captioner_of("qwen2_vl")
    language_model = scorer.language_model
    model = language_model.load(Home(folders))
    asks = asks_of(scorer, videos, folders)
    together = language_model.answers(model, asks)
    monkeypatch.setattr(model_folder, "TOKENS_AT_ONCE", 1)
    assert language_model.answers(model, asks) == together
    exact = language_model.inputs(model, asks)["input_ids"] == model.model.config.video_token_id
    assert [language_model.tokens(model, ask) for ask in asks] == exact.sum(1).tolist()


class Numbers(Llava):
    """Shows of each frame its number only."""

    def picture(self, frame: Any, count: int) -> Any:
        return np.array([frame.index])


class Shown(CaptionLlava):
    """Says when its pictures are shown, and to which number they belong."""

    @property
    def language_model(self) -> Llava:
        return Numbers("")


@pytest.fixture
def irregular(monkeypatch) -> Any:
    """Makes a file whose frames begin at given times."""

    def make(path: Path, seconds: list[float]) -> Media:
        footage.numbered(path, len(seconds))
        media = Media(str(path))
        info = replace(media.info, frame_seconds=np.array(seconds), duration=seconds[-1] + 0.04)
        monkeypatch.setattr(media, "info", info)
        return media

    return make


def test_a_window_without_a_frame_of_its_own_shows_the_one_that_stands(irregular, tmp_path):
    media = irregular(tmp_path / "a.mp4", [0.0, 1.0, 2.0, 3.0, 4.0, 18.0, 19.0, 20.0])
    [asks] = prepare_together(media, [(Shown(num_frames=1, window_seconds=5.0), {"path": ""})])
    assert [[int(p[0]) for p in ask.view.pictures] for ask in asks] == [[2], [4], [4], [6]]
    assert [list(ask.view.seconds) for ask in asks] == [[2.0], [0.0], [0.0], [4.0]]
    assert [ask.view.length for ask in asks] == pytest.approx([5, 5, 5, 5.04])


def test_frames_that_begin_at_nearly_the_same_time_are_one(irregular, tmp_path):
    media = irregular(tmp_path / "a.mp4", [0.0, 0.00001, 0.5, 0.50001, 1.0, 1.00001])
    [[ask]] = prepare_together(media, [(Shown(num_frames=6), {"path": ""})])
    assert [int(picture[0]) for picture in ask.view.pictures] == [1, 3, 3, 5, 5]


def test_a_clip_of_too_many_pictures_fails_before_it_takes_all_memory(videos, folders, monkeypatch):
    monkeypatch.setattr(viewing, "MOST_BYTES", 100_000)
    scorer = captioner_of("qwen2_vl").placed(folders)
    [verdict] = prepare_together(Media(str(videos / "a.mp4")), [(scorer, {"path": ""})])
    assert isinstance(verdict, MediaError)
    assert verdict.code == "too_long"


def test_an_answer_ends_where_the_folder_or_its_tokenizer_says(folders, tmp_path, videos):
    shutil.copytree(folders / "qwen2_vl", tmp_path / "m")
    (tmp_path / "m" / "generation_config.json").unlink()
    scorer = captioner_of("qwen2_vl")
    scorer = replace(scorer, pretrained_model_name_or_path=str(tmp_path / "m"))
    language_model = scorer.language_model
    model = language_model.load(Home(tmp_path))
    model.model.generation_config.eos_token_id = None
    end = model.words.convert_tokens_to_ids("<|im_end|>")
    model.model.lm_head.weight.data[end] = 0
    ask = asks_of(scorer, videos, tmp_path)[0]
    inputs = language_model.inputs(model, [ask])
    with torch.inference_mode():
        state = model.model(**inputs, output_hidden_states=True).hidden_states[-1][0, -1]
    model.model.lm_head.weight.data[end] = state  # the likeliest by far
    [answer] = language_model.answers(model, [ask])
    assert answer == Answer("", False)


def test_a_template_that_begins_a_text_begins_it_once(folders, videos):
    scorer = captioner_of("llava")
    language_model = scorer.language_model
    model = language_model.load(Home(folders))
    model.processor.chat_template = "<s>" + model.processor.chat_template
    ids = language_model.inputs(model, asks_of(scorer, videos, folders)[:1])["input_ids"][0].tolist()
    assert ids.count(model.words.bos_token_id) == 1
