"""Load weights into a module, and say honestly what that did.

Everything is checked before anything is changed: when a load is refused, the module is as it was.
"""

from __future__ import annotations

import contextlib
import inspect
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from compat import fitting, tying
from compat.checkpoint import Checkpoint
from compat.errors import Mismatch, Unsupported
from compat.keymatching import Choice, Pattern, match, wrappers_own
from compat.keys import Rule, rename_by
from compat.keys import rename as rename_keys
from compat.loading import MapLocation, import_torch, local, materialize, open_checkpoint
from compat.loadreport import Facts, LoadReport, StateMismatch
from compat.rehearsing import Rehearsal, Undo, fresh, has_foreign_code, has_own_code, refusals, rehearse
from compat.sources import SourceLike
from compat.unwrapping import Found, find

__all__ = ["LoadReport", "load_into"]

_COUNTER: Final = "num_batches_tracked"
_LIVE: Final = "the given state"
_SHOWN: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """The weights of a source, before their bytes are read.

    Attributes:
        found: the state_dict, as records or live.
        name: the source's name.
        view: what gives a part of it with shapes and dtypes alone.
        live: what gives a part of it with its values.
    """

    found: Found
    name: str
    view: Callable[[Any], Any]
    live: Callable[[Any], Any]


def load_into(
    module: Any,
    src: SourceLike | Mapping[str, Any] | Checkpoint,
    *,
    strict: bool = True,
    key: str | None = None,
    prefix: str | None = "auto",
    skip_mismatched: bool = False,
    include: Collection[Pattern] | None = None,
    exclude: Collection[Pattern] | None = None,
    rename: Iterable[Rule] = (),
    casting: str = "same_kind",
    assign: bool = False,
    map_location: MapLocation = "cpu",
) -> LoadReport:
    """Load the weights of a checkpoint into a module.

    Parameters stay the objects they are, so that optimizers keep them; only `assign`, and parameters on the meta
    device, replace them. Ties stay ties, `requires_grad` and memory format stay as the module has them. Modules
    that rename or forgive keys of older versions by code of their own do so here too.

    Args:
        module: any module, wrapped or not.
        src: a path, a URL, a file object, bytes, an open checkpoint, or a live state_dict.
        strict: refuse a checkpoint that has not exactly the keys of the module. False takes those that both have,
            as the filter by the model's own names does in tutorials.
        key: what leads to the weights, such as `model` or `ema.module`; None finds them, and refuses to guess
            between two.
        prefix: what to strip from their keys: "auto" for what fits the module, a prefix with its dot, or None.
        skip_mismatched: load the rest when shapes or kinds of numbers differ; torch refuses other shapes even
            with strict=False.
        include: which keys of the module to load, as globs (`encoder.*`) or compiled patterns; None for all.
        exclude: which keys to leave alone, on either side.
        rename: (pattern, replacement) pairs of regular expressions, applied to the checkpoint's keys first.
        casting: which dtypes may become the module's, in numpy's words: "no" other ones, those of the "same_kind"
            (floats, integers and bool, complex), or any ("unsafe", which is torch's way).
        assign: let the module have the loaded tensors themselves, with their dtypes.
        map_location: where tensors are loaded; copying moves them to where the module is.

    Raises:
        StateMismatch: the checkpoint does not fit; it lists everything, as text and as a `report`, and nothing was
            changed.
        Mismatch: it is not clear what to load, or a pattern fits no key.
        KeyCollision: two keys would become one.
        CompatError: the file cannot be read; see `open`.
    """
    if not hasattr(module, "load_state_dict"):
        raise TypeError(f"cannot load into {type(module).__name__}; expected a torch.nn.Module, then the checkpoint")
    if casting not in fitting.CASTING:
        raise ValueError(f"casting is {casting!r}; expected one of {', '.join(fitting.CASTING)}")
    with _opened(src, key, map_location) as given:
        loading = _Loading(module, given, Choice(include, exclude), strict=strict, skip=skip_mismatched)
        loading.name_keys(list(rename), prefix)
        fitting.compare(loading.own, loading.view, loading.facts, casting=casting, assign=assign)
        return loading.load(assign=assign)


@contextlib.contextmanager
def _opened(src: Any, key: str | None, map_location: MapLocation) -> Iterator[_Given]:
    if isinstance(src, Mapping):
        yield _Given(found=find(src, key, source=_LIVE), name=_LIVE, view=lambda part: part, live=lambda part: part)
    elif isinstance(src, Checkpoint):
        yield _given(src, key, map_location)
    else:
        with open_checkpoint(local(src)) as checkpoint:
            yield _given(checkpoint, key, map_location)


