"""What a run is, frozen in its folder when it begins: another run into the same folder is refused."""

from __future__ import annotations

import hashlib
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from service import VERSION
from service.client.command.inputs import UsageError
from service.models.catalog import ServedModel
from service.predict_many.shards import PLAN
from service.predict_many.sources import Images
from service.prediction.parameters import PredictParameters
from service.settings.settings import Settings

FILE: Final = PLAN
LEAST, MOST, PARTS = 16, 1024, 100
"""Images in a part unless the user says how many: a hundredth of all, within these bounds."""


class Listing(BaseModel):
    """The images of a run."""

    model_config = ConfigDict(frozen=True)

    images: int
    sha256: str

    @classmethod
    def of(cls, images: Images) -> Listing:
        return cls(images=len(images), sha256=images.sha256)


class Model(BaseModel):
    """What computes. `sha256` is of the bundle's manifest, which has that of every file; `device` is its kind."""

    model_config = ConfigDict(frozen=True)

    name: str
    version: int
    sha256: str
    engine: str
    precision: str
    device: str


class Plan(BaseModel):
    """All that the bytes of the results depend on, but for pyarrow's release. `options` are the prediction's parameters
    and limits by name, None where they are the model's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    maskserve: str
    list: Listing
    shard_size: int
    model: Model
    options: dict[str, Any]

    @classmethod
    def of(
        cls,
        listing: Listing,
        model: ServedModel,
        parameters: PredictParameters,
        settings: Settings,
        shard_size: int | None,
    ) -> Plan:
        kinds = sorted({device.partition(":")[0] for device in model.devices})
        return cls(
            maskserve=VERSION,
            list=listing,
            shard_size=shard_size or min(MOST, max(LEAST, listing.images // PARTS)),
            model=Model(
                name=model.name,
                version=model.version,
                sha256=hashlib.sha256(model.manifest.model_dump_json().encode()).hexdigest(),
                engine=model.engines[0].name,
                precision=model.precision,
                device=",".join(kinds),
            ),
            options={
                **parameters.model_dump(mode="json"),
                "max_pixels": settings.max_pixels,
                "max_picture_pixels": settings.max_picture_pixels,
            },
        )

    @property
    def shards(self) -> int:
        return -(-self.list.images // self.shard_size)

    def images_of(self, shard: int) -> range:
        """The places in the list of a shard's images."""
        first = shard * self.shard_size
        return range(first, min(first + self.shard_size, self.list.images))

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=2).encode() + b"\n"

    @property
    def digest(self) -> str:
        """What its shards are told by."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def agree(self, content: bytes, folder: str, *, any_size: bool) -> Plan:
        """The plan that `content`, the file in the folder, holds, where it is this one. any_size: whatever its shard
        size is. Raises UsageError, which names what differs."""
        try:
            there = Plan.model_validate_json(content)
        except ValidationError:
            raise UsageError(f"{folder}/{FILE} is no plan that this release reads: give another --output") from None
        here = self.model_copy(update={"shard_size": there.shard_size}) if any_size else self
        if differing := differences(there, here):
            raise UsageError(
                f"{folder} holds another run, which differs in {'; '.join(differing)}: give another --output, or the "
                f"command that began it"
            )
        return there


def differences(then: Plan, now: Plan, words: tuple[str, str] = ("then", "now")) -> list[str]:
    """What differs, in words. `words` say which is which."""
    first, second = words
    found = []
    if then.list != now.list:
        counts = f"{then.list.images} {first}, {now.list.images} {second}"
        same = then.list.images == now.list.images
        found.append(f"the list of images ({'others, or in another order' if same else counts})")
    if (then.model.name, then.model.version) != (now.model.name, now.model.version):
        models = [f"{model.name}/{model.version}" for model in (then.model, now.model)]
        found.append(f"the model ({models[0]} {first}, {models[1]} {second})")
    elif then.model.sha256 != now.model.sha256:
        found.append(f"the files of the model {then.model.name}/{then.model.version}")
    pairs = [("maskserve's release", then.maskserve, now.maskserve), ("shard_size", then.shard_size, now.shard_size)]
    pairs += [(one, getattr(then.model, one), getattr(now.model, one)) for one in ("engine", "precision", "device")]
    pairs += [(one, then.options.get(one), now.options.get(one)) for one in {**then.options, **now.options}]
    found += [f"{name} ({_said(old)} {first}, {_said(new)} {second})" for name, old, new in pairs if old != new]
    return found


def _said(value: object) -> str:
    return "the model's" if value is None else str(value)
