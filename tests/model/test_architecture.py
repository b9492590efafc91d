"""What a network may be, as data."""

import pytest
from pydantic import ValidationError

from model.architecture import PRESETS, ArchitectureConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"anchor_sizes": ((32,), (64,))}, "5 feature levels", id="too few anchor groups for an FPN"),
        pytest.param({"backbone": "mobilenet_v3_large"}, "3 feature levels", id="too many groups for a mobilenet"),
        pytest.param({"min_size": 900, "max_size": 800}, "smaller than min_size", id="sizes crossed"),
        pytest.param({"backbone": "vgg"}, "resnet18", id="unknown backbone names the known ones"),
        pytest.param({"num_clases": 3}, "num_clases", id="misspelt field"),
        pytest.param({"num_classes": 1}, "greater than or equal to 2", id="background alone"),
    ],
)
def test_what_cannot_be_built_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ArchitectureConfig.model_validate(fields)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_survive_json(name: str) -> None:
    preset = PRESETS[name]
    assert ArchitectureConfig.model_validate_json(preset.model_dump_json()) == preset
