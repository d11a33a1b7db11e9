"""Peers are real processes here: good ones, and ones that abort, hang, print rubbish and answer out of turn."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from matrix.examples import draw
from matrix.spec import CheckpointSpec, compare, to_node
from matrix.talking import STAGED, Peer, PeerFailed, PeerLost, outcome_of, stage

SERVED = """
import ctypes, os, sys, time
from matrix.serving.protocol import serve

def noisy(request):
    print("a library says hello")
    sys.__stdout__.write("and again\\n")
    os.write(1, b"from C, too\\n")
    ctypes.CDLL(None).puts(b"and through stdio")
    return {"said": request["text"]}

def fails(request):
    raise KeyError("weight")

def exhausted(request):
    raise MemoryError()

serve({
    "noisy": noisy,
    "fails": fails,
    "exhausted": exhausted,
    "aborts": lambda request: os.abort(),
    "leaves": lambda request: os._exit(3),
    "hangs": lambda request: time.sleep(60),
    "closes": lambda request: os.closerange(3, 100) or time.sleep(60),
})
"""

BROKEN = {
    "rubbish": "print('Downloading: 100%')",
    "a list": "print([1, 2])",
    "no answer in it": "print('{\"seq\": 1}')",
    "out of step": 'print(\'{"seq": 7, "done": {}}\')',
}

Make = Callable[..., Peer]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(text: str, seconds: float = 20.0) -> Peer:
        script = tmp_path / "served.py"
        script.write_text(text, encoding="utf-8")
        return Peer("tried", command=(sys.executable, str(script)), seconds=seconds)

    return made


def test_what_libraries_print_breaks_nothing(make: Make) -> None:
    with make(SERVED) as peer:
        assert [peer.ask("noisy", text=text)["said"] for text in ("a", "b\nc", "ü")] == ["a", "b\nc", "ü"]
        assert peer.started == 1


def test_what_is_raised_is_a_typed_failure_and_no_end(make: Make) -> None:
    with make(SERVED) as peer:
        with pytest.raises(PeerFailed) as caught:
            peer.ask("fails")
        assert (caught.value.error_type, caught.value.message) == ("KeyError", "'weight'")
        assert outcome_of(caught.value, "read").kind == "refused"
        with pytest.raises(PeerFailed) as caught:
            peer.ask("exhausted")
        assert outcome_of(caught.value, "read").kind == "crashed"
        with pytest.raises(PeerFailed, match="UnknownRequest: 'sing'; expected one of aborts, closes"):
            peer.ask("sing")
        assert peer.started == 1


@pytest.mark.parametrize(
    ("do", "how", "error_type", "message", "kind"),
    [
        ("aborts", "died", "SIGABRT", "ended by SIGABRT", "crashed"),
        ("leaves", "died", "Exit", "ended with exit code 3", "crashed"),
        ("hangs", "hung", "Hang", "no answer within 1 s", "timeout"),
    ],
)
def test_a_lost_process_is_an_outcome_and_the_next_question_starts_another(
    make: Make, do: str, how: str, error_type: str, message: str, kind: str
) -> None:
    with make(SERVED, seconds=1.0) as peer:
        peer.ask("noisy", text="", seconds=20)
        with pytest.raises(PeerLost) as caught:
            peer.ask(do)
        assert (caught.value.how, caught.value.error_type, caught.value.message) == (how, error_type, message)
        assert outcome_of(caught.value, "read").to_json() == {
            "kind": kind,
            "stage": "read",
            "message": message,
            "error_type": error_type,
        }
        assert peer.ask("noisy", text="back", seconds=20) == {"said": "back"}
        assert peer.started == 2


def test_the_end_of_what_it_printed_is_kept(make: Make) -> None:
    with make("import sys; sys.exit('no such library')") as peer, pytest.raises(PeerLost) as caught:
        peer.ask("hello")
    assert "no such library" in caught.value.stderr


@pytest.mark.parametrize("name", BROKEN)
def test_an_answer_that_is_none_is_told_apart(make: Make, name: str) -> None:
    with (
        make(f"import sys; sys.stdin.readline(); {BROKEN[name]}; sys.stdout.flush(); sys.stdin.read()") as peer,
        pytest.raises(PeerLost) as caught,
    ):
        peer.ask("hello")
    expected = ("out of step", "OutOfStep") if name == "out of step" else ("rubbish", "Rubbish")
    assert (caught.value.how, caught.value.error_type) == expected
    assert outcome_of(caught.value, "read").kind == "crashed"


def test_an_interpreter_that_is_missing_is_lost_not_an_error_of_ours(tmp_path: Path) -> None:
    with Peer("tried", python=tmp_path / "none") as peer, pytest.raises(PeerLost, match="cannot be started"):
        peer.ask("hello")


def test_no_process_is_left(make: Make) -> None:
    peer = make(SERVED)
    peer.ask("noisy", text="")
    process = peer._process
    assert process is not None
    peer.close()
    assert process.poll() == 0


def test_a_peer_sees_nothing_of_this_environment_but_what_is_staged(tmp_path: Path) -> None:
    stage(tmp_path)
    staged = {path.relative_to(tmp_path / "matrix").parts[0] for path in tmp_path.rglob("*.py")}
    assert staged == {name.split("/")[0] for name in STAGED}


@pytest.fixture(scope="module")
def here() -> Peer:
    return Peer("here", python=sys.executable)


def test_this_torch_is_a_peer(here: Peer, tmp_path: Path) -> None:
    import torch

    hello = here.ask("hello")
    assert hello["versions"]["torch"] == torch.__version__
    assert {"mmap", "weights_only"} <= set(hello["features"])
    for number, content in enumerate(("plain", "shared-storage", "nan-payload", "noncontiguous", "metadata")):
        spec = draw(content, number).spec
        for format_ in ("torch-zip", "torch-legacy"):
            path = tmp_path / f"{content}-{format_}.pt"
            here.ask("write", spec=spec.to_json(), path=str(path), format=format_)
            seen = CheckpointSpec.from_json(here.ask("read", path=str(path), weights_only=True)["spec"])
            assert compare(spec, seen) == ()
    here.close()


def test_a_module_runs_at_the_other_end(here: Peer, tmp_path: Path) -> None:
    import torch

    from matrix.tensors import describe

    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout(0.5))
    inputs = [torch.ones(1, 3)]
    path = tmp_path / "whole.pt"
    torch.save(module, path)
    answer = here.ask("forward", path=str(path), inputs=describe(inputs).to_json(), weights_only=False)
    expected = [module.eval()(*inputs).detach()]
    assert compare(describe(expected), CheckpointSpec.from_json(answer["spec"])) == ()
    here.close()


def test_arrays_are_described_without_torch() -> None:
    from matrix.serving.arrays import described

    spec = CheckpointSpec.from_json(described({"a": b"\1\2", 3: [None, 0.5]}, lambda _value: None))
    assert spec.tree == to_node({"a": b"\1\2", 3: [None, 0.5]})
    shown = described({"w": ()}, lambda value: ("int16", (2, 3), bytes(12)) if value == () else None)
    ((path, tensor),) = CheckpointSpec.from_json(shown).tensors()
    assert (path, tensor.dtype, tensor.shape, tensor.stride) == ("['w']", "int16", (2, 3), (3, 1))