def _given(checkpoint: Checkpoint, key: str | None, map_location: MapLocation) -> _Given:
    def live(part: Any) -> Any:
        return materialize(checkpoint, map_location, tree=part)

    def view(part: Any) -> Any:
        try:
            return materialize(checkpoint, "meta", tree=part)
        except Unsupported:
            # Quantized tensors cannot be had without their values.
            return live(part)

    found = find(checkpoint.tree, key, source=checkpoint.source)
    return _Given(found=found, name=checkpoint.source, view=view, live=live)


class _Loading:
    """One load: first what it would come to, then the load itself."""

    def __init__(self, module: Any, given: _Given, choice: Choice, *, strict: bool, skip: bool) -> None:
        self.module, self.given, self.choice = module, given, choice
        self.strict, self.skip = strict, skip
        self.facts = Facts(key=given.found.key, notes=list(given.found.notes))
        self.own: Mapping[str, Any] = module.state_dict(keep_vars=True)
        self.wanted = [key for key in self.own if key in choice]
        self.state: Any = None
        self.view: Any = None

    def name_keys(self, rules: list[Rule], prefix: str | None) -> None:
        """Give the checkpoint's keys the module's names, and leave those that were not chosen.

        Raises:
            KeyCollision: two keys would become one.
            Mismatch: two prefixes fit equally well, or a pattern fits no key.
        """
        first = self.given.found.state
        ruled, idle = rename_by(first, rules)
        self.facts.note(*[f"the rule {rule!r} renames none of the keys" for rule in idle])
        matching = match([k for k in ruled if isinstance(k, str)], list(self.own), prefix, self.given.name)
        fitted = rename_keys(ruled, matching.rename)
        self.facts.prefix = matching.prefix
        self.facts.renamed = {old: new for old, new in zip(first, fitted, strict=True) if old != new}
        include, exclude = self.choice.idle([*self.own, *fitted])
        if include:
            raise Mismatch(
                f"no key of the module or of the checkpoint fits {', '.join(map(repr, include))}",
                source=self.given.name,
                expected=f"patterns of keys such as {next(iter(self.own), '')!r}",
            )
        self.facts.note(*[f"nothing is excluded by {pattern!r}" for pattern in exclude])
        self.state = _only(fitted, self.choice)
        self.view = self.given.view(self.state)

    def load(self, *, assign: bool) -> LoadReport:
        """Load what fits, when that is not refused.

        Raises:
            Mismatch: it is refused; the module is as it was.
        """
        apart = {key for key, *_ in (*self.facts.mismatched_keys, *self.facts.mismatched_dtypes)} | {*self.facts.unfit}
        ready = [key for key in self.state if key not in apart]
        outcome = self._outcome(_only(self.view, ready))
        report = None
        if outcome is not None:
            report = self._report(outcome, apart)
            # What nobody asked for need not be read.
            unasked = set(outcome.unexpected)
            ready = [key for key in ready if key not in unasked]
        undo = Undo(self.module) if outcome is None or has_foreign_code(self.module) else None
        state = self.given.live(_only(self.state, ready))
        self._note_ties(state)
        try:
            loaded = _load(self.module, self.own, state, assign=assign)
            if report is None or loaded.errors:
                report = self._report(loaded, apart, partly=bool(loaded.errors) and undo is None)
        except BaseException:
            if undo is not None:
                undo()
            raise
        left = _left_on_meta(self.module)
        self.facts.note(*[left] if left and ready else [])
        return report

    def _outcome(self, ready: Any) -> Rehearsal | None:
        """What is missing and unexpected, known before it is loaded; None where only loading can tell."""
        if has_own_code(self.module):
            return rehearse(self.module, ready)
        missing = [key for key in self.own if key not in ready]
        return Rehearsal(missing=missing, unexpected=[key for key in ready if key not in self.own], errors=[])

    def _report(self, outcome: Rehearsal, apart: Collection[str], *, partly: bool = False) -> LoadReport:
        """What is reported of an outcome, which may be that only a part was loaded.

        Raises:
            Mismatch: it is to be refused.
        """
        facts = self.facts
        absent = [key for key in outcome.missing if key in self.choice and key not in apart]
        facts.left_out = [k for k in self.wanted if k not in self.state and k.rpartition(".")[2] == _COUNTER]
        facts.errors = outcome.errors
        gone = {*absent, *apart, *facts.left_out}
        facts.loaded_keys = [key for key in self.wanted if key not in gone]
        loaded = set(facts.loaded_keys)
        for group in tying.groups(self.own):
            held = [key for key in group if key in loaded]
            facts.tied.update({key: held[-1] for key in group if held and key in gone and key in absent})
        missing = [key for key in absent if key not in facts.left_out and key not in facts.tied]
        wrappers = {key: wrappers_own(key, facts.prefix) for key in (*missing, *outcome.unexpected)}
        facts.note(*[f"{key} belongs to {wrapper} and was left out" for key, wrapper in wrappers.items() if wrapper])
        missing, unexpected = ([k for k in keys if not wrappers[k]] for keys in (missing, outcome.unexpected))
        facts.note(*fitting.version_notes(self.module, self.view))
        if self.own and not facts.loaded_keys:
            facts.note(_nothing(self.wanted, list(self.given.found.state)))
        report = LoadReport.make(missing, unexpected, facts)
        if facts.errors or (not self.skip and not report.fits) or (self.strict and (missing or unexpected)):
            raise self._mismatch(report, partly=partly)
        return report

    def _mismatch(self, report: LoadReport, *, partly: bool) -> StateMismatch:
        report.facts.loaded_keys = []
        advice = []
        if self.strict and (report.missing_keys or report.unexpected_keys):
            advice.append("strict=False")
        if not report.fits and not self.skip:
            advice.append("skip_mismatched=True")
        hint = "Something was changed before torch refused the rest." if partly else "Nothing was changed."
        hint += f" To load the rest, pass {' and '.join(advice)}." if advice else ""
        if report.mismatched_dtypes:
            hint += ' To change dtypes all the same, pass casting="unsafe".'
        return StateMismatch(report, source=self.given.name, hint=hint)

    def _note_ties(self, state: Mapping[str, Any]) -> None:
        """Say where one tensor of the module is two different ones in the checkpoint."""
        for group in tying.groups(self.own):
            held = [key for key in group if key in state]
            if any(not tying.same_values(state[held[0]], state[key]) for key in held[1:]):
                self.facts.note(
                    f"{', '.join(held)} are one tensor in the module and different ones in the checkpoint: "
                    f"{held[-1]} was taken"
                )


