"""`python -m matrix.exports.measure`: measure again how far outputs are off, against what is allowed."""

from __future__ import annotations

import click

from compat import exports
from matrix.cells import Cell, plan
from matrix.exports.crew import Crew
from matrix.exports.families import FAMILIES
from matrix.exports.jobs import job_of
from matrix.exports.running import CHECK
from matrix.exports.tolerances import table
from matrix.runner import make_axes

# Allowed over measured: a row that is nearer fails by chance, one that is further hides what goes wrong.
_TIGHT, _LOOSE = 2.0, 1000.0


def measured(targets: tuple[str, ...], seeds: int) -> dict[tuple[str, str], float]:
    """The largest difference by precision class and dtype, as a part of the largest reference value."""
    cells = [cell for cell in plan(make_axes(), [CHECK]).cells if _is_measured(cell, targets)]
    jobs = [(cell, job_of(cell, seed)) for seed in range(seeds) for cell in cells]
    found: dict[tuple[str, str], float] = {}
    crew = Crew()
    try:
        crew.order(job for _, job in jobs)
        with click.progressbar(jobs, label="exports") as listed:
            for cell, job in listed:
                result = crew.result(job)
                if result.outcome.kind == "ok":
                    key = (FAMILIES[cell["family"]].precision, cell["precision"])
                    found[key] = max(found.get(key, 0.0), result.worst)
    finally:
        crew.close()
    return found


def _is_measured(cell: Cell, targets: tuple[str, ...]) -> bool:
    usual = all(
        cell[axis] == default for axis, default in (("sizes", "batch"), ("variant", "usual"), ("feature", "none"))
    )
    return usual and cell["target"] in targets


@click.command()
@click.option("--target", "targets", multiple=True, help="Only these; all light ones on other kernels than torch's.")
@click.option("--seeds", default=3, show_default=True, help="How many modules of each family.")
def main(*, targets: tuple[str, ...], seeds: int) -> None:
    """Print what was measured beside what `tolerances.toml` allows."""
    light = [
        found.name
        for found in exports.all_targets()
        if not found.heavy and not found.capabilities.same_runtime and found.available() is None
    ]
    for (name, precision), worst in sorted(measured(targets or tuple(light), seeds).items()):
        allowed = table()[name][precision]["absolute"]
        ratio = allowed / worst if worst else float("inf")
        told = "too tight" if ratio < _TIGHT else "too loose" if _LOOSE < ratio < float("inf") else "fine"
        click.echo(f"[{name}.{precision}]  measured = {worst:.1e}  absolute = {allowed:.0e}  {told}")


if __name__ == "__main__":
    main()
