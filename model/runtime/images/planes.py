"""Which of the pictures in one file is meant: pages, channels, focal planes, points of time."""

from __future__ import annotations

from dataclasses import dataclass

from model.runtime.images.channels import RGB_CHANNELS
from model.runtime.images.errors import NoSuchPlane, TooManyPlanes


@dataclass(frozen=True, slots=True)
class PlaneChoice:
    """What was asked for, counted from 0. None where nothing was: then the first is taken.

    `page` counts all planes in the file's own order; `z`, `t` and `channel` go by the axes that it states. `channel`
    is seen as gray.
    `inputs` is how many channels the picture shall have; `channels` says which of the file's these are, None for one
    that is black. Where it is empty, gray and RGB pictures become 3 inputs as viewers show them, or 1 as gray, and of
    any other number the file must have exactly as many.

    Raises ValueError where these contradict each other; the message is for whoever asked.
    """

    page: int | None = None
    z: int | None = None
    t: int | None = None
    channel: int | None = None
    channels: tuple[int | None, ...] = ()
    inputs: int = RGB_CHANNELS

    def __post_init__(self) -> None:
        if self.channels and self.channel is not None:
            raise ValueError("channel and channels are two ways to say the same: give one of them")
        if self.channel is not None and self.inputs not in (1, RGB_CHANNELS):
            raise ValueError(f"the model takes {self.inputs} channels: name them with channels={_example(self.inputs)}")
        if self.channels and len(self.channels) != self.inputs:
            raise ValueError(
                f"the model takes {_counted(self.inputs)}, not {len(self.channels)}: name as many, such as "
                f"{_example(self.inputs)}; an empty one is black"
            )
        if self.channels and set(self.channels) == {None}:
            raise ValueError("all of them are black: name at least one channel of the file")

    @property
    def by_channel(self) -> bool:
        """Whether the file's channels are taken one by one, rather than as the colors that viewers show."""
        return bool(self.channels) or self.inputs not in (1, RGB_CHANNELS)

    def of(self, size: int) -> Channels:
        """What is taken of a file with `size` channels. Raises NoSuchPlane."""
        if not self.channels and size != self.inputs:
            example = ",".join(str(index) if index < size else "" for index in range(self.inputs))
            raise NoSuchPlane(
                f"the image has {_counted(size)} and the model takes {self.inputs}; a request can say which with "
                f"channels={example} (an empty one is black, and opacity is no channel)"
            )
        taken = self.channels or tuple(range(size))
        for index in taken:
            if index is not None and index >= size:
                raise NoSuchPlane(f"the image has no channel {index}: it has {size}, counted from 0")
        return Channels(taken, size)


FIRST_PLANE = PlaneChoice()


@dataclass(frozen=True, slots=True)
class PlaneAxis:
    """Which of several was taken: `index`, counted from 0, of `size` along the axis page, z, t or channel."""

    name: str
    index: int
    size: int


@dataclass(frozen=True, slots=True)
class Channels:
    """Which of a file's `size` channels became a network's inputs, counted from 0; None for an input that is black."""

    taken: tuple[int | None, ...]
    size: int

    @property
    def used(self) -> tuple[int, ...]:
        """Each channel that was taken once, rising."""
        return tuple(sorted({index for index in self.taken if index is not None}))


@dataclass(frozen=True, slots=True)
class OnePlane:
    """A plane of a file: the choice that gives it alone, and which of several it is along each axis."""

    choice: PlaneChoice
    axes: tuple[PlaneAxis, ...] = ()


@dataclass(frozen=True, slots=True)
class Planes:
    """Planes of a file, in its order. `pixels` is what the largest has by its header, 0 where none says it."""

    planes: tuple[OnePlane, ...]
    pixels: int = 0


def check_number(planes: int, most: int) -> None:
    """Raises TooManyPlanes."""
    if planes > most:
        raise TooManyPlanes(
            f"that would be {planes} planes of the image, and at most {most} are answered at once; ask for fewer of "
            f"them by z, t and channel, or for one by page"
        )


def _counted(channels: int) -> str:
    return f"{channels} channel{'' if channels == 1 else 's'}"


def _example(inputs: int) -> str:
    return ",".join(map(str, range(inputs)))
