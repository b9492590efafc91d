"""Predict a folder, a list or a bucket on this machine, and go on where a run was killed.

maskserve predict-many model/samples/nuclei --output found
maskserve predict-many 's3://bucket/images' --output s3://bucket/found
maskserve predict-many data/annotations/instances_val.json --images data/val --format coco --output found
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import model.console.running  # noqa: F401  # says in one line which package is missing
from model.console.running import WRONG, interruptible
from service.client.command.inputs import UsageError
from service.predict_many.command_line import read_arguments
from service.predict_many.display import say
from service.settings.settings import InvalidSettingsError


def main(arguments: Sequence[str] | None = None) -> int:
    """Predicts what is missing and merges all; returns the exit status."""
    try:
        asked = read_arguments(None if arguments is None else list(arguments))
        from service.predict_many.command import run  # with pyarrow, which --help does without

        return run(asked)
    except (UsageError, InvalidSettingsError) as error:
        say(" ".join(str(error).split()))
        return WRONG


if __name__ == "__main__":
    sys.exit(interruptible(main))
