# SPDX-License-Identifier: Apache-2.0
"""`wcodec`: the group of subcommands, and how errors become one line and an exit code.

Exit codes: 0 done; 1 the data or the system said no; 2 the call was wrong; 3 some of several files
failed; 130 interrupted.
Subcommands are imported when they are called, so that `wcodec --version` is quick.
"""

from __future__ import annotations

import importlib
import os
import sys

import click

from wcodec._version import __version__

COMMANDS = {
    "encode": "Encode safetensors files or directories of them.",
    "decode": "Decode wcodec files or directories into what they were made of.",
    "info": "Show what is in a wcodec file or directory.",
    "extract": "Write one layer to a file of its own.",
    "diff": "Show which layers of two wcodec files or directories differ, and by how much.",
    "edit": "Replace, add or remove layers; the others are copied as they are stored.",
    "verify": "Decode without writing and check every checksum.",
    "recover": "Write what is whole of a damaged file, and list what is lost.",
    "push": "Upload a wcodec directory to a repository of the Hugging Face hub.",
    "pull": "Download the wcodec directory of a repository of the hub.",
}

EXIT_DATA, EXIT_USAGE, EXIT_PARTIAL, EXIT_INTERRUPTED = 1, 2, 3, 130


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"wcodec.cli.{name}").command
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # click itself would print an empty line first
            raise click.Abort from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="wcodec")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """A lossless codec for neural-network weights."""
    ctx.obj = debug


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(args))


def run(args: list[str] | None = None) -> int:
    """Run the command line; returns the exit code after printing at most one line of error to
    stderr.
    """
    args = sys.argv[1:] if args is None else args
    try:
        result = cli.main(args=args, prog_name="wcodec", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.UsageError as error:
        return _fail(error.format_message(), EXIT_USAGE)
    except click.ClickException as error:
        return _fail(error.format_message(), EXIT_DATA)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the output has gone; keep the interpreter from writing to it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DATA
    except Exception as error:
        if "--debug" in args:
            raise
        return _fail(*_explain(error))


def _explain(error: Exception) -> tuple[str, int]:
    from wcodec.errors import PartialError, WcodecError

    if isinstance(error, OSError):
        name = "" if error.filename is None else f"{error.filename}: "
        code = EXIT_USAGE if isinstance(error, FileExistsError) else EXIT_DATA
        return f"{name}{error.strerror or error}", code
    if isinstance(error, MemoryError):
        return "out of memory", EXIT_DATA
    if isinstance(error, PartialError):
        return str(error), EXIT_PARTIAL if error.n_done else EXIT_DATA
    if isinstance(error, WcodecError):
        return str(error), EXIT_DATA
    if isinstance(error, (ValueError, TypeError)):
        return str(error), EXIT_USAGE
    return f"{type(error).__name__}: {error} (this is a bug; --debug shows where)", EXIT_DATA


def _fail(message: str, code: int) -> int:
    line = " ".join(message.split())
    click.echo(f"wcodec: {line}", err=True)
    return code
