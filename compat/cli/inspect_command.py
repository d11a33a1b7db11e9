"""`compat inspect`: what a file holds, without loading or executing any of it."""

from __future__ import annotations

import click

from compat.checkpoint import Checkpoint, StorageRecord, TensorRecord, path_text, walk
from compat.cli._output import guarded, json_option, print_json, printable, size_text
from compat.diffing import describe
from compat.errors import counted
from compat.loading import open_checkpoint


@click.command("inspect")
@click.argument("file")
@click.option("--all", "show_all", is_flag=True, help="Show every tensor and value, however many there are.")
@json_option
@guarded
def command(file: str, *, show_all: bool, as_json: bool) -> int:
    """Show what FILE holds: its format, its tensors, and what lies beside them.

    Reads the description only, never the tensors' bytes, and imports neither torch nor numpy.
    """
    with open_checkpoint(file) as checkpoint:
        if as_json:
            print_json("inspect", facts(checkpoint))
        else:
            _print(checkpoint, show_all=show_all)
    return 0


def facts(checkpoint: Checkpoint) -> dict[str, object]:
    """Everything `inspect` knows, as JSON values."""
    storages: dict[int, str] = {}
    tensors = [
        {
            "name": name,
            "path": path_text(checkpoint.paths[name]),
            "dtype": record.dtype,
            "shape": list(record.shape),
            "stride": list(record.stride),
            "storage_offset": record.storage_offset,
            "storage": storages.setdefault(id(record.storage), str(len(storages))),
            "device": record.storage.device,
            "requires_grad": record.requires_grad,
            "kind": record.kind,
        }
        for name, record in checkpoint.tensors.items()
    ]
    return {
        "file": checkpoint.source,
        "format": checkpoint.format,
        "container": dict(checkpoint.metadata),
        "tensors": tensors,
        "values": [{"path": path, "value": value} for path, value in _values(checkpoint)],
        "globals": list(checkpoint.globals),
        "bytes": sum(storage.nbytes for storage in _storages(checkpoint)),
        "notes": checkpoint.notes,
    }


def _values(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    return [
        (path_text(path), describe(leaf)) for path, leaf in walk(checkpoint.tree) if not isinstance(leaf, TensorRecord)
    ]


def _storages(checkpoint: Checkpoint) -> list[StorageRecord]:
    return list({id(record.storage): record.storage for record in checkpoint.tensors.values()}.values())


def _print(checkpoint: Checkpoint, *, show_all: bool) -> None:
    storages = _storages(checkpoint)
    total = sum(storage.nbytes for storage in storages)
    click.echo(f"{printable(checkpoint.source)}: {checkpoint.format}")
    shared = len(checkpoint.tensors) - len(storages)
    note = f", {shared:,} of them {'shares' if shared == 1 else 'share'} storage with another" if shared else ""
    click.echo(f"{counted(len(checkpoint.tensors), 'tensor')} in {size_text(total)}{note}")
    devices = sorted({storage.device for storage in storages} - {"cpu"})
    if devices:
        click.echo(f'saved on {", ".join(devices)}: load with map_location="cpu" where that is not to be had')
    for name, value in checkpoint.metadata.items():
        click.echo(f"  {printable(name)}: {printable(str(value))[:200]}")
    rows = [
        (name, record.dtype, str(list(record.shape)), _remarks(record)) for name, record in checkpoint.tensors.items()
    ]
    _table([tuple(printable(cell) for cell in row) for row in rows], show_all=show_all)
    values = _values(checkpoint)
    if values:
        click.echo("beside the tensors:")
        _table([(printable(path), printable(value)) for path, value in values], show_all=show_all)
    for note_text in checkpoint.notes:
        click.echo(f"note: {printable(note_text)}")


def _remarks(record: TensorRecord) -> str:
    remarks = [record.kind] if record.kind != "tensor" else []
    remarks += [flag for flag in ("requires_grad", "conj", "neg") if getattr(record, flag)]
    if not record.is_contiguous:
        remarks.append(f"stride {list(record.stride)}")
    return ", ".join(remarks)


def _table(rows: list[tuple[str, ...]], *, show_all: bool, limit: int = 40) -> None:
    shown = rows if show_all or len(rows) <= limit else rows[: limit - 10]
    widths = [max((len(row[column]) for row in shown), default=0) for column in range(len(rows[0]) if rows else 0)]
    for row in shown:
        cells = (cell.ljust(min(width, 60)) for cell, width in zip(row, widths, strict=True))
        click.echo(f"  {'  '.join(cells)}".rstrip())
    if len(shown) < len(rows):
        click.echo(f"  … and {len(rows) - len(shown):,} more (--all shows them)")
