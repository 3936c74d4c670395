"""Downloads from servers that break off, lie, are slow, or are not there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from clipsheet.errors import StorageError
from clipsheet.weights.load import load_state, read_metadata
from tests.conftest import REPO
from tools import download_models

BODY = bytes(range(256)) * 4096  # 1 MiB
SIZE = len(BODY)
SUM = hashlib.sha256(BODY).hexdigest()
PAGE = b"<!DOCTYPE html><title>Sign in</title>"


@dataclass
class Served:
    """What a server does, request by request, and what it was asked.

    Attributes:
        answers: one for each request, the last one for all that follow: "whole", "cut" after a half,
            "page", "other" bytes, "slow", or a status code.
        body: what "whole" is.
        ranges: the Range header of each request.
    """

    answers: list[object]
    body: bytes
    url: str = ""
    ranges: list[str | None] = field(default_factory=list)


@contextmanager
def serving(*answers, body=BODY):
    served = Served(list(answers), body)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            answer = served.answers[min(len(served.ranges), len(served.answers) - 1)]
            served.ranges.append(asked)
            if isinstance(answer, int):
                self.send_error(answer)
                return
            body = {"page": PAGE, "other": b"x" * len(BODY)}.get(answer, served.body)
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and answer != "no range" else 0
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Type", "text/html" if answer == "page" else "application/octet-stream")
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            if answer == "cut":
                self.wfile.write(body[start : (start + len(body)) // 2])
                return
            for at in range(start, len(body), 1 << 17):
                if answer == "slow":
                    time.sleep(0.1)
                self.wfile.write(body[at : at + (1 << 17)])

        def log_message(self, *_):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}/w.bin"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Place:
    """A folder, and a table of one model `net` whose file is `net/w.bin`."""

    root: Path

    @property
    def target(self):
        return self.root / "models" / "net" / "w.bin"

    def table(self, url, size=SIZE, sha256=SUM, path="net/w.bin"):
        files = [{"path": path, "url": url, "bytes": size, "sha256": sha256}]
        entry = {"name": "net", "about": "a net", "columns": ["aes"], "licence": "MIT", "files": files}
        (self.root / "table.yaml").write_text(json.dumps([entry]))
        return self

    def start(self, *arguments):
        """The program as a user starts it, but with shorter pauses between tries."""
        code = "import tools.download_models as d; d.PAUSE_SECONDS = 0.01; d.main()"
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments, "--to", str(self.root / "models")],
            cwd=REPO, env={**os.environ, "CLIPSHEET_WEIGHTS": str(self.root / "table.yaml"), "no_proxy": "*"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *arguments, code=0):
        process = self.start(*arguments)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
        return out, err

    def files(self):
        return sorted(p.name for p in self.root.rglob("models/**/*") if p.is_file() and p.name != ".lock")


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def error_of(err):
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert err.endswith(line + "\n") and "Traceback" not in err
    return line


def test_a_file_is_brought_once(place):
    with serving("whole") as server:
        out, _ = place.table(server.url).run("net")
        assert out == f"{place.target}\n"
        assert place.target.read_bytes() == BODY and place.files() == ["w.bin"]
        place.run("net")
        place.run("--all")
        assert len(server.ranges) == 1


def test_a_cut_transfer_goes_on_where_it_ended(place):
    with serving("cut", "cut", "whole") as server:
        _, err = place.table(server.url).run("net")
    half = len(BODY) // 2
    assert server.ranges == [None, f"bytes={half}-", f"bytes={half + half // 2}-"]
    assert place.target.read_bytes() == BODY and place.files() == ["w.bin"]
    assert f"the transfer ended after {half:,} of {len(BODY):,} bytes; trying again" in err


def test_a_transfer_that_is_always_cut_leaves_no_file_and_the_next_run_goes_on(place):
    with serving("cut") as server:
        line = error_of(place.table(server.url).run("net", code=2)[1])
        assert line.startswith(f"error: {server.url}: the transfer ended after ")
        assert f"put it at {place.target}, {len(BODY):,} bytes, sha256 {SUM}" in line
        assert len(server.ranges) == download_models.TRIES
    assert place.files() == [".w.bin.part"]
    with serving("whole") as server:
        place.table(server.url).run("net")
        assert server.ranges == [f"bytes={len(BODY) - (len(BODY) >> download_models.TRIES)}-"]
    assert place.target.read_bytes() == BODY and place.files() == ["w.bin"]


def test_a_server_without_ranges_begins_again(place):
    with serving("cut", "no range") as server:
        place.table(server.url).run("net")
    assert place.target.read_bytes() == BODY


def test_more_than_there_is_begins_again(place):
    place.target.parent.mkdir(parents=True)
    place.target.with_name(".w.bin.part").write_bytes(b"y" * (len(BODY) + 5))
    with serving("whole") as server:
        place.table(server.url).run("net")
        assert server.ranges == [f"bytes={len(BODY) + 5}-", None]
    assert place.target.read_bytes() == BODY


def test_a_spoilt_beginning_is_thrown_away(place):
    place.target.parent.mkdir(parents=True)
    place.target.with_name(".w.bin.part").write_bytes(b"y" * 100)
    with serving("whole") as server:
        place.table(server.url).run("net")
        assert server.ranges == ["bytes=100-", None]
    assert place.target.read_bytes() == BODY


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("page", "the server sent a web page in place of the file"),
        ("other", f"its sha256 is {hashlib.sha256(b'x' * len(BODY)).hexdigest()}, published is {SUM}"),
        (503, "the server says 503 Service Unavailable"),
    ],
)
def test_a_wrong_answer_is_asked_again_and_never_kept(place, answer, said):
    with serving(answer, "whole") as server:
        place.table(server.url).run("net")
    assert place.target.read_bytes() == BODY
    place.target.write_bytes(b"what stood there")
    with serving(answer) as server:
        line = error_of(place.table(server.url).run("net", code=2)[1])
        assert len(server.ranges) == download_models.TRIES
    assert line.startswith(f"error: {server.url}: {said}; fetch it elsewhere and put it at {place.target}")
    assert place.target.read_bytes() == b"what stood there" and place.files() == ["w.bin"]


def test_a_page_is_refused_even_without_a_published_sum(place):
    with serving("page") as server:
        error_of(place.table(server.url, None, None).run("net", code=2)[1])
    assert place.files() == []


def test_without_a_published_sum_a_whole_file_is_taken_with_a_warning(place):
    with serving("cut", "whole") as server:
        _, err = place.table(server.url, None, None).run("net")
        assert server.ranges == [None, None]  # two halves might not be of one version
    assert place.target.read_bytes() == BODY and "no published sha256" in err
    out, _ = place.run("net", "--check")
    assert out == f"ok {place.target} (no published sha256 to compare with)\n"


def test_absent_from_the_server_is_said_at_once(place):
    with serving(404) as server:
        line = error_of(place.table(server.url).run("net", code=2)[1])
        assert "the server says 404 Not Found" in line and len(server.ranges) == 1


@pytest.mark.parametrize("host", ["nobody", "no.such.host.invalid"])
def test_offline_is_one_line_that_says_what_to_put_where(place, nobody, host):
    host = nobody if host == "nobody" else host
    _, err = place.table(f"http://{host}/w.bin").run("net", code=2)
    assert re.fullmatch(
        rf"error: http://{host}/w\.bin: cannot be reached \(.*\); fetch it elsewhere and put it at "
        rf"{place.target}, 1,048,576 bytes, sha256 {SUM}, then python -m tools\.download_models net --check\n", err,
    )  # fmt: skip


def test_two_processes_download_once(place):
    with serving("slow") as server:
        place.table(server.url)
        both = [place.start("net") for _ in range(2)]
        said = [process.communicate(timeout=60) for process in both]
        assert [process.returncode for process in both] == [0, 0]
        assert server.ranges == [None]
    assert place.target.read_bytes() == BODY and place.files() == ["w.bin"]
    assert sum("another download is writing" in err for _, err in said) == 1


def test_a_killed_download_leaves_nothing_under_the_name(place):
    with serving("slow", "whole") as server:
        process = place.table(server.url).start("net")
        part = place.target.with_name(".w.bin.part")
        while not part.exists() and process.poll() is None:
            time.sleep(0.01)
        assert process.poll() is None
        process.kill()
        process.communicate()
        assert not place.target.exists()
        place.run("net")
    assert place.target.read_bytes() == BODY and place.files() == ["w.bin"]


def test_a_wrong_file_is_set_aside(place):
    place.target.parent.mkdir(parents=True)
    place.target.write_bytes(BODY[:-1])
    with serving("whole") as server:
        _, err = place.table(server.url).run("net")
    assert place.target.read_bytes() == BODY and place.files() == ["w.bin", "w.bin.wrong"]
    assert "1,048,575 bytes where 1,048,576 are published; it is now w.bin.wrong" in err


def test_check_says_what_is_missing_and_what_is_wrong(place):
    place.table("http://127.0.0.1/")
    out, _ = place.run("net", "--check", code=2)
    assert out == f"missing {place.target}: python -m tools.download_models net\n"
    assert place.run("--check")[0] == ""  # without a name: of what is there
    place.target.parent.mkdir(parents=True)
    place.target.write_bytes(BODY)
    assert place.run("net", "--check")[0] == f"ok {place.target}\n"
    place.target.write_bytes(BODY[:-1] + b"x")
    out, _ = place.run("--check", code=2)
    assert out.startswith(f"wrong {place.target}: its sha256 is ") and place.files() == ["w.bin"]


def test_no_name_lists_and_an_unknown_name_is_refused(place):
    out, _ = place.table("http://127.0.0.1/").run()
    assert re.match(r"net +1\.0 MB +a net\n", out)
    assert error_of(place.run("nett", code=2)[1]) == "error: no model 'nett' is known; known are net"


def test_a_folder_that_cannot_be_written(place):
    (place.root / "models").write_text("a file")
    with serving("whole") as server:
        line = error_of(place.table(server.url).run("net", code=5)[1])
    assert line.startswith(f"error: cannot write {place.root}/models: ")


def test_a_full_disk(place):
    folder = place.root / "models"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here; the next test stands in")
    try:
        with serving("whole") as server:
            line = error_of(place.table(server.url).run("net", code=5)[1])
            _, err = place.table(server.url, None, None).run("net", code=5)
        assert line.startswith("error: cannot write ") and "bytes are needed" in line
        assert "cannot write" in error_of(err)
        assert not place.target.exists()
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_while_it_is_written(place, monkeypatch):
    class Full:
        """A file on a full disk."""

        def __init__(self, path, mode):
            self._file = open(path, mode)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._file.close()

        def truncate(self, size):
            self._file.truncate(size)

        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def opened(path, mode="r"):
        return Full(path, mode) if str(path).endswith(".part") else open(path, mode)

    with serving("whole") as server:
        monkeypatch.setenv("CLIPSHEET_WEIGHTS", str(place.root / "table.yaml"))
        monkeypatch.setattr(download_models, "open", opened, raising=False)
        place.table(server.url)
        with pytest.raises(StorageError, match="No space left on device"):
            download_models.download(download_models.table()["net"], place.root / "models")
    assert not place.target.exists()


@pytest.fixture
def foreign(place):
    """A pickle of tensors that is converted after its download: its bytes, its place in the table, its target."""
    torch.save({"w": torch.arange(4.0)}, place.root / "w.bin")
    data = (place.root / "w.bin").read_bytes()
    return data, (len(data), hashlib.sha256(data).hexdigest(), "net/pytorch_model.bin")


def test_a_foreign_file_is_converted_after_its_download_and_not_needed_again(place, foreign):
    data, published = foreign
    original, target = (place.target.with_name(n) for n in ("pytorch_model.bin", "model.safetensors"))
    with serving("whole", body=data) as server:
        out, _ = place.table(server.url, *published).run("net")
        assert out == f"{original}\n{target}: 1 tensors, {target.stat().st_size:,} bytes\n"
        assert load_state(target)["w"].tolist() == [0, 1, 2, 3]
        assert read_metadata(target)["original_sha256"] == published[1]
        assert place.run("net", "--check")[0] == f"ok {original}\n"
        original.unlink()
        assert place.run("net")[0] == "" and place.files() == ["model.safetensors"]
        assert place.run("--check")[0] == f"ok {target}\n"
        assert re.match(r"net +\S+ kB +there ", place.run()[0])
        assert len(server.ranges) == 1


def test_a_foreign_file_that_was_put_there_by_hand_is_converted_without_a_network(place, foreign, nobody):
    data, published = foreign
    original, target = (place.target.with_name(n) for n in ("pytorch_model.bin", "model.safetensors"))
    line = error_of(place.table(f"http://{nobody}/w.bin", *published).run("net", code=2)[1])
    assert line.endswith(f"sha256 {published[1]}, then python -m tools.download_models net")
    original.write_bytes(data)
    out, _ = place.run("net", "--check", code=2)
    assert out == f"not converted {original}: python -m tools.convert {original}\n"
    assert place.run("net")[0].startswith(f"{target}: 1 tensors, ")


def test_what_was_converted_from_another_file_is_converted_again(place, foreign):
    data, published = foreign
    target = place.target.with_name("model.safetensors")
    target.parent.mkdir(parents=True)
    save_file({"w": torch.zeros(1)}, target, {"original_sha256": "0" * 64})
    with serving("whole", body=data) as server:
        place.table(server.url, *published).run("net")
    assert load_state(target)["w"].tolist() == [0, 1, 2, 3]


def test_the_folders_readme_is_the_table(tool, published_table):
    said = tool("tools.download_models", "--readme").stdout
    assert (REPO / "pretrained_models" / "README.md").read_text() == said
