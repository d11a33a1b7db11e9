"""A run from its settings to its report: what passes, what fails, what is shrunk, what is given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from matrix import examples
from matrix.implementations import IMPLEMENTATIONS
from matrix.outcomes import Expectation, Outcome
from matrix.report import Report
from matrix.runner import Run, Settings, Tally, make_axes, with_healed
from tests.miniatures import MINIATURES

REAL = Path(__file__).parents[3] / "shared" / "real"


def run(tmp_path: Path, *patterns: str, **options: object) -> Report:
    Run(Settings(profile="quick", patterns=patterns, out=tmp_path, **options)).execute()  # type: ignore[arg-type]  # as the command passes them
    return Report.read(tmp_path / "report.jsonl")


def test_a_run_of_selected_cells_passes_and_says_what_it_left_out(tmp_path: Path) -> None:
    report = run(tmp_path, "roundtrip:torch-zip:torch>compat:wo:plain", "inert:torch-zip:torch>compat:wo:*")
    assert {cell.verdict for cell in report.cells} == {"as-expected"}
    assert report.footer["not_run"] > 1000
    assert report.header["versions"]["torch"] == torch.__version__.split("+")[0]


def test_the_same_seed_draws_the_same_examples() -> None:
    for content in examples.contents():
        if not content.startswith(examples.MODULE_PREFIX):
            assert examples.draw(content, 5).spec == examples.draw(content, 5).spec
    assert examples.draw("plain", 5).spec != examples.draw("plain", 6).spec


def test_a_failing_cell_leaves_the_smallest_example_and_a_script(tmp_path: Path) -> None:
    broken = {**IMPLEMENTATIONS, "compat": MINIATURES["upcasts_bfloat16"].implementation}
    report = run(tmp_path, "roundtrip:torch-zip:torch>compat:wo:dtype-bfloat16", implementations=broken)
    (cell,) = report.failed
    assert cell.verdict == "broken"
    assert cell.failure is not None
    assert cell.failure["shrunk"]
    storages = cell.failure["example"]["storages"]
    assert sum(len(storage["data"]) for storage in storages) < 200
    script = Path(cell.failure["reproducer"])
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "the same", "the defect is in the miniature, not in what the script calls"


@pytest.mark.parametrize(
    "content", ["plain", "shared-storage", "conj", "neg", "extras-python", "odd-keys", "parameters"]
)
def test_a_reproducer_runs_and_shows_the_state(content: str, tmp_path: Path) -> None:
    from matrix.cells import Cell
    from matrix.reproduce import script

    cell = Cell.make(
        make_axes(),
        "roundtrip",
        format="torch-zip",
        writer="torch",
        reader="torch",
        weights_only="full",
        content=content,
    )
    text = script(examples.draw(content, 1).spec, cell, suffix=".pt", expected='ok """', seen="x\ny")
    path = tmp_path / "script.py"
    path.write_text(text, encoding="utf-8")
    done = subprocess.run([sys.executable, "-W", "ignore", str(path)], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["the same"], done.stderr[-2000:]


def test_a_known_mismatch_that_happens_nowhere_is_healed() -> None:
    order = Expectation(kind="mismatch", source="known:order", facets=frozenset({"key-order"}))
    seen, unseen = Outcome(kind="mismatch", facets=("key-order",)), Outcome(kind="ok")

    def tally(*outcomes: Outcome) -> Tally:
        made = Tally(cell=None, expect=lambda *_: order)  # type: ignore[arg-type]  # not looked at here
        made.judged = [(outcome, order) for outcome in outcomes]
        return made

    assert [v.name for _, v in with_healed([tally(unseen), tally(unseen, seen)])] == ["as-expected", "known"]
    assert [v.name for _, v in with_healed([tally(unseen), tally(unseen)])] == ["healed", "healed"]


def test_the_budget_ends_a_content_after_one_example(tmp_path: Path) -> None:
    made = Run(Settings(patterns=("roundtrip:torch-zip:torch>compat:wo:plain",), out=tmp_path))
    (tally,) = made.content("plain", list(made.cells), 50, -1.0)
    assert len(tally.judged) == 1


def factory() -> torch.nn.Module:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(4, 3)
            self.norm = torch.nn.BatchNorm1d(3)
            self.head = torch.nn.Linear(3, 4, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, index: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.head(self.norm(self.embed(index)))
            return made

        def example_inputs(self) -> tuple[torch.Tensor]:
            return (torch.tensor([0, 1, 2]),)

    return Net()


def narrow() -> torch.nn.Module:
    """A module of dtypes that many readers stumble on."""
    module = torch.nn.Linear(2, 2).to(torch.float8_e5m2)
    module.register_buffer("index", torch.arange(3).to(torch.uint16))
    return module


def sparse() -> torch.nn.Module:
    module = torch.nn.Linear(2, 2)
    module.register_buffer("mask", torch.eye(2).to_sparse())
    return module


def without_data() -> torch.nn.Module:
    return torch.nn.Linear(2, 2, device="meta")


def leaves() -> torch.nn.Module:
    raise SystemExit(3)


def raises() -> torch.nn.Module:
    raise RuntimeError("no GPU")


def gives_a_number() -> int:
    return 3


def test_the_users_own_module_goes_through_every_cell(tmp_path: Path) -> None:
    given = examples.from_factory(f"{__name__}:factory", seed=0)
    assert given.forward is not None
    report = run(tmp_path, given=given)
    assert not report.failed, [(cell.id, cell.outcome) for cell in report.failed][:3]
    assert {cell.axes.get("content", "") for cell in report.cells} == {"model", ""}


def test_a_module_of_rare_dtypes_shares_the_known_differences_of_its_dtypes(tmp_path: Path) -> None:
    report = run(tmp_path, given=examples.from_factory(f"{__name__}:narrow", seed=0))
    assert not report.failed, [(cell.id, cell.outcome) for cell in report.failed][:3]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{__name__}:sparse", "what the matrix cannot rebuild"),
        (f"{__name__}:without_data", "on the meta device"),
        (f"{__name__}:leaves", "raised SystemExit: 3"),
        ("", "expected package.module:factory"),
        ("nothing", "expected package.module:factory"),
        ("no.such.module:make", "cannot be imported: ModuleNotFoundError"),
        (f"{__name__}:nothing", "cannot be imported: AttributeError"),
        (f"{__name__}:raises", "raised RuntimeError: no GPU"),
        (f"{__name__}:gives_a_number", "returned a int"),
    ],
)
def test_a_factory_that_gives_no_module_is_refused(text: str, reason: str) -> None:
    with pytest.raises(examples.ExampleError, match=reason):
        examples.from_factory(text, seed=0)


