"""Models in folders as Hugging Face has them: loaded from disk only, whole or not at all, in silence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipsheet.weights.table import refused


def load_pretrained(
    kind: Any, folder: Path, told: Mapping[str, Any], state: Mapping[str, Any] | None = None, **options: Any
) -> Any:
    """A model of one of transformers' classes; no code that lies in the folder is executed.

    Args:
        told: what its config is to say, whatever stands there.
        state: weights to be used in the place of those in the folder.
        options: of its from_pretrained().

    Raises:
        CallError: a file is missing or damaged, or holds weights of another architecture.
    """
    import transformers

    _quiet()
    config_class = getattr(kind, "config_class", transformers.AutoConfig)
    try:
        config = config_class.from_pretrained(folder, local_files_only=True)
        for name, value in told.items():
            setattr(config, name, value)
        model, report = kind.from_pretrained(
            folder if state is None else None, config=config, state_dict=state, local_files_only=True,
            use_safetensors=True, output_loading_info=True, **options,
        )  # fmt: skip
    except Exception as error:  # of transformers, tokenizers, safetensors: none has a common ancestor
        said = str(error).partition("\n")[0]
        if "ignore_mismatched_sizes" in said:
            said = "weights of another architecture than config.json says"
        raise refused(folder / "model.safetensors", f"{type(error).__name__}: {said}") from error
    lacking = [*report["missing_keys"], *report["mismatched_keys"], *report["error_msgs"]]
    if lacking:
        raise refused(
            folder / "model.safetensors",
            f"weights of another architecture than config.json says: no {lacking[0]}",
        )
    return model


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model.

    Raises:
        CallError: its files are missing or damaged.
    """
    import transformers

    return _load_beside(transformers.AutoTokenizer, folder, "tokenizer.json")


def load_processor(folder: Path) -> Any:
    """What prepares pictures, videos and texts for a model that takes several of them.

    Raises:
        CallError: its files are missing or damaged.
    """
    import transformers

    return _load_beside(transformers.AutoProcessor, folder, "preprocessor_config.json")


def load_image_processor(folder: Path) -> Any:
    """What prepares pictures for a model.

    Raises:
        CallError: its file is missing or damaged.
    """
    import transformers

    return _load_beside(transformers.AutoImageProcessor, folder, "preprocessor_config.json")


def _load_beside(kind: Any, folder: Path, file: str) -> Any:
    """What stands beside the weights; no code that lies in the folder is executed."""
    _quiet()
    try:
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # as above
        said = str(error).partition("\n")[0]
        raise refused(folder / file, f"{type(error).__name__}: {said}") from error


def _quiet() -> None:
    """Neither bars nor reports: what is wrong is an error here, and the other half of a model is not."""
    import transformers

    logging: Any = transformers.utils.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
