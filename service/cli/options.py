"""Options that several commands share, and their way from a typed group to the command line and back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from inspect import Parameter
from itertools import chain
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer
from pydantic import BaseModel, ValidationError

from media.errors import MediaError
from model.bundle_files import CONFIG_FILE
from service.cli.errors import CommandError
from service.errors import ProblemError
from service.formats.media_types import MSGPACK, NPY, NPZ, SAFETENSORS
from service.formats.validation import field_errors, sentence

if TYPE_CHECKING:
    from service.settings import Settings

DEFAULT_BUNDLE = Path("bundles/demo-vq")
Device = Literal["auto", "cpu", "cuda"]

PICTURE_SUFFIXES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
LOSSY = ("image/jpeg", "image/webp")
CLIP_SUFFIXES = {".mp4": "video/mp4", ".webm": "video/webm", ".gif": "image/gif"}
ARRAY_SUFFIX = ".npy"
PIXEL_SUFFIXES = {**PICTURE_SUFFIXES, **CLIP_SUFFIXES, ARRAY_SUFFIX: NPY}
RESULT_SUFFIXES = {".npz": NPZ, ".safetensors": SAFETENSORS, ".msgpack": MSGPACK}

NAMED_AFTER = "folder of files named after the inputs"
MEDIA_HELP = "Images, videos, .npy of uint8 (H, W, 3) or (T, H, W, 3), folders of these, or - for standard input."

BundleOption = Annotated[
    Path | None, typer.Option("--bundle", "-b", help="Bundle folder.", show_default=str(DEFAULT_BUNDLE))
]
ServerOption = Annotated[str | None, typer.Option("--server", "--url", help="Work through the service at this URL.")]
KeyOption = Annotated[
    str | None,
    typer.Option("--api-key", envvar="OMNITOK_API_KEY", show_envvar=True, help="Key for that service."),
]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where to run offline.")]
SkipOption = Annotated[bool, typer.Option("--skip-existing", help="Leave inputs whose output is there already.")]

# Shorter names of options that the service calls otherwise.
ALIASES = {"start_s": "--start", "end_s": "--end"}
KEYWORD = Parameter.KEYWORD_ONLY
KINDS = {"integer": int, "number": float, "boolean": bool, "string": str}


@dataclass(frozen=True)
class TokenizerLocation:
    """The location of a tokenizer: a bundle on this machine, or a service."""

    bundle: BundleOption = None
    server: ServerOption = None
    api_key: KeyOption = None
    device: DeviceOption = "auto"

    def check(self, model: str | None) -> None:
        """Refuse options of offline work and of a server together.

        Args:
            model: id of a bundle of the server.

        Raises:
            typer.BadParameter: they are mixed.
        """
        if self.server is not None and self.bundle is not None:
            raise typer.BadParameter("A server uses its own bundles; name one with --model.", param_hint="--bundle")
        if self.server is None and model is not None:
            raise typer.BadParameter("This names a model of a server; offline, use --bundle.", param_hint="--model")


def grouped(*, without: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that puts the options of each group in place of the group, for typer.

    A group is a parameter that is annotated with a dataclass, whose fields are annotated for typer, or with a pydantic
    model, whose fields become options by its JSON schema. The command raises `typer.BadParameter` for values that do
    not fit the model.

    Args:
        without: fields of models that are not options.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters = inspect.signature(command, eval_str=True).parameters
        groups = {
            name: parameter.annotation for name, parameter in parameters.items() if _is_group(parameter.annotation)
        }
        options = {name: _options(group, without) for name, group in groups.items()}
        plain = [item.replace(kind=KEYWORD) for name, item in parameters.items() if name not in groups]

        @wraps(command)
        def run(**values: Any) -> None:
            for name, group in groups.items():
                given = {option.name: values.pop(option.name) for option in options[name]}
                values[name] = _made(group, {word.rstrip("_"): value for word, value in given.items()})
            command(**values)

        run.__signature__ = inspect.Signature([*plain, *chain(*options.values())])  # type: ignore[attr-defined]
        run.__annotations__ = {}
        return run

    return decorate


def choose_bundle(bundle: Path | None, default: Path = DEFAULT_BUNDLE) -> Path:
    """Return the bundle that was named, or the default one.

    Raises:
        CommandError: none was named and the default one is not there.
    """
    if bundle is not None:
        return bundle
    if not default.is_dir():
        raise CommandError(f"No bundle was named and {default} does not exist here; use --bundle or --server.")
    return default


def bundles_in(folder: Path) -> list[Path]:
    """Return the bundles in a folder, by name; there are none in one that does not exist."""
    return sorted(path.parent for path in folder.glob(f"*/{CONFIG_FILE}"))


def read_settings(**given: Any) -> Settings:
    """Return the settings of the environment, and of the command line before it.

    Raises:
        CommandError: one of them is not valid.
    """
    from service.settings import Settings

    try:
        return Settings(**given)
    except ValidationError as error:
        raise CommandError(f"The settings are invalid: {'; '.join(map(_wrong, error.errors()))}.") from error
    except ValueError as error:  # what should be JSON is not
        raise CommandError(f"The settings are invalid: {error}. Its value is JSON; docs/settings.md has it.") from error


def with_value(text: str, value: object) -> str:
    """Return a sentence that says what an option must be, with the value that was given."""
    return f"{text.removesuffix('.')}, not {value}." if text.startswith("It must be ") else text


def _wrong(item: Any) -> str:
    name, text = ".".join(map(str, item["loc"])), sentence(item).rstrip(".")
    return f"{name}={item['input']!r}: {text}" if name else text


def _is_group(annotation: Any) -> bool:
    return isinstance(annotation, type) and (is_dataclass(annotation) or issubclass(annotation, BaseModel))


def _options(group: Any, without: Collection[str]) -> list[Parameter]:
    if issubclass(group, BaseModel):
        schemas = group.model_json_schema()["properties"].items()
        return [_option(name, schema) for name, schema in schemas if name not in without]
    hints = get_type_hints(group, include_extras=True)
    return [Parameter(item.name, KEYWORD, default=item.default, annotation=hints[item.name]) for item in fields(group)]


def _option(name: str, schema: dict[str, Any]) -> Parameter:
    """Return the option of a model's field; its value is None, or False of a flag, where it is not given.

    A name that is a word of Python's gets an underscore at its end.
    """
    word = f"{name}_" if iskeyword(name) else name
    choice = next(item for item in schema.get("anyOf", [schema]) if item["type"] != "null")
    kind: Any = Literal[tuple(choice["enum"])] if "enum" in choice else KINDS[choice["type"]]
    text, default = (schema | choice)["description"], schema.get("default")
    bounds, span = {"min": choice.get("minimum"), "max": choice.get("maximum")}, ""
    if kind is float:  # the model refuses what is not finite in a better sentence
        least = choice.get("minimum", choice.get("exclusiveMinimum"))
        bounds, span = {}, f" ({least:g} to {choice['maximum']:g})"
    option = typer.Option(
        _flag(name),
        *([ALIASES[name]] if name in ALIASES else []),
        **bounds,
        help=f"{text[0].upper()}{text[1:]}{span}.",
        show_default=str(default) if default else False,
    )
    if kind is bool:
        return Parameter(word, KEYWORD, default=False, annotation=Annotated[bool, option])
    return Parameter(word, KEYWORD, default=None, annotation=Annotated[kind | None, option])


def _made(group: Any, values: dict[str, Any]) -> Any:
    if not issubclass(group, BaseModel):
        return group(**values)
    try:
        return group.model_validate(
            {name: value for name, value in values.items() if not (value is None or value is False)}
        )
    except ValidationError as error:
        fault = field_errors(error, group)[0]
    except (MediaError, ProblemError) as error:
        fault = error.errors[0]
    name = fault["pointer"].strip("/").partition("/")[0]
    detail = with_value(fault["detail"], values.get(name))
    raise typer.BadParameter(detail, param_hint=_flag(name) if name else None)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
