"""What the Open Inference Protocol's requests to load and unload hold: a version, wherever a client puts it."""

from __future__ import annotations

from typing import Annotated, Final

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from service.http.problems import BAD_TENSORS, INVALID_PARAMETER, Problem
from service.prediction.parameters import MAX_VERSION


def _no_bool(value: object) -> object:
    if isinstance(value, bool):  # Python takes it for a number
        raise ValueError("should be a whole number, or one in a string")
    return value


NamedVersion = Annotated[int, Field(ge=1, le=MAX_VERSION), BeforeValidator(_no_bool)] | None
_VERSION: Final = Field(None, description="A number, or one in a string. Default: all that the model has.")


class LoadParameters(BaseModel):
    version: NamedVersion = _VERSION


class LoadBody(BaseModel):
    """The body of `load`; what else is in it is for Triton."""

    version: NamedVersion = _VERSION
    parameters: LoadParameters | None = None


class UnloadParameters(LoadParameters):
    model_config = ConfigDict(extra="forbid")

    unload_dependents: bool | None = Field(None, description="Triton's; nothing here depends on another model.")


class UnloadBody(LoadBody):
    """The body of `unload`. Unknown names are refused: a misspelled version must not take down all of them."""

    model_config = ConfigDict(extra="forbid")

    parameters: UnloadParameters | None = None


def parse_load(body: bytes) -> int | None:
    """The version to load, None if none is named. Raises Problem."""
    return _version(body, LoadBody)


def parse_unload(body: bytes) -> int | None:
    """The version to unload, None if none is named. Raises Problem."""
    return _version(body, UnloadBody)


def _version(body: bytes, model: type[LoadBody]) -> int | None:
    if not body.strip():
        return None
    try:
        asked = model.model_validate(orjson.loads(body))
    except orjson.JSONDecodeError as error:
        raise Problem(BAD_TENSORS, f"The body is no JSON ({error}); send a JSON object, or nothing.") from None
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False, include_context=False, include_input=False)
        detail = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'the body'}: {_message(one['msg'])}" for one in errors)
        raise Problem(INVALID_PARAMETER, detail) from None
    inner = None if asked.parameters is None else asked.parameters.version
    if asked.version is not None and inner not in (None, asked.version):
        raise Problem(INVALID_PARAMETER, f"version: {asked.version}, but {inner} in parameters; name one.")
    return asked.version or inner


def _message(text: str) -> str:
    return text.removeprefix("Value error, ").removeprefix("Input ").replace("Extra inputs are", "it is")
