"""A command that finds its subcommands in modules of their names, imported when they are asked for."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, Final

import click

# What a shell shows for a program that ended because nobody read its output any more (128 + SIGPIPE).
_NOT_READ: Final = 141
_NOT_WRITTEN: Final = 2


class LazyGroup(click.Group):
    """A group of commands, each in a module `<package>.<name>_command` under the name `command`.

    Args:
        package: where the modules are.
        names: the commands, in the order in which help shows them; a dash is an underscore in the module's name.
    """

    def __init__(self, *args: Any, package: str, names: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._package = package
        self._names = tuple(names)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands."""
        del ctx
        return list(self._names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; None where there is none."""
        del ctx
        if cmd_name not in self._names:
            return None
        command: click.Command = import_module(f"{self._package}.{cmd_name.replace('-', '_')}_command").command
        return command

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and find out before the interpreter does that the output could not be written."""
        with self._written():
            try:
                return super().main(*args, **kwargs)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the arguments, which prints the help where it is asked for."""
        with self._written():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        # click itself would end with 1, which means a finding here.
        with self._written():
            return super().invoke(ctx)

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """End quietly where the reader of a pipe went away, and with one message where the disk is full."""
        try:
            yield
        except BrokenPipeError:
            _silence()
            raise SystemExit(_NOT_READ) from None
        except OSError as error:
            if error.filename is not None:  # it is about a file, not about the output
                raise
            _silence()
            with contextlib.suppress(OSError):
                click.echo(
                    f"{self._package.partition('.')[0]}: the output cannot be written: {error.strerror}", err=True
                )
            raise SystemExit(_NOT_WRITTEN) from None


def _silence() -> None:
    """Let what is still buffered go nowhere, or the interpreter would complain when it ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
