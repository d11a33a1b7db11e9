"""A worker process: `make` exports a module and notes what eager torch computes, `use` judges the artefact.

Both run here, in processes of their own: what makes an artefact never uses it, so that nothing but the file passes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from matrix.exports.comparing import Finding, Tolerance, compare_outputs, flat, raw, shape_of
from matrix.exports.subject import NAME, Subject, find
from matrix.exports.weighing import live_keys, tensors, weigh
from matrix.messages import in_one_line
from matrix.modules import build_module, in_precision, sized_inputs
from matrix.modulespec import ModuleSpec

Json = dict[str, Any]

# The calls that are compared, by their batches: that of the export twice, for a state that changes; then others.
CALLS: Final = (("call", 3), ("second-call", 3), ("batch", 5), ("batch", 1))
# What is said of an artefact whose outputs do not differ.
EQUAL: Final = "equal bit by bit"
_EXPECTED: Final = "expected.pt"
_SMALL: Final = {
    "family": "linear",
    "seed": 0,
    "layer": {"kind": "Linear", "options": [["in_features", 2], ["out_features", 2]], "children": []},
    "inputs": [{"shape": [3, 2], "indices": None, "batch": 0}],
}


def main() -> None:
    """Answer requests until no one asks any more."""
    from matrix.serving.protocol import serve

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    mha = getattr(torch.backends, "mha", None)
    if mha is not None:
        # Its fast path is another computation than the one that is exported.
        mha.set_fastpath_enabled(False)
    serve({"warm": warm, "make": make, "use": use})


def warm(request: Json) -> Json:
    """Export something small once, so that the first cell does not pay for all imports."""
    folder = Path(request["folder"])
    return make({**request, "spec": _SMALL, "precision": "float32", "folder": str(folder), "subject": NAME})


def make(request: Json) -> Json:
    """Export a module, after noting what eager torch makes of it; `{}`, or the outcome that ends the cell."""
    spec, precision, folder = ModuleSpec.from_json(request["spec"]), request["precision"], Path(request["folder"])

    def fresh() -> torch.nn.Module:
        return in_precision(build_module(spec), precision)

    try:
        expected = _expected(spec, precision, fresh)
    except Exception as error:  # noqa: BLE001 - eager torch may lack the operator in this precision
        said = in_one_line(str(error), None)
        return {"outcome": {"kind": "skipped", "message": f"eager torch: {type(error).__name__}: {said}"[:300]}}
    torch.save(expected, folder / _EXPECTED)
    subject, module, path = find(request["subject"]), fresh(), folder / request["file"]
    given = tuple(expected["calls"][0]["inputs"])
    try:
        with torch.no_grad():
            options = {"dynamic": _dynamic(spec, request["sizes"]), **request["options"]}
            subject.export(module, given, path, request["target"], options)
    except BaseException as error:  # noqa: BLE001 - whatever is raised is the outcome
        return {"outcome": _failure(error, subject, "load" if path.exists() else "export", path)}
    changed = [key for key, held in tensors(module.state_dict()).items() if raw(held) != raw(expected["state"][key])]
    if changed:
        finding = Finding(facet="source", message=f"exporting changed the module itself: {changed[0]}")
        return {"outcome": _mismatch("export", [finding])}
    return {}


def _dynamic(spec: ModuleSpec, sizes: str) -> Any:
    """Which sizes may change, as compat and torch are told."""
    if sizes == "static":
        return None
    if all(item.batch == 0 for item in spec.inputs):
        return sizes
    if sizes == "auto":
        return tuple(dict.fromkeys(range(len(item.shape)), torch.export.Dim.AUTO) for item in spec.inputs)
    size = torch.export.Dim("batch", min=1)
    return tuple({item.batch: size} for item in spec.inputs)


def use(request: Json) -> Json:
    """Load an artefact, call it, read its weights; the outcome, and how far its numbers were off."""
    folder, path = Path(request["folder"]), Path(request["folder"]) / request["file"]
    subject = find(request["subject"])
    expected = torch.load(folder / _EXPECTED, weights_only=False)  # what our other process wrote
    try:
        loaded = subject.load(path, request["target"], request["running"])
    except BaseException as error:  # noqa: BLE001 - whatever is raised is the outcome
        return {"outcome": _failure(error, subject, "load", path)}
    findings, worst, failed = _called(loaded.run, expected, request, subject, path)
    if failed is not None:
        return {"outcome": failed}
    stage = "run"
    if not findings and request["claims"]["state"] != "none":
        stage = "recover"
        try:
            found = loaded.state_dict()
        except BaseException as error:  # noqa: BLE001 - whatever is raised is the outcome
            return {"outcome": _failure(error, subject, stage, path)}
        findings = weigh(expected["state"], expected["live"], found, request["claims"]["state"])
    told = f"off by {worst:.1g} of the largest value" if worst else EQUAL
    outcome = _mismatch(stage, findings) if findings else {"kind": "ok", "message": told}
    return {"outcome": outcome, "worst": worst}


def _expected(spec: ModuleSpec, precision: str, fresh: Callable[[], torch.nn.Module]) -> Json:
    """What eager torch computes, call after call on one module, in the precision and in float64."""
    module, exact = fresh(), in_precision(fresh(), "float64")
    calls: list[Json] = []
    with torch.no_grad():
        for number, (name, batch) in enumerate(CALLS):
            inputs = _cast(sized_inputs(spec, batch=batch, number=number), precision)
            if name == "second-call":  # of the other sign, so that branches on values take the other way
                inputs = [-tensor if tensor.is_floating_point() else tensor for tensor in calls[0]["inputs"]]
            outputs = module(*inputs)
            wide = _or(lambda: exact(*_cast(inputs, "float64")), outputs)  # noqa: B023 - called in the same round
            calls.append(
                {
                    "name": name,
                    "inputs": [tensor.clone() for tensor in inputs],
                    "outputs": [tensor.clone() for tensor in flat(outputs)],
                    "exact": [tensor.clone() for tensor in flat(wide)],
                    "nesting": shape_of(outputs),
                }
            )
    state = fresh().state_dict()
    first = calls[0]["inputs"]
    return {
        "calls": calls,
        "misfits": [inputs for inputs in _misfits(first) if _refused(fresh(), inputs)],
        "state": tensors(state),
        "live": live_keys(fresh, first),
    }


def _or(attempt: Callable[[], Any], otherwise: Any) -> Any:
    try:
        return attempt()
    except Exception:  # noqa: BLE001 - the module may have no float64 form
        return otherwise


def _cast(inputs: Sequence[torch.Tensor], precision: str) -> list[torch.Tensor]:
    dtype = getattr(torch, precision)
    return [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in inputs]


def _misfits(inputs: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Calls that most modules must refuse: a size too many in the last dimension, a dimension less, another dtype."""
    first = inputs[0]
    if not first.is_floating_point():
        return []
    wider = torch.cat((first, first[..., :1]), dim=-1)
    other = first.to(torch.float32 if first.dtype == torch.float64 else torch.float64)
    return [[odd, *inputs[1:]] for odd in (wider, first[0], other)]


