"""Models in folders as Hugging Face has them: loaded from disk only, whole or not at all, in silence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.weights import refused


def load_pretrained(kind: Any, folder: Path, told: Mapping[str, Any], **options: Any) -> Any:
    """A model of one of transformers' classes; no code that lies in the folder is executed.

    Args:
        told: what its config is to say, whatever stands there.
        options: of its from_pretrained().

    Raises:
        CallError: a file is missing or damaged, or holds weights of another architecture.
    """
    _quiet()
    try:
        config = kind.config_class.from_pretrained(folder, local_files_only=True)
        for name, value in told.items():
            setattr(config, name, value)
        model, report = kind.from_pretrained(
            folder, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True,
            **options,
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

    _quiet()
    try:
        return transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # as above
        said = str(error).partition("\n")[0]
        raise refused(folder / "tokenizer.json", f"{type(error).__name__}: {said}") from error


def _quiet() -> None:
    """Neither bars nor reports: what is wrong is an error here, and the other half of a model is not."""
    import transformers

    logging: Any = transformers.utils.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
