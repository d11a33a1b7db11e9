"""Checkpoints behind URLs: a real HTTP server on this machine, with ranges and with faults, and two real processes."""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

import compat
from compat import schemes
from compat.errors import Corrupt, MissingDependency, Unreadable
from compat.remote import cache_folder

pytest.importorskip("aiohttp", reason="reading URLs needs fsspec[http]")


@dataclass
class Served:
    """What a server gives, and what it was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)
    fault: Callable[[int], str | None] = lambda _number: None
    ranges: bool = True
    over: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("COMPAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("compat.remote._PAUSE", 0.0)
    monkeypatch.setattr("compat.remote._SILENCE", 0.5)
    state = Served()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.respond(body=False)

        def do_GET(self) -> None:
            self.respond(body=True)

        def respond(self, *, body: bool) -> None:
            content = state.files.get(self.path.partition("?")[0].lstrip("/"))
            fault = state.fault(len(state.asked)) if body else None
            if content is None or fault == "500":
                self.send_response(404 if content is None else 500)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            start, end = 0, len(content)
            if asked and state.ranges:
                start, end = int(asked[1]), min(int(asked[2] or len(content) - 1) + 1, len(content))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
            else:
                self.send_response(200)
            if state.ranges:
                self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(end - start))
            self.end_headers()
            if body:
                state.asked.append((self.path, end - start))
                if fault == "broken":
                    self.wfile.write(content[start : (start + end) // 2])
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                if fault == "silent":
                    state.over.wait(30)
                self.wfile.write(content[start:end])

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    state.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def large(tmp_path: Path, format_: str = "torch-zip") -> tuple[bytes, dict[str, torch.Tensor]]:
    tensors = {f"layer{n}": torch.arange(300_000, dtype=torch.float32) + n for n in range(4)}
    compat.save(tensors, tmp_path / "large", format=format_)
    return (tmp_path / "large").read_bytes(), tensors


@pytest.mark.parametrize("format_", ["torch-zip", "safetensors"])
def test_inspecting_reads_ranges_only(format_: str, served: Served, tmp_path: Path) -> None:
    content, tensors = large(tmp_path, format_)
    served.files["m.pt"] = content
    with compat.open(f"{served.url}/m.pt") as checkpoint:
        assert checkpoint.format == format_
        assert list(checkpoint.tensors) == list(tensors)
        assert sum(size for _, size in served.asked) < len(content) / 10
        record = checkpoint.tensors["layer2"]
        assert record.storage.data is not None
        read = b"".join(bytes(piece) for piece in record.storage.data.chunks())
    assert read == tensors["layer2"].numpy().tobytes()
    assert sum(size for _, size in served.asked) < len(content) / 2
    assert not cache_folder().exists()


def test_loading_downloads_once(served: Served, tmp_path: Path) -> None:
    content, tensors = large(tmp_path)
    served.files["m.pt"] = content
    seen: list[tuple[int, int | None]] = []
    path = compat.download(f"{served.url}/m.pt", progress=lambda done, size: seen.append((done, size)))
    assert path.read_bytes() == content
    assert seen[-1] == (len(content), len(content))
    assert len(seen) > 1
    asked = len(served.asked)
    loaded = compat.load(f"{served.url}/m.pt")
    assert len(served.asked) == asked
    assert all(loaded[name].numpy().tobytes() == tensor.numpy().tobytes() for name, tensor in tensors.items())
    assert [entry.name for entry in cache_folder().iterdir()] == [path.name]


@pytest.mark.parametrize("fault", ["broken", "500"])
def test_a_broken_connection_is_tried_again(fault: str, served: Served, tmp_path: Path) -> None:
    content, _ = large(tmp_path)
    served.files["m.pt"] = content
    failed = iter([fault, fault])
    served.fault = lambda _number: next(failed, None)
    assert compat.download(f"{served.url}/m.pt").read_bytes() == content


def test_a_connection_that_always_breaks_leaves_nothing(served: Served, tmp_path: Path) -> None:
    served.files["m.pt"], _ = large(tmp_path)
    served.fault = lambda _number: "broken"
    with pytest.raises(Unreadable, match=r"cannot be fetched.*Tried 4 times"):
        compat.load(f"{served.url}/m.pt")
    assert list(cache_folder().iterdir()) == []


def test_a_server_that_falls_silent_is_given_up(served: Served, tmp_path: Path) -> None:
    served.files["m.pt"], _ = large(tmp_path)
    served.fault = lambda _number: "silent"
    with pytest.raises(Unreadable, match="cannot be fetched"):
        compat.load(f"{served.url}/m.pt")


def test_a_server_without_ranges_gives_the_whole(served: Served, tmp_path: Path) -> None:
    content, _ = large(tmp_path)
    served.files["m.pt"] = content
    served.ranges = False
    assert compat.download(f"{served.url}/m.pt").read_bytes() == content
    with pytest.raises(Unreadable, match="is not served in ranges"):
        compat.open(f"{served.url}/m.pt")


def test_what_is_not_there_says_so(served: Served) -> None:
    for ask in (compat.open, compat.load):
        with pytest.raises(Unreadable, match=r"/nothing\.pt: does not exist"):
            ask(f"{served.url}/nothing.pt")


def test_a_hash_in_the_name_is_checked(served: Served, tmp_path: Path) -> None:
    content, _ = large(tmp_path)
    right = f"m-{hashlib.sha256(content).hexdigest()[:8]}.pt"
    served.files |= {right: content, "m-00000000.pt": content}
    assert compat.download(f"{served.url}/{right}").exists()
    with pytest.raises(Corrupt, match="begins with 00000000"):
        compat.download(f"{served.url}/m-00000000.pt")
    assert len(list(cache_folder().iterdir())) == 1


def test_shards_lie_beside_their_index(served: Served, tmp_path: Path) -> None:
    compat.save({"a": torch.ones(2)}, tmp_path / "m.safetensors.index.json")
    served.files |= {f"v1/{path.name}": path.read_bytes() for path in tmp_path.glob("m*")}
    with compat.open(f"{served.url}/v1/m.safetensors.index.json") as checkpoint:
        assert list(checkpoint.tensors) == ["a"]
    out = tmp_path / "out.pt"
    compat.convert(f"{served.url}/v1/m.safetensors.index.json", out)
    assert compat.load(out)["a"].tolist() == [1.0, 1.0]


def test_the_longest_prefix_decides(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemes, "_RESOLVERS", dict(schemes._RESOLVERS))
    served.files["zoo/a.pt"], tensors = large(tmp_path)
    table = {"zoo://a": f"{served.url}/zoo/a.pt"}
    compat.register_scheme("zoo://", lambda name: table[name])
    compat.register_scheme("zoo://local/", lambda name: str(tmp_path / name.removeprefix("zoo://local/")))
    assert list(compat.load("zoo://a")) == list(tensors)
    assert list(compat.load("zoo://local/large")) == list(tensors)
    with pytest.raises(Unreadable, match="is not known to zoo://"):
        compat.load("zoo://b")
    compat.register_scheme("loop://", lambda name: name.replace("loop://", "pool://"))
    compat.register_scheme("pool://", lambda name: name.replace("pool://", "loop://"))
    with pytest.raises(Unreadable, match="from name to name"):
        compat.load("loop://a")
    with pytest.raises(ValueError, match="is no scheme"):
        compat.register_scheme("zoo", str)


def test_fsspec_protocols_and_file_urls_are_read(tmp_path: Path, served: Served) -> None:
    del served
    import fsspec  # type: ignore[import-untyped]  # it has no types

    content, tensors = large(tmp_path)
    with fsspec.open("memory://bucket/m.pt", "wb") as file:
        file.write(content)
    for name in ("memory://bucket/m.pt", f"file://{tmp_path}/large"):
        assert list(compat.load(name)) == list(tensors)
        with compat.open(name) as checkpoint:
            assert list(checkpoint.tensors) == list(tensors)
    with pytest.raises(Unreadable, match="cannot be opened"):
        compat.open("nosuch://bucket/m.pt")


def test_names_of_hubs_become_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    assert schemes.resolve("hf://a/b/c/d.safetensors") == "https://huggingface.co/a/b/resolve/main/c/d.safetensors"
    assert schemes.resolve("hf://a/b@v1/d.pt") == "https://huggingface.co/a/b/resolve/v1/d.pt"
    with pytest.raises(Unreadable, match="expected hf://"):
        schemes.resolve("hf://a")
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(MissingDependency, match="torchvision"):
        schemes.resolve("torchvision://resnet18")
    assert not schemes.is_url("C:\\models\\m.pt")


JOB = """
import os, sys
import torch.distributed as dist
import compat
from compat import remote
rank, store, url = int(sys.argv[1]), sys.argv[2], sys.argv[3]
remote._PAUSE = 0.0
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
try:
    print("loaded", list(compat.load(url)))
except compat.CompatError as error:
    print("refused", str(error).splitlines()[0])
dist.destroy_process_group()
"""


def job(url: str, tmp_path: Path) -> list[str]:
    """What two real processes of one job say."""
    (tmp_path / "store").unlink(missing_ok=True)
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {key: value for key, value in os.environ.items() if key != "LOCAL_RANK"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", JOB, str(rank), str(tmp_path / "store"), url], env=environment, **options
        )
        for rank in range(2)
    ]
    said = [worker.communicate(timeout=240) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    return [out.strip() for out, _ in said]


def test_one_process_of_a_job_downloads(served: Served, tmp_path: Path) -> None:
    content, tensors = large(tmp_path)
    served.files["m.pt"] = content
    assert job(f"{served.url}/m.pt", tmp_path) == [f"loaded {list(tensors)}"] * 2
    assert sum(size for _, size in served.asked) == len(content)


def test_a_failing_first_process_does_not_hang_the_others(served: Served, tmp_path: Path) -> None:
    first, second = job(f"{served.url}/nothing.pt", tmp_path)
    assert "does not exist" in first
    assert "could not be fetched by the process that was to do it" in second
