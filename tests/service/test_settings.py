"""Settings cannot change while the service runs, and nothing unknown is one."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from pydantic import ValidationError

from service.settings import Limits, Settings


@pytest.mark.parametrize(("settings", "name"), [(Limits(), "tokens"), (Settings(bundles=()), "port")])
def test_settings_are_fixed(settings: Limits | Settings, name: str) -> None:
    with pytest.raises((ValidationError, FrozenInstanceError), match=r"frozen|cannot assign"):
        setattr(settings, name, 1)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="colour"):
        Limits(colour=1)
    with pytest.raises(ValidationError, match="colour"):
        Settings(bundles=(), limits={"colour": 1})


def test_a_port_that_nobody_could_call_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Settings(bundles=(), port=0)
