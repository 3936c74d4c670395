"""Models of the real architectures, tiny and with random weights, saved as the published ones are."""

from __future__ import annotations

import shutil
import warnings
from importlib.metadata import files
from pathlib import Path
from typing import Any

import torch
import torchvision.models
import transformers
from safetensors.torch import save_file

from scoring.lpips.scorer import BACKBONES
from tests import tiny_captioners
from tools.convert.formats import convert
from tools.convert.openai_clip import from_openai, openai_config, openai_tokenizer

BUILDERS = {
    "alex": torchvision.models.alexnet,
    "vgg": torchvision.models.vgg16,
    "squeeze": torchvision.models.squeezenet1_1,
}
SIZE, PATCH, WIDTH, JOINT = 64, 16, 128, 512
[VOCABULARY] = [
    Path(str(f.locate())) for f in files("clip-anytorch") or [] if f.name == "bpe_simple_vocab_16e6.txt.gz"
]


def reference(seed: int = 0, joint: int = JOINT) -> Any:
    """OpenAI's own model, tiny, with random weights of a trained model's size."""
    from clip.model import CLIP

    torch.manual_seed(seed)
    model = CLIP(joint, SIZE, 3, WIDTH, PATCH, 77, 49408, 64, 1, 2)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return model.float().eval()


def save_openai(model: Any, path: Path) -> None:
    """As OpenAI publishes its models: a TorchScript archive."""
    image, text = torch.zeros(1, 3, SIZE, SIZE), torch.zeros(1, 77, dtype=torch.int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and still what is published
        torch.jit.trace(model, (image, text), check_trace=False).save(str(path))


def save_hugging_face(model: Any, folder: Path) -> None:
    """As transformers keeps its models: a folder with config, weights and tokenizer."""
    config = openai_config(model.state_dict())
    theirs = transformers.CLIPModel(
        transformers.CLIPConfig(
            vision_config=config["vision_config"],
            text_config=config["text_config"],
            projection_dim=config["projection_dim"],
        )
    )
    theirs.load_state_dict(dict(from_openai(model.state_dict())), strict=False)
    theirs.save_pretrained(folder)
    openai_tokenizer(VOCABULARY).save_pretrained(folder)


def make(folder: Path) -> None:
    """Weights in a folder: tiny/ as Hugging Face has them, openai/ converted from OpenAI's, and heads for both."""
    model = reference()
    save_openai(model, folder / "openai.pt")
    shutil.copy(VOCABULARY, folder)
    convert(folder / "openai.pt")
    save_hugging_face(model, folder / "tiny")
    torch.manual_seed(3)
    predictor = aesthetic_predictor(JOINT)
    torch.save({f"layers.{k}": v for k, v in predictor.state_dict().items()}, folder / "head.pth")
    nsfw_state_saved(folder / "nsfw.safetensors")
    save_backbone(folder, "squeeze")
    tiny_captioners.save_qwen(folder / "qwen")
    tiny_captioners.save_llava(folder / "llava")
    tiny_captioners.save_pllava(folder / "pllava")


def aesthetic_predictor(dimensions: int) -> torch.nn.Sequential:
    """The published architecture: github.com/christophschuhmann/improved-aesthetic-predictor."""
    nn = torch.nn
    return nn.Sequential(
        nn.Linear(dimensions, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2),
        nn.Linear(128, 64), nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1),
    ).eval()  # fmt: skip


def nsfw_state_saved(path: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(4)
    sides = {0: (32, JOINT), 2: (32, 32), 4: (1, 32)}
    state = {"mean": torch.randn(JOINT) / 9, "variance": torch.rand(JOINT) / 9 + 0.01}
    for layer, (rows, columns) in sides.items():
        state |= {
            f"{layer}.weight": torch.randn(rows, columns) * columns**-0.5,
            f"{layer}.bias": torch.randn(rows),
        }
    save_file(state, path)
    return state


def random_backbone(net: str) -> Any:
    """torchvision's model with random features that keep their size through the layers.

    Of the classifier, a gigabyte that nobody reads, there is nothing but shapes.
    """
    with torch.device("meta"):
        model = BUILDERS[net](weights=None)
    model.features.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.features.named_parameters():
        fan_in = tensor[0].numel()
        spread = (2 / fan_in) ** 0.5 if name.endswith("weight") else 0.1
        torch.nn.init.normal_(tensor, 0, spread, generator=generator)
    return model.eval()


def save_backbone(folder: Path, net: str) -> Path:
    """The state of random_backbone() as the file that a user downloads, its classifier cut short."""
    state = random_backbone(net).state_dict()
    state = {key: torch.ones(2) if tensor.is_meta else tensor for key, tensor in state.items()}
    path = folder / BACKBONES[net]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path
