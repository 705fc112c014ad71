"""Many inputs of one command: files, folders and standard input, one after another, past those that fail."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from media.walk import LOST
from service.cli.errors import EXPECTED, CommandError, SkipError, StopError, sentence

STANDARD = Path("-")  # standard input, or standard output


@dataclass(frozen=True)
class InputFile:
    """A file that a command works on.

    Args:
        path: the file to read.
        name: its name in messages.
        relative: its path below the folder that was given, or its bare name.
    """

    path: Path
    name: str
    relative: Path


@dataclass(frozen=True)
class Batch:
    """The inputs of a command.

    Args:
        sources: files to work on.
        skipped: files of folders that are left alone.
        unread: folders that cannot be read, by the errors of their listing.
        many: whether more than one file was asked for, as a folder does.
        reason: why files are skipped.
    """

    sources: list[InputFile]
    skipped: list[Path]
    unread: list[OSError]
    many: bool
    reason: str

    def run(self, work: Callable[[InputFile], None], report: Callable[[str, str, str], None] | None = None) -> None:
        """Do the work of each input, and report which ones failed or were skipped.

        Args:
            work: for one input.
            report: takes "failed" or "skipped", the name of the input, and the reason. By default these are lines on
                standard error, but for the failure of an only input, which is raised.

        Raises:
            CommandError: an input or a folder failed, after all others were worked on; `StopError` ends it at once.
        """
        failed = len(self.unread)
        for error in self.unread:
            (report or _print)("failed", str(error.filename), sentence(error))
        for source in self.sources:
            try:
                work(source)
            except SkipError as skip:
                (report or _print)("skipped", source.name, str(skip))
            except StopError:
                raise
            except EXPECTED as error:
                if report is None and not self.many:
                    raise
                failed += 1
                (report or _print)("failed", source.name, sentence(error))
        for path in self.skipped:
            (report or _print)("skipped", str(path), self.reason)
        if failed:
            raise CommandError(f"{failed} of {len(self.sources) + len(self.unread)} files failed.")


def _print(event: str, name: str, reason: str) -> None:
    about = reason if event == "failed" and name in reason else f"{name}: {reason}"
    line = Text.assemble((event, "bold red" if event == "failed" else ""), f" {about}")
    Console(stderr=True, highlight=False, soft_wrap=True).print(line)


@contextmanager
def gather(arguments: list[Path], takes: Callable[[Path], bool], noun: str) -> Iterator[Batch]:
    """Find the inputs of a command.

    Args:
        arguments: files, which are all taken; folders, which are searched for files but not for hidden ones; "-".
        takes: whether a file of a folder is an input.
        noun: what inputs are, such as "a picture or a clip".

    Raises:
        CommandError: folders hold no input; standard input is a terminal or named twice.
    """
    sources, skipped = [], []
    unread: list[OSError] = []
    with ExitStack() as stack:
        if arguments.count(STANDARD) > 1:
            raise CommandError("Standard input can be read once only; name - once.")
        for argument in arguments:
            if argument == STANDARD:
                sources.append(InputFile(stack.enter_context(_standard_input()), "standard input", Path("stdin")))
            elif argument.is_dir():
                for path in _files(argument, unread.append):
                    if _is_taken(path, takes):
                        sources.append(InputFile(path, str(path), path.relative_to(argument)))
                    else:
                        skipped.append(path)
            else:
                sources.append(InputFile(argument, str(argument), Path(argument.name)))
        if not sources and not unread:
            raise CommandError(f"{', '.join(map(str, arguments))}: there is no file that is {noun}.")
        many = len(arguments) > 1 or arguments[0].is_dir()
        yield Batch(sources, skipped, unread, many, f"not {noun}")


def _files(folder: Path, unread: Callable[[OSError], None]) -> Iterable[Path]:
    for parent, folders, names in os.walk(folder, onerror=unread):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != LOST)
        links = [name for name in folders if Path(parent, name).is_symlink()]  # not searched, which could go in circles
        yield from (Path(parent, name) for name in sorted(names + links) if not name.startswith("."))


def _is_taken(path: Path, takes: Callable[[Path], bool]) -> bool:
    try:
        return path.is_file() and takes(path)  # anything else, such as a pipe, could be waited for without end
    except OSError:
        return True  # so that it is listed as failed, with the reason


@contextmanager
def _standard_input() -> Iterator[Path]:
    """Copy standard input to a file, since readers of media go back and forth."""
    if sys.stdin.isatty():
        raise CommandError("Standard input is a terminal; pipe a file into the command, or name one.")
    with tempfile.NamedTemporaryFile() as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        yield Path(file.name)