def _only(state: Any, keys: Any) -> OrderedDict[str, Any]:
    chosen = keys if isinstance(keys, Choice) else set(keys)
    made = OrderedDict((key, value) for key, value in state.items() if key in chosen)
    vars(made).update(getattr(state, "__dict__", {}))
    return made


def _nothing(own: list[str], given: list[Any]) -> str:
    if not given:
        return "nothing was loaded: the checkpoint has no keys"
    few = [", ".join(map(repr, keys[:3])) for keys in (given, own)]
    return f"nothing was loaded: the checkpoint's keys are like {few[0]}, and the module's like {few[1]}"


def _left_on_meta(module: Any) -> str | None:
    """What has no values yet, where a module was made on the meta device."""
    everything = [*module.named_parameters(), *module.named_buffers()]
    left = [name for name, tensor in everything if tensor.is_meta]
    if not left:
        return None
    more = f" and {len(left) - _SHOWN:,} more" if len(left) > _SHOWN else ""
    return f"still on the meta device, without values: {', '.join(left[:_SHOWN])}{more}"


def _load(module: Any, own: Mapping[str, Any], state: Any, *, assign: bool) -> Rehearsal:
    """Copy or assign what was checked; parameters on the meta device have to be assigned."""
    on_meta = {key for key, value in own.items() if getattr(value, "is_meta", False)}
    parts = [(on_meta if len(on_meta) < len(own) else {*own, *state}, True)] if on_meta else []
    parts += [({*own, *state} - on_meta, assign)] if len(on_meta) < len(own) else []
    if any(assigned for _, assigned in parts):
        _check_assign()
    ties = tying.ties_of(module)
    missing, unexpected = set(own), set(state)
    try:
        for keys, assigned in parts:
            part = _only(state, keys)
            if getattr(part, "_metadata", None) is not None:
                vars(part)["_metadata"] = fresh(vars(part)["_metadata"])
            found = module.load_state_dict(part, strict=False, **({"assign": True} if assigned else {}))
            missing &= set(found.missing_keys)
            unexpected &= set(found.unexpected_keys)
    except RuntimeError as error:
        errors = refusals(error)
        if errors is None:
            raise
        return Rehearsal(missing=[], unexpected=[], errors=errors)
    finally:
        tying.tie_again(ties)
    in_order = [key for key in own if key in missing], [key for key in state if key in unexpected]
    return Rehearsal(missing=in_order[0], unexpected=in_order[1], errors=[])


def _check_assign() -> None:
    """Refuse what this torch cannot do.

    Raises:
        Unsupported: it is older than 2.1, whose `load_state_dict` was the first with `assign`.
    """
    torch = import_torch("loading into a module")
    if "assign" not in inspect.signature(torch.nn.Module.load_state_dict).parameters:
        raise Unsupported(
            f"torch {torch.__version__} only copies values into a module's tensors, and some are to be replaced",
            feature="assign",
            expected="torch 2.1 or later",
            hint="Make the module on a real device, with `module.to_empty(device='cpu')`, and load without assign.",
        )
