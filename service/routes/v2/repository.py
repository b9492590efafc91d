"""What the Open Inference Protocol's requests to load and unload hold: a version, wherever a client puts it."""

from __future__ import annotations

import re
from typing import Annotated, Final, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from service.http.problems import BAD_TENSORS, INVALID_PARAMETER, Problem
from service.prediction.parameters import MAX_VERSION


def _number(value: object) -> object:
    """JSON has one kind of number, and Triton's clients write versions as strings."""
    if isinstance(value, str) and re.fullmatch("[1-9][0-9]{0,9}", value):
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Written = Annotated[int, Field(ge=1, le=MAX_VERSION)] | Annotated[str, Field(pattern="^[1-9][0-9]{0,8}$")]
NamedVersion = Annotated[int, Field(strict=True, ge=1, le=MAX_VERSION), BeforeValidator(_number, _Written)] | None
Body = TypeVar("Body", bound=BaseModel)
_EXTRA: Final = "Extra inputs are not permitted"
_NOT_TAKEN: Final = "it is not permitted; name a version, or nothing: what is loaded lies in the repository"
_VERSION: Final = Field(None, description="A number, or one in a string. Default: all that the model has.")


class LoadParameters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: NamedVersion = _VERSION


class LoadBody(BaseModel):
    """The body of `load`. Unknown names are refused, as Triton's `config` and `file:...`, which would else be taken for
    heeded.
    """

    model_config = ConfigDict(extra="forbid")

    version: NamedVersion = _VERSION
    parameters: LoadParameters | None = None


class UnloadParameters(LoadParameters):
    unload_dependents: bool | None = Field(
        None, strict=True, description="Triton's; nothing here depends on another model."
    )


class UnloadBody(LoadBody):
    """The body of `unload`. Unknown names are refused: a misspelled version must not take down all of them."""

    parameters: UnloadParameters | None = None


class IndexBody(BaseModel):
    """The body of `index`."""

    ready: bool = Field(False, strict=True, description="list only what is served")


def parse_index(body: bytes) -> IndexBody:
    """Raises Problem."""
    return _parsed(body, IndexBody)


def parse_load(body: bytes) -> int | None:
    """The version to load, None if none is named. Raises Problem."""
    return _version(body, LoadBody)


def parse_unload(body: bytes) -> int | None:
    """The version to unload, None if none is named. Raises Problem."""
    return _version(body, UnloadBody)


def _parsed(body: bytes, model: type[Body]) -> Body:
    try:
        return model.model_validate(orjson.loads(body) if body.strip() else {})
    except orjson.JSONDecodeError as error:
        raise Problem(BAD_TENSORS, f"The body is no JSON ({error}); send a JSON object, or nothing.") from None
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False, include_context=False, include_input=False)
        detail = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'the body'}: {_message(one['msg'])}" for one in errors)
        raise Problem(INVALID_PARAMETER, detail) from None


def _version(body: bytes, model: type[LoadBody]) -> int | None:
    asked = _parsed(body, model)
    inner = None if asked.parameters is None else asked.parameters.version
    if asked.version is not None and inner not in (None, asked.version):
        raise Problem(INVALID_PARAMETER, f"version: {asked.version}, but {inner} in parameters; name one.")
    return asked.version or inner


def _message(text: str) -> str:
    return text.removeprefix("Value error, ").removeprefix("Input ").replace(_EXTRA, _NOT_TAKEN)
