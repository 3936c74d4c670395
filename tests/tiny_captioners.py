"""Models that caption, of the real architectures, tiny and with random weights, saved as the published ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers as hugging_face
from safetensors.torch import save_file

transformers: Any = hugging_face
WORDS = (
    "a the dog cat runs walks over under hill street in rain sun and video describe detail short one sentence "
    "camera left right red blue car . , : user assistant what happens who is seen picture image"
).split()
QWEN_TOKENS = [
    "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32768,
}  # fmt: skip


def tokenizer(special: list[str], **named: str) -> Any:
    """Words as they are, and bytes for all others."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=False))
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), special_tokens=special,
        show_progress=False,
    )  # fmt: skip
    model.train_from_iterator([" ".join(WORDS)] * 20, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model, **named)


def grown(model: Any, seed: int) -> Any:
    """Random weights so large that pictures and words make a difference to what is said."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.5 * parameter[0].numel() ** -0.5)
            if "embed_tokens" in name:
                torch.nn.init.normal_(parameter, std=1.0)
    return model.float().eval()


def save_qwen(folder: Path, family: str = "qwen2_vl", seed: int = 0) -> Any:
    """A model of the Qwen-VL family; returns it."""
    words = tokenizer(QWEN_TOKENS, pad_token="<|im_end|>", eos_token="<|im_end|>")
    ids = {name: words.convert_tokens_to_ids(f"<|{name}|>") for name in (
        "im_end", "vision_start", "vision_end", "image_pad", "video_pad")}  # fmt: skip
    common = {
        "image_token_id": ids["image_pad"], "video_token_id": ids["video_pad"],
        "vision_start_token_id": ids["vision_start"], "vision_end_token_id": ids["vision_end"],
    }  # fmt: skip
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10_000.0}
    text = TEXT | {"vocab_size": len(words), "rope_parameters": rope, "rope_scaling": rope} | {
        "bos_token_id": ids["im_end"], "eos_token_id": ids["im_end"], "pad_token_id": ids["im_end"]}  # fmt: skip
    vision: dict[str, Any]
    if family == "qwen2_vl":
        vision = {
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 14,
        }
        config = transformers.Qwen2VLConfig(text_config=text, vision_config=vision, **common)
        model = transformers.Qwen2VLForConditionalGeneration(config)
        kind = transformers.Qwen2VLProcessor
    elif family == "qwen2_5_vl":
        vision = {
            "depth": 2, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 64,
            "patch_size": 14, "fullatt_block_indexes": [1],
        }  # fmt: skip
        config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **common)
        model = transformers.Qwen2_5_VLForConditionalGeneration(config)
        kind = transformers.Qwen2_5_VLProcessor
    else:
        vision = {
            "depth": 2, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 64,
            "patch_size": 16, "deepstack_visual_indexes": [0], "num_position_embeddings": 64,
        }  # fmt: skip
        rope |= {"mrope_interleaved": True}
        config = transformers.Qwen3VLConfig(
            text_config=text | {"head_dim": 8, "rope_parameters": rope, "rope_scaling": rope}, vision_config=vision,
            **common,
        )  # fmt: skip
        model = transformers.Qwen3VLForConditionalGeneration(config)
        kind = transformers.Qwen3VLProcessor
    grown(model, seed).save_pretrained(folder)
    patch = vision["patch_size"]
    image = transformers.Qwen2VLImageProcessor
    video = transformers.Qwen3VLVideoProcessor if family == "qwen3_vl" else transformers.Qwen2VLVideoProcessor
    kind(
        image(patch_size=patch), words, video(patch_size=patch), chat_template=QWEN_TEMPLATE
    ).save_pretrained(folder)
    return model


VISION: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56,
    "patch_size": 14, "projection_dim": 32,
}  # fmt: skip
LLAVA_TEMPLATE = (
    "{% for message in messages %}USER: {% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<image>\n{% else %}{{ content['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def save_llava(folder: Path, seed: int = 0, template: str | None = LLAVA_TEMPLATE) -> Any:
    """LLaVA 1.5; returns the model."""
    words = tokenizer(["<s>", "</s>", "<image>"], bos_token="<s>", eos_token="</s>")
    text = TEXT | {"vocab_size": len(words), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION), text_config=transformers.LlamaConfig(**text),
        image_token_index=words.convert_tokens_to_ids("<image>"), image_token_id=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2, vision_feature_select_strategy="default",
    )  # fmt: skip
    model = grown(transformers.LlavaForConditionalGeneration(config), seed)
    model.save_pretrained(folder)
    pictures = transformers.CLIPImageProcessor(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
    )
    transformers.LlavaProcessor(
        pictures, words, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)  # fmt: skip
    return model


TILES = [[56, 56], [56, 112], [112, 56], [112, 112]]


def save_llava_next(folder: Path, seed: int = 0) -> Any:
    """LLaVA-NeXT, which looks at parts of a picture, too; returns the model."""
    words = tokenizer(["<s>", "</s>", "<image>"], bos_token="<s>", eos_token="</s>")
    text = TEXT | {"vocab_size": len(words), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION), text_config=transformers.LlamaConfig(**text),
        image_token_index=words.convert_tokens_to_ids("<image>"), image_token_id=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2, vision_feature_select_strategy="default", image_grid_pinpoints=TILES,
    )  # fmt: skip
    model = grown(transformers.LlavaNextForConditionalGeneration(config), seed)
    model.save_pretrained(folder)
    pictures = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, image_grid_pinpoints=TILES
    )
    transformers.LlavaNextProcessor(
        pictures, words, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip
    return model


def save_llava_onevision(folder: Path, seed: int = 0) -> Any:
    """LLaVA-OneVision; returns the model."""
    words = tokenizer(["<s>", "</s>", "<image>", "<video>"], bos_token="<s>", eos_token="</s>")
    text = TEXT | {"vocab_size": len(words), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    vision = {name: value for name, value in VISION.items() if name != "projection_dim"}
    image, video = (words.convert_tokens_to_ids(f"<{kind}>") for kind in ("image", "video"))
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**vision, vision_use_head=False),
        text_config=transformers.Qwen2Config(**text), image_token_index=image, image_token_id=image,
        video_token_index=video, video_token_id=video, vision_feature_layer=-1,
        vision_feature_select_strategy="full", image_grid_pinpoints=TILES, vision_aspect_ratio="anyres_max_9",
    )  # fmt: skip
    model = grown(transformers.LlavaOnevisionForConditionalGeneration(config), seed)
    model.save_pretrained(folder)
    side = {"height": 56, "width": 56}
    transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(size=side, image_grid_pinpoints=TILES), words,
        transformers.LlavaOnevisionVideoProcessor(size=side), num_image_tokens=16,
        vision_feature_select_strategy="full", chat_template=LLAVA_TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip
    return model


def save_pllava(folder: Path, seed: int = 0) -> tuple[Any, dict[str, torch.Tensor]]:
    """A folder as PLLaVA's are, with LoRA; returns LLaVA without it, and what was saved."""
    model = save_llava(folder, seed, template=None)
    generator = torch.Generator().manual_seed(seed + 1)
    saved: dict[str, torch.Tensor] = {}
    for key, tensor in model.state_dict().items():
        old = key.removeprefix("model.")
        if not old.startswith("vision_tower.vision_model."):  # as it is called in what was published
            old = old.replace("vision_tower.", "vision_tower.vision_model.")
        if old.startswith("language_model."):
            old = old.replace("language_model.", "language_model.base_model.model.model.")
        if old.startswith("lm_head."):
            old = f"language_model.base_model.model.{old}"
        if old.endswith(("q_proj.weight", "v_proj.weight")) and "language_model" in old:
            base = old.removesuffix(".weight")
            rows, columns = tensor.shape
            saved[f"{base}.base_layer.weight"] = tensor.clone()
            saved[f"{base}.lora_A.default.weight"] = torch.randn(8, columns, generator=generator)
            saved[f"{base}.lora_B.default.weight"] = torch.randn(rows, 8, generator=generator)
            continue
        saved[old] = tensor.clone()
    save_file(saved, folder / "model.safetensors")
    words = transformers.AutoTokenizer.from_pretrained(folder)
    words.save_pretrained(folder)
    transformers.CLIPImageProcessor(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
    ).save_pretrained(folder)
    return model, saved


def save_words(folder: Path, seed: int = 0) -> Any:
    """A language model with a chat template; returns it."""
    words = tokenizer(QWEN_TOKENS, pad_token="<|im_end|>", eos_token="<|im_end|>")
    words.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    words.save_pretrained(folder)
    end = words.convert_tokens_to_ids("<|im_end|>")
    config = transformers.Qwen2Config(**TEXT, vocab_size=len(words), eos_token_id=end, pad_token_id=end)
    model = grown(transformers.Qwen2ForCausalLM(config), seed)
    model.save_pretrained(folder)
    return model
