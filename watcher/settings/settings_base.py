"""What every group of settings is built on: where values come from, and what is said about each."""

from __future__ import annotations

from typing import Any

from pydantic import AliasGenerator, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict


def setting(meaning: str, allowed: str, default: Any = ..., **constraints: Any) -> Any:
    """A setting that means this, and whose value must be what is `allowed`, in words for a person."""
    return Field(default=default, description=meaning, json_schema_extra={"allowed": allowed}, **constraints)


class SettingsGroup(BaseSettings):
    """Settings whose attributes are the documented names in lower case."""

    model_config = SettingsConfigDict(
        alias_generator=AliasGenerator(validation_alias=str.upper),
        case_sensitive=True,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Everything comes in through `load_settings`, which knows the two sources and their order."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)