@pytest.mark.parametrize(
    "name",
    [
        "candle_test.pt",
        "cifar10_resnet20.th",
        "facenet_mtcnn_pnet.pt",
        "lpips_v0.1_alex.pth",
        "silero_vad_16k.safetensors",
        "ultraface_slim_320.pth",
    ],
)
def test_a_real_checkpoint_goes_through_every_cell(name: str, tmp_path: Path) -> None:
    if not REAL.is_dir():
        pytest.skip("no ../shared/real here")
    modes = ("wo", "full", "wo:mmap", "wo:meta", "wo:module.", "wo:callable:_orig_mod.")
    patterns = [f"roundtrip:*>*:{mode}:state" for mode in modes]
    report = run(tmp_path, *patterns, given=examples.from_file(REAL / name))
    assert not report.failed, [(cell.id, cell.outcome) for cell in report.failed][:3]
    assert all(cell.verdict != "skipped" for cell in report.cells)


def test_a_file_that_no_independent_reader_reads_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(b"nothing")
    with pytest.raises(examples.ExampleError, match=r"is plain text: .nothing.; expected one of"):
        examples.from_file(path)
    torch.save({"a": torch.zeros(2)}, path, pickle_protocol=4)
    with pytest.raises(examples.ExampleError, match=r"is torch-zip, and neither torch .* nor safetensors reads it"):
        examples.from_file(path)
    with pytest.raises(examples.ExampleError, match="does not exist"):
        examples.from_file(tmp_path / "y.pt")
    with pytest.raises(examples.ExampleError, match="is a directory"):
        examples.from_file(tmp_path)
