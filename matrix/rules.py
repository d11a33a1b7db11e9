"""The rules that prune cells, each with its reason: why some combinations of axes are no cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matrix.axes import Axes

# Contents that stand for "any state": with these, how a file is read is crossed with everything.
GENERAL_CONTENTS = ("plain", "module-mixed")

# Contents that can be trained, and the optimizers that every scheduler is tried with.
TRAINED = ("module-mixed", "model")
SCHEDULED = ("Adam", "SGD")
# How the names of contents with modules begin.
MODULES = ("module-", "model")
# Contents that states are transferred to.
TRANSFERRED = ("module-batchnorm", "module-mixed", "module-tied", "model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Why some combinations are no cells.

    Attributes:
        sentence: the reason, for people.
        reads: the axes it looks at; it is asked once they have values, and not in checks that lack one.
        prunes: whether a combination falls under it.
    """

    sentence: str
    reads: tuple[str, ...]
    prunes: Callable[[Axes, dict[str, str]], bool]


def _fact(axes: Axes, values: dict[str, str], axis: str, fact: str) -> tuple[str, ...] | None:
    found = axes[axis].values[values[axis]].facts.get(fact)
    return None if found is None else tuple(found)


def _speaks(axis: str) -> Callable[[Axes, dict[str, str]], bool]:
    def prunes(axes: Axes, values: dict[str, str]) -> bool:
        formats = _fact(axes, values, axis, "formats")
        return formats is not None and values["format"] not in formats

    return prunes


def _only_read(axes: Axes, values: dict[str, str]) -> bool:
    """What compat writes is what its table says; the others' formats stand in their own facts."""
    own = _fact(axes, values, "writer", "formats") is None
    return own and axes["format"].values[values["format"]].facts.get("written") is False


def _no_way_back(axes: Axes, values: dict[str, str]) -> bool:
    return any(not axes[axis].values[values[axis]].facts.get("written") for axis in ("format", "via"))


def _far_apart(axes: Axes, values: dict[str, str]) -> bool:
    """Whether neither format is the one that everything is converted to and from."""
    return not _is_general(axes, values) and not any(
        axes[axis].values[values[axis]].facts.get("hub") for axis in ("format", "via")
    )


def _default(axes: Axes, values: dict[str, str], axis: str) -> bool:
    return values[axis] == axes[axis].default


def _no_mmap(axes: Axes, values: dict[str, str]) -> bool:
    if _default(axes, values, "mmap"):
        return False
    formats = _fact(axes, values, "reader", "mmap")
    return not axes["format"].values[values["format"]].facts.get("mmap") or (
        formats is not None and values["format"] not in formats
    )


def _no_such_map_location(axes: Axes, values: dict[str, str]) -> bool:
    known = _fact(axes, values, "reader", "map_locations")
    return known is not None and values["map_location"] not in known


def _no_pickle(axes: Axes, values: dict[str, str]) -> bool:
    return not axes["format"].values[values["format"]].facts.get("unpickles")


def _is_general(axes: Axes, values: dict[str, str]) -> bool:
    content = values["content"]
    return content in (*GENERAL_CONTENTS, *axes["content"].values[content].facts.get("general", ()))


def _not_shown_by_one(axes: Axes, values: dict[str, str]) -> bool:
    """Whether a combination shows nothing that a simpler one does not."""
    plain = _default(axes, values, "scheduler")
    if _is_hub(axes, values):
        return not plain and values["optimizer"] not in SCHEDULED
    return values["optimizer"] != SCHEDULED[0] or values["scheduler"] not in (axes["scheduler"].default, "OneCycleLR")


def _not_general(axes: Axes, values: dict[str, str]) -> bool:
    return not _is_general(axes, values) and any(
        not _default(axes, values, axis) for axis in ("map_location", "prefix", "protocol")
    )


def _is_hub(axes: Axes, values: dict[str, str]) -> bool:
    return bool(axes["format"].values[values["format"]].facts.get("hub"))


def _written(axes: Axes, values: dict[str, str]) -> bool:
    return bool(axes["format"].values[values["format"]].facts.get("written"))


