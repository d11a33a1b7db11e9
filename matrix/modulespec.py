"""A module as data, without torch: a tree of layers, the seed of its values, and what it is called with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

Json = dict[str, Any]
Option = bool | int | float | str | tuple[Any, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """One layer.

    Attributes:
        kind: a class of torch.nn, or one of `modules.LAYERS`.
        options: its keyword arguments; children: the layers it holds, by name.
    """

    kind: str
    options: tuple[tuple[str, Option], ...] = ()
    children: tuple[tuple[str, LayerSpec], ...] = ()

    def walk(self) -> Iterator[LayerSpec]:
        """Yield this layer and all beneath it."""
        yield self
        for _, child in self.children:
            yield from child.walk()

    def to_json(self) -> Json:
        """Return the layer as JSON-able values."""
        return {
            "kind": self.kind,
            "options": [[name, value] for name, value in self.options],
            "children": [[name, child.to_json()] for name, child in self.children],
        }

    @classmethod
    def from_json(cls, data: Json) -> LayerSpec:
        """Return the layer that `to_json` described."""
        return cls(
            kind=data["kind"],
            options=tuple((name, _tuples(value)) for name, value in data["options"]),
            children=tuple((name, cls.from_json(child)) for name, child in data["children"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """One input of a module: a float32 tensor, or an int64 one of indices below `indices`.

    Attributes:
        batch: along which dimension its examples lie.
    """

    shape: tuple[int, ...]
    indices: int | None = None
    batch: int = 0

    def sized(self, batch: int) -> InputSpec:
        """Return the same input with another number of examples."""
        return replace(self, shape=(*self.shape[: self.batch], batch, *self.shape[self.batch + 1 :]))

    def to_json(self) -> Json:
        """Return the input as JSON-able values."""
        return {"shape": list(self.shape), "indices": self.indices, "batch": self.batch}

    @classmethod
    def from_json(cls, data: Json) -> InputSpec:
        """Return the input that `to_json` described."""
        return cls(shape=tuple(data["shape"]), indices=data["indices"], batch=data.get("batch", 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleSpec:
    """A whole module.

    Attributes:
        family: the family it was drawn from; layer: its root.
        seed: determines every parameter, every buffer and the example inputs.
    """

    family: str
    layer: LayerSpec
    seed: int
    inputs: tuple[InputSpec, ...]

    def to_json(self) -> Json:
        """Return the module as JSON-able values; `from_json` makes an equal one of them."""
        return {
            "family": self.family,
            "layer": self.layer.to_json(),
            "seed": self.seed,
            "inputs": [item.to_json() for item in self.inputs],
        }

    @classmethod
    def from_json(cls, data: Json) -> ModuleSpec:
        """Return the module that `to_json` described."""
        return cls(
            family=data["family"],
            layer=LayerSpec.from_json(data["layer"]),
            seed=data["seed"],
            inputs=tuple(InputSpec.from_json(item) for item in data["inputs"]),
        )


def layer(kind: str, *children: tuple[str, LayerSpec] | LayerSpec, **options: Option) -> LayerSpec:
    """Return a layer; children without a name are numbered."""
    named = tuple(
        (str(index), child) if isinstance(child, LayerSpec) else child for index, child in enumerate(children)
    )
    return LayerSpec(kind=kind, options=tuple(options.items()), children=named)


def _tuples(value: Any) -> Option:
    """Return a value with the lists that JSON made of tuples turned back."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