def _refused(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> bool:
    try:
        with torch.no_grad():
            module(*inputs)
    except Exception:  # noqa: BLE001 - however torch refuses
        return True
    return False


def _called(
    run: Callable[..., Any], expected: Json, request: Json, subject: Subject, path: Path
) -> tuple[list[Finding], float, Json | None]:
    """Findings of all calls, the largest difference, and the outcome where a call that is due was refused."""
    findings: list[Finding] = []
    worst = 0.0
    allowed = Tolerance(**request["tolerance"])
    for call in expected["calls"]:
        try:
            outputs = run(*call["inputs"])
        except BaseException as error:  # noqa: BLE001 - whatever is raised is the outcome
            if call["name"] == "batch" and not request["any_batch"]:
                continue
            return findings, worst, _failure(error, subject, "run", path)
        finding, off = compare_outputs(call["outputs"], call["exact"], flat(outputs), allowed)
        worst = max(worst, off)
        if finding is None and request["claims"]["pytrees"] and shape_of(outputs) != call["nesting"]:
            finding = Finding(facet="structure", message=f"{shape_of(outputs)}, expected {call['nesting']}")
        if finding is not None:
            facet = finding.facet if call["name"] == "call" else call["name"]
            findings.append(Finding(facet=facet, message=f"{call['name']}: {finding.message}"))
    findings += [Finding(facet="not-refused", message=text) for text in _accepted(run, expected["misfits"])]
    return findings, worst, None


def _accepted(run: Callable[..., Any], misfits: Sequence[Sequence[torch.Tensor]]) -> list[str]:
    """The calls that were answered though the module itself refuses them."""
    told = []
    for inputs in misfits:
        try:
            outputs = flat(run(*inputs))
        except BaseException:  # noqa: BLE001, S112 - however a runtime refuses
            continue
        shapes = ", ".join(str(list(output.shape)) for output in outputs)
        told.append(f"a call with {inputs[0].dtype} {list(inputs[0].shape)}, which the module refuses, gave {shapes}")
    return told


def _failure(error: BaseException, subject: Subject, stage: str, path: Path) -> Json:
    """The outcome of an exception: a refusal where it says no, a crash where it is anything else."""
    if isinstance(error, KeyboardInterrupt):
        raise error
    if type(error).__name__ == "MissingDependency":
        return {"kind": "skipped", "message": in_one_line(str(error), path)}
    said = subject.refuses(error)
    late = stage == "export" and said in ("save", "load")
    return {
        "kind": "crashed" if said is None else "refused",
        "stage": said if late else stage,
        "message": in_one_line(str(error), path)[:300],
        "error_type": type(error).__name__,
    }


def _mismatch(stage: str, findings: Sequence[Finding]) -> Json:
    facets = sorted({finding.facet for finding in findings})
    return {"kind": "mismatch", "stage": stage, "message": findings[0].message[:300], "facets": facets}


if __name__ == "__main__":
    main()
