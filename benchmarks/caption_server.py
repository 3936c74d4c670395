"""caption_api from end to end against a server that runs a model: python -m benchmarks.caption_server

`transformers serve` (pip install "transformers[serving]") serves a tiny Qwen2-VL with random weights on 127.0.0.1;
clips are captioned by it, and each caption is compared with what the same model says here to the same pictures.
`--base URL --model NAME` takes a server that runs already, such as vLLM's, and compares nothing.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks import _clips
from benchmarks._measure import machine
from captioning.answers import judged
from captioning.caption_api import CaptionApi
from captioning.models.language_model import Answer, Ask
from clipsheet.engine.run import run_scorers
from clipsheet.engine.sample import prepare_together
from clipsheet.media import Media
from clipsheet.options import RunOptions
from clipsheet.tables.read import read
from tests import tiny_captioners

TOKENS = 12
START_SECONDS = 120.0


def serve(folder: Path, stack: ExitStack) -> str:
    """Start a server for the model in a folder; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    flags = ("--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32")
    running = subprocess.Popen(
        [program, "serve", folder, *flags],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stderr=subprocess.DEVNULL,
    )
    stack.callback(running.wait)
    stack.callback(running.terminate)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and running.poll() is None:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return f"http://127.0.0.1:{port}/v1"
        time.sleep(0.5)
    raise SystemExit('the server did not start; is it installed? pip install "transformers[serving]"')


def alone(model: Any, processor: Any, ask: Ask) -> str:
    """What the model says to the pictures of a question, without a server."""
    images = [Image.open(io.BytesIO(base64.b64decode(picture))) for picture in ask.view.pictures]
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": ask.question}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    inputs = processor(text=[text], images=images, return_tensors="pt")
    said = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    answer = judged(Answer(processor.decode(said, skip_special_tokens=True), False), ask.question)
    return answer.text if isinstance(answer, Answer) else ""


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=24, metavar="N", help="default 24")
    parser.add_argument("--base", default="", help="of a server that runs already")
    parser.add_argument("--model", default="", help="which it knows by that name")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        paths = _clips.make(folder, given.clips)
        model: Any = None if given.base else tiny_captioners.save_qwen(folder / "model")
        scorer = CaptionApi(
            api_base=given.base or serve(folder / "model", stack), model=given.model or str(folder / "model"),
            num_frames=4, shorter_size=112 if model else 448, max_new_tokens=TOKENS if model else 200, concurrency=4,
        )  # fmt: skip
        began = time.perf_counter()
        status = run_scorers(
            [_clips.table(folder / "clips.csv", paths)], [scorer], RunOptions(max_failed=1.0)
        )
        seconds = time.perf_counter() - began
        print(f"caption_server: {status.line()}")
        print(f"{given.clips / seconds:.1f} clips/s, the start included")
        if model is not None:
            import transformers

            kind: Any = transformers.AutoProcessor
            processor = kind.from_pretrained(folder / "model")
            rows = read([str(status.output)], ("path", "text"))
            asks = [prepare_together(Media(path), [(scorer, {"path": path})])[0][0] for path in rows["path"]]
            same = sum(
                alone(model, processor, ask) == text for ask, text in zip(asks, rows["text"], strict=True)
            )
            captions = sum(text != "" for text in rows["text"])
            words = "what the model says to the same pictures without a server"
            print(f"{same} of {len(rows)} answers are {words}; {captions} of them are captions")
    machine()


if __name__ == "__main__":
    main()
