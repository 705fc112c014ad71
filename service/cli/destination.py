"""Names and formats of the files that a command writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import typer

from service.cli.batch import STANDARD, Batch, InputFile
from service.cli.errors import CommandError, SkipError
from service.cli.options import RESULT_SUFFIXES


@dataclass(frozen=True)
class Target:
    """A file to write, or standard output, and the media type to write."""

    path: Path
    media_type: str


Choose = Callable[[int], Target]  # the file for a number of frames


@dataclass
class Destination:
    """The file that `--out` names, or the folder below which each input gets a file. Missing folders are made.

    A file in a folder has the path and name of its input, without a suffix of tokens, and with the suffix of its format
    unless the name has one of that format already: igloo.png becomes igloo.png.npz, and that igloo.png again.

    Args:
        out: file, folder, or "-".
        types: media types by suffix.
        format: the suffix to write, without its dot; None goes by the name of the file.
        batch: the inputs.
        skip_existing: whether inputs are left alone whose file is there.
        option: the name of the option, for errors.

    Raises:
        typer.BadParameter: many inputs for one file, or a suffix that is not known.
        CommandError: a file is where the folder would be.
    """

    out: Path
    types: Mapping[str, str]
    format: str | None
    batch: Batch
    skip_existing: bool = False
    option: str = "--out"
    _written: dict[Path, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        suffix = self.out.suffix.lower()
        known = suffix in self.types
        self._suffix = None if self.format is None else f".{self.format}"
        if self._suffix is not None and self._suffix not in self.types:
            raise self._refusal(f"{self.format!r} is none of {', '.join(s[1:] for s in self.types)}.", "--format")
        self._is_folder = self.out != STANDARD and (self.batch.many or self.out.is_dir() or not suffix)
        if self.batch.many and self.out == STANDARD:
            raise self._refusal("Standard output holds one file, and there is more than one input; name a folder.")
        if self._is_folder:
            if known and not self.out.is_dir():
                raise self._refusal(f"{self.out.name} names one file, and there is more than one input; name a folder.")
            _check_folder(self.out)
        elif self.out != STANDARD:
            if not known and self.format is None:
                raise self._refusal(f"{self.out.name!r} ends in none of {', '.join(self.types)}.")
            if known and self.format is not None and self.types[suffix] != self.types[f".{self.format}"]:
                raise self._refusal(f"{self.out.name!r} does not go with --format {self.format}.")
            self._suffix = self._suffix or suffix
            _check_folder(self.out.parent)

    def target(self, source: InputFile, default: str) -> Target:
        """Return the file to write for an input.

        Args:
            source: the input.
            default: the suffix where neither `--format` nor the name of a file says one.

        Raises:
            CommandError: the file is the input itself, or another input's.
            SkipError: it is there, and such inputs are to be skipped.
        """
        suffix = self._suffix or default
        path = self.out
        if self._is_folder:
            relative = source.relative
            name = relative.stem if relative.suffix.lower() in RESULT_SUFFIXES else relative.name
            is_of_format = self.types.get(Path(name).suffix.lower()) == self.types[suffix]
            path = self.out / relative.parent / (name if is_of_format else name + suffix)
        if path in self._written:
            raise CommandError(f"{source.name}: its file {path} is that of {self._written[path]} already.")
        if path != STANDARD and path.exists():
            if path.samefile(source.path):
                raise CommandError(f"{source.name}: the file to write is the input itself; choose another folder.")
            if self.skip_existing:
                raise SkipError(f"{path} is there")
        self._written[path] = source.name
        return Target(path, self.types[suffix])

    def of_pixels(self, source: InputFile, frames: int) -> Target:
        """Return the file to write for the pixels of an input: by default a picture, or a clip of several frames."""
        return self.target(source, ".png" if frames == 1 else ".mp4")

    def _refusal(self, sentence: str, option: str | None = None) -> typer.BadParameter:
        return typer.BadParameter(sentence, param_hint=option or self.option)


def _check_folder(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise CommandError(f"{path} is a file, so it cannot be the folder to write to.")
