"""Generators of a service, as the command sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from media.types import MediaOptions
from service.cli.generators import OnProgress, Prefix
from service.cli.inputs import is_array, open_media
from service.cli.remote import failures
from service.client import Client
from service.client.generation import samples_of
from service.formats.samples import Samples
from service.operations.options_generate import GenerateOptions


class ServiceGenerator:
    """The generators of a service.

    Args:
        client: a connection to it.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def generate(self, prefix: Prefix | None, options: GenerateOptions, on_progress: OnProgress) -> Samples:
        """Make samples.

        Raises:
            CommandError: the service refuses or fails, or a file cannot be read.
        """
        given: Any = options.model_dump(exclude_unset=True)
        source = prefix_media(prefix)
        events = []
        with failures():
            for event in self._client.generate_events(given.pop("class_", None), prefix=source, **given):
                if event.name == "progress":
                    on_progress(event.fields["done"], event.fields["total"])
                events.append(event)
        return samples_of(events)


def prefix_media(prefix: Prefix | None) -> Any:
    """Return frames to continue in the form of a call.

    Raises:
        CommandError: a file cannot be read.
    """
    if isinstance(prefix, Path) and is_array(prefix):
        with open_media(prefix, MediaOptions()) as reader:
            return np.stack(list(reader))
    return prefix
