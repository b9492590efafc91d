"""The tensors of a network in a file that any program saved with `torch.save`: alone, or in a checkpoint of its own.

Nothing is run that a file contains: only tensors, plain values and a few inert types are made of it.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import pickle  # nosec B403  # for its error: torch unpickles, and only what is inert
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.dtypes import BoolDType, Float32DType, Float64DType, Int32DType, Int64DType
from torch import Tensor

WRAPPERS: Final = ("model", "state_dict", "model_state_dict", "model_state", "net", "network", "module", "weights")
"""What checkpoints call the network beside an optimizer, a schedule and averages of it, the likeliest first."""
ROOTS: Final = ("backbone.", "rpn.", "roi_heads.")
"""What a detector's tensors are called first, once wrappers' prefixes are gone: DDP's module., Lightning's model."""
SHOWN: Final = 4
"""Names that a message lists."""

_SCALAR: Final = np.float64(0).__reduce__()[0]  # what a pickled NumPy number calls, under the name of this NumPy
_INERT: Final[list[Any]] = [
    argparse.Namespace,
    *(pathlib.PosixPath, pathlib.PurePosixPath),
    *(_SCALAR, (_SCALAR, "numpy.core.multiarray.scalar"), np.dtype),
    *(BoolDType, Float32DType, Float64DType, Int32DType, Int64DType),
]
"""Types beside tensors that torch does not know to be harmless, and training scripts save: their arguments, figures."""


class StateFileError(ValueError):
    """A file without a network's tensors that could be read. The message says what it is, on one line."""


def read_file(path: Path) -> Any:
    """What `torch.save` wrote into the file, on the CPU. Raises StateFileError where it is damaged, or holds objects
    that only running code could make."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if (damaged := archive.testzip()) is not None:  # torch does not look at the checksums that it writes
                    raise StateFileError(f"{path} is damaged: {damaged} in it was changed")
        with torch.serialization.safe_globals(_INERT):
            return torch.load(path, map_location="cpu", weights_only=True)
    except StateFileError:
        raise
    except Exception as error:  # torch.load raises half a dozen types for a damaged file
        if isinstance(error, pickle.UnpicklingError) and (objects := _objects(path, str(error))):
            raise StateFileError(
                f"{path} holds objects, not only tensors ({', '.join(objects)}), and no code of a file is run here; "
                f"save the network's weights alone, with torch.save(model.state_dict(), FILE)"
            ) from error
        # Of what torch says about a pickle, the line behind these words is about the file.
        reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip().partition("\n")[0]
        raise StateFileError(
            f"{path} is not a readable file of torch.save ({type(error).__name__}: {reason}); save weights with "
            f"torch.save(model.state_dict(), FILE)"
        ) from error


def network_state(content: object, path: Path) -> tuple[str, dict[str, Tensor]]:
    """Where in a file's content the network's tensors are ("" for the whole), and they themselves, under the names that
    the network alone has. Raises StateFileError."""
    states = dict(_states(content, ()))
    found = {place: state for place, state in states.items() if any(map(_root_of, state))} or states
    if not found:
        raise StateFileError(
            f"{path} holds no network: {_described(content)}; save its weights with "
            f"torch.save(model.state_dict(), FILE)"
        )
    place = min(found, key=_likelihood)
    if len(found) > 1 and place[-1] not in WRAPPERS:
        named = ", ".join(".".join(one) for one in found)
        raise StateFileError(
            f"{path} holds several networks ({named}); save the one that is meant, with "
            f"torch.save(model.state_dict(), FILE)"
        )
    return ".".join(place), _without_prefix(found[place], path)


def _states(content: object, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every mapping of names to tensors, and where it lies. What else may stand beside the tensors is left out."""
    if not isinstance(content, Mapping):
        return
    tensors = {name: one for name, one in content.items() if isinstance(name, str) and isinstance(one, Tensor)}
    if tensors and (len(tensors) == len(content) or any(map(_root_of, tensors))):
        yield place, tensors
        return
    for name, one in content.items():
        if isinstance(name, str) and not name.startswith("optimizer"):
            yield from _states(one, (*place, name))


def _likelihood(place: tuple[str, ...]) -> tuple[int, int]:
    rank = WRAPPERS.index(place[-1]) if place and place[-1] in WRAPPERS else len(WRAPPERS)
    return rank, len(place)


def _root_of(name: str) -> re.Match[str] | None:
    """Where one of a detector's modules begins in a tensor's name: at its start, or behind prefixes."""
    return re.match(rf"(?P<prefix>(?:\w+\.)*?)(?:{'|'.join(map(re.escape, ROOTS))})", name)


def _without_prefix(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of the detector alone where their names begin with a wrapper's prefix; else all, as they are."""
    prefixes = collections.Counter(match["prefix"] for name in state if (match := _root_of(name)))
    if not prefixes:
        return dict(state)
    (prefix, most), *others = prefixes.most_common()
    if others and others[0][1] == most:
        raise StateFileError(
            f"{path} holds several networks, whose names begin with {prefix!r} and {others[0][0]!r}; save the one that "
            f"is meant, with torch.save(model.state_dict(), FILE)"
        )
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _objects(path: Path, message: str) -> list[str]:
    """The types in a file that are not inert, by name."""
    if zipfile.is_zipfile(path):
        with torch.serialization.safe_globals(_INERT):
            names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    else:  # of files in the older form torch names the first alone
        names = re.findall(r"GLOBAL (\S+)", message)[:1]
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return [*names[:SHOWN], *more]


def _described(content: object) -> str:
    if isinstance(content, Tensor):
        return f"it is one tensor, {list(content.shape)}"
    if not isinstance(content, Mapping):
        return f"it is a {type(content).__name__}"
    names = [str(name) for name in content]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"it has {', '.join(names[:SHOWN])}{more}, and no tensors by name" if names else "it is empty"