def _by_torch(axes: Axes, values: dict[str, str]) -> bool:
    """Whether torch.save writes the format."""
    formats: tuple[str, ...] = axes["writer"].values["torch"].facts["formats"]
    return values["format"] in formats


def _recipe_of_torch(axes: Axes, values: dict[str, str]) -> bool:
    return bool(axes["recipe"].values[values["recipe"]].facts["by_torch"])


def _on_the_cpu(axes: Axes, values: dict[str, str]) -> bool:
    return bool(axes["saved_on"].values[values["saved_on"]].facts["device"] == "cpu")


def _no_such_variant(axes: Axes, values: dict[str, str]) -> bool:
    targets = _fact(axes, values, "variant", "targets")
    return targets is not None and values["target"] not in targets


def _no_such_sizes(axes: Axes, values: dict[str, str]) -> bool:
    return values["sizes"] not in (_fact(axes, values, "target", "sizes") or ())


def _stands_for_families(axes: Axes, values: dict[str, str]) -> bool:
    return bool(axes["family"].values[values["family"]].facts.get("general"))


RULES = (
    Rule(
        sentence="the writer does not write this format",
        reads=("format", "writer"),
        prunes=_speaks("writer"),
    ),
    Rule(
        sentence="the format is only read",
        reads=("format", "writer"),
        prunes=_only_read,
    ),
    Rule(
        sentence="what is converted to a format that is only read does not come back",
        reads=("format", "via"),
        prunes=_no_way_back,
    ),
    Rule(
        sentence="a conversion leads to another format",
        reads=("format", "via"),
        prunes=lambda _axes, values: values["format"] == values["via"],
    ),
    Rule(
        sentence="conversions that pass by torch-zip are crossed with contents that stand for any state",
        reads=("format", "via", "content"),
        prunes=_far_apart,
    ),
    Rule(
        sentence="the reader does not read this format",
        reads=("format", "reader"),
        prunes=_speaks("reader"),
    ),
    Rule(
        sentence="weights_only=False means nothing to a format without pickles",
        reads=("format", "weights_only"),
        prunes=lambda axes, values: values["weights_only"] == "full" and _no_pickle(axes, values),
    ),
    Rule(
        sentence="the reader cannot map this format",
        reads=("format", "reader", "mmap"),
        prunes=_no_mmap,
    ),
    Rule(
        sentence="the reader's map_location has no such form",
        reads=("reader", "map_location"),
        prunes=_no_such_map_location,
    ),
    Rule(
        sentence="a format without pickles has no pickle protocol, and not every writer has a choice of it",
        reads=("format", "writer", "protocol"),
        prunes=lambda axes, values: (
            not _default(axes, values, "protocol")
            and (
                _no_pickle(axes, values) or values["protocol"] not in (_fact(axes, values, "writer", "protocols") or ())
            )
        ),
    ),
    Rule(
        sentence="map_location, prefix and protocol are crossed with contents that stand for any state",
        reads=("map_location", "prefix", "protocol", "content"),
        prunes=_not_general,
    ),
    Rule(
        sentence="only modules can be trained, and mixed ones stand for all",
        reads=("optimizer", "content"),
        prunes=lambda _axes, values: values["content"] not in TRAINED,
    ),
    Rule(
        sentence="a state is transferred to modules with state: batch norm, ties, and mixed ones",
        reads=("mutation", "content"),
        prunes=lambda _axes, values: values["content"] not in TRANSFERRED,
    ),
    Rule(
        sentence="what loading into a module does does not hang on the format: torch-zip stands for all",
        reads=("format", "mutation"),
        prunes=lambda axes, values: not _is_hub(axes, values),
    ),
    Rule(
        sentence="a format that is only read saves no training run",
        reads=("format", "optimizer"),
        prunes=lambda axes, values: not _written(axes, values),
    ),
    Rule(
        sentence="optimizers and schedulers are crossed with torch-zip; every other format stands for one of each",
        reads=("format", "optimizer", "scheduler", "order"),
        prunes=_not_shown_by_one,
    ),
    Rule(
        sentence="LBFGS keeps one state for all parameters, in their order",
        reads=("optimizer", "order"),
        prunes=lambda axes, values: values["optimizer"] == "LBFGS" and not _default(axes, values, "order"),
    ),
    Rule(
        sentence="only formats with pickles can name what is to be called, and not every writer writes such files",
        reads=("format", "writer", "way"),
        prunes=lambda axes, values: _no_pickle(axes, values) or not _fact(axes, values, "writer", "calls"),
    ),
    Rule(
        sentence="weights_only=False asks for the call",
        reads=("weights_only", "way"),
        prunes=lambda _axes, values: values["weights_only"] == "full",
    ),
    Rule(
        sentence="prefix lives in keys and protocol in opcodes: they are not crossed with each other",
        reads=("prefix", "protocol"),
        prunes=lambda axes, values: not _default(axes, values, "prefix") and not _default(axes, values, "protocol"),
    ),
    Rule(
        sentence="what a recipe saves by torch.save is in torch's formats; a format that is only read saves nothing",
        reads=("format", "recipe"),
        prunes=lambda axes, values: (
            not _by_torch(axes, values) if _recipe_of_torch(axes, values) else not _written(axes, values)
        ),
    ),
    Rule(
        sentence="only modules are saved by recipes",
        reads=("recipe", "content"),
        prunes=lambda _axes, values: not values["content"].startswith(MODULES),
    ),
    Rule(
        sentence="what is not on the CPU lies in torch's formats; a format that is only read saves nothing",
        reads=("format", "saved_on"),
        prunes=lambda axes, values: (
            not _written(axes, values) if _on_the_cpu(axes, values) else not _by_torch(axes, values)
        ),
    ),
    Rule(
        sentence="what is on the CPU and stays there is tried by `roundtrip`",
        reads=("saved_on", "moved"),
        prunes=lambda axes, values: _on_the_cpu(axes, values) and not values["moved"].endswith(("cuda0", "cuda1")),
    ),
    Rule(
        sentence="devices are crossed with readers that take every form of map_location",
        reads=("reader", "saved_on"),
        prunes=lambda axes, values: _fact(axes, values, "reader", "map_locations") is not None,
    ),
    Rule(
        sentence="devices are crossed with contents that stand for any state",
        reads=("saved_on", "content"),
        prunes=lambda axes, values: not _is_general(axes, values),
    ),
    Rule(
        sentence="runs go on elsewhere from torch-zip, with every optimizer, and no scheduler or other order",
        reads=("format", "scheduler", "order", "going_on"),
        prunes=lambda axes, values: (
            not _default(axes, values, "going_on")
            and not (_is_hub(axes, values) and _default(axes, values, "scheduler") and _default(axes, values, "order"))
        ),
    ),
    Rule(
        sentence="the export target has no such variant",
        reads=("target", "variant"),
        prunes=_no_such_variant,
    ),
    Rule(
        sentence="the export target is not told which sizes to fix, or not in this way",
        reads=("target", "sizes"),
        prunes=_no_such_sizes,
    ),
    Rule(
        sentence="fixed sizes, and those that the exporter finds, are crossed with float32",
        reads=("sizes", "precision"),
        prunes=lambda axes, values: not _default(axes, values, "sizes") and not _default(axes, values, "precision"),
    ),
    Rule(
        sentence="variants of exports are crossed with dynamic batches, float32, and families that stand for all",
        reads=("sizes", "variant", "precision", "family"),
        prunes=lambda axes, values: (
            not _default(axes, values, "variant")
            and not (
                _default(axes, values, "sizes")
                and _default(axes, values, "precision")
                and _stands_for_families(axes, values)
            )
        ),
    ),
    Rule(
        sentence="what a module has beside its layers is crossed with linear ones, in float32",
        reads=("variant", "feature", "precision", "family"),
        prunes=lambda axes, values: (
            not _default(axes, values, "feature")
            and not (
                values["family"] == "linear"
                and _default(axes, values, "variant")
                and _default(axes, values, "precision")
            )
        ),
    ),
)
