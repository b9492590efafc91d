"""Manifests and settings come back as they were, through every form that they are written in."""

from __future__ import annotations

import json
import os
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic import BaseModel

from model.architecture import ArchitectureConfig
from model.runtime.bundles.bundle import read_manifest
from model.runtime.bundles.manifest import (
    INT8_FILE,
    NETWORK_FILE,
    EngineEvaluation,
    Evaluation,
    ExportCheck,
    FileRecord,
    Manifest,
    PrecisionEvaluation,
    Provenance,
    ServingDefaults,
    Trades,
    Unmeasured,
)
from model.runtime.images.values.intensity import Intensity
from model.runtime.preprocess import Preprocessing
from service.settings.configuration import effective, read_settings
from service.settings.environment import PREFIX
from service.settings.settings import Settings

COUNTS = st.integers(0, 2**53)
ONE_OR_MORE = st.integers(1, 2**53)
FIGURES = st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,30}", fullmatch=True)
FILE_NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}", fullmatch=True)
TEXTS = st.text(min_size=1, max_size=20)
METRICS = st.dictionaries(TEXTS, FIGURES, max_size=3)


def maybe(value: SearchStrategy[Any]) -> SearchStrategy[Any]:
    return st.none() | value


CHECKS = st.builds(
    ExportCheck,
    images=ONE_OR_MORE,
    batch_sizes=st.lists(st.integers(), max_size=3).map(tuple),
    max_box_error=st.floats(0, 1e30),
    max_score_error=st.floats(0, 1e30),
    max_mask_error=maybe(st.floats(0, 1e30)),
    max_keypoint_error=maybe(st.floats(0, 1e30)),
    ap_deltas=METRICS,
)
EVALUATION = {"dataset": st.text(), "images": COUNTS, "command": st.text(), "engine": st.text(), "metrics": METRICS}
ANOTHER = "another engine"
BY_ENGINE = {
    **EVALUATION,
    "file": FILE_NAMES,
    "library": st.text(),
    "processor": st.text(),
    "export_check": maybe(CHECKS),
    "padded_to": st.lists(COUNTS, max_size=2).map(tuple),
}
OTHERS = st.lists(st.builds(EngineEvaluation, **{**BY_ENGINE, "engine": st.just(ANOTHER)}), max_size=1)
PRECISE = st.builds(
    PrecisionEvaluation,
    **{**BY_ENGINE, "engine": st.text().filter(lambda engine: engine != ANOTHER)},
    calibration_images=maybe(ONE_OR_MORE),
    other_engines=OTHERS.map(tuple),
)
UNMEASURED = st.builds(Unmeasured, precision=st.just("f16"), engine=st.text(), why=TEXTS)
TRADES = st.builds(
    Trades,
    int8=st.booleans(),
    proposals=maybe(ONE_OR_MORE),
    ap_deltas=METRICS,
    other_engines=st.dictionaries(st.text(), METRICS, max_size=1),
)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    classes = tuple(draw(st.lists(st.text(max_size=10), min_size=1, max_size=4, unique=True)))
    keypoints = tuple(draw(st.lists(st.text(max_size=10), max_size=3)))
    channels = draw(st.integers(1, 16))
    int8 = draw(st.booleans())
    precisions = draw(st.dictionaries(st.just("bf16"), PRECISE))
    files = [NETWORK_FILE, *draw(st.lists(FILE_NAMES.filter(lambda name: name != INT8_FILE), max_size=3))]
    if int8 or precisions:
        precisions["f32"] = draw(PRECISE)
    if int8:
        precisions["int8"] = draw(PRECISE)
        files.append(INT8_FILE)
    record = st.builds(FileRecord, sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True), bytes=COUNTS)
    zones = st.builds(lambda minutes: timezone(timedelta(minutes=minutes)), st.integers(-720, 720))
    return Manifest(
        architecture=ArchitectureConfig(
            task="masks_keypoints" if keypoints else "masks",
            num_classes=len(classes) + 1,
            num_keypoints=len(keypoints) or 17,
            channels=channels,
            norm_eps=draw(st.floats(0, 1)),
            anchor_aspect_ratios=tuple(draw(st.lists(FIGURES, max_size=3))),
            image_mean=tuple(draw(st.lists(FIGURES, min_size=channels, max_size=channels))),
            image_std=(0.5,) * channels,
            rpn_nms_threshold=draw(st.floats(0, 1, exclude_min=True)),
        ),
        class_names=classes,
        keypoint_names=keypoints,
        preprocessing=Preprocessing(
            min_size=draw(st.integers(1, 900)),
            max_size=draw(st.integers(900, 9000)),
            reduced_decoding=draw(st.booleans()),
            intensity=draw(st.sampled_from((Intensity(), Intensity(mode="full-range", high=4095)))),
            channels=channels,
        ),
        defaults=ServingDefaults(
            score_threshold=draw(st.floats(0, 1, exclude_max=True)),
            score_thresholds=draw(st.dictionaries(st.sampled_from(classes), st.floats(0, 1, exclude_max=True))),
            max_detections=draw(ONE_OR_MORE),
        ),
        object_diameter=draw(maybe(st.floats(0, 1e6, exclude_min=True))),
        provenance=draw(
            st.builds(
                Provenance,
                dataset=TEXTS,
                license=TEXTS,
                images=maybe(COUNTS),
                seed=maybe(st.integers(-(2**53), 2**53)),
                recipe=maybe(st.text()),
                versions=st.dictionaries(st.text(), st.text(), max_size=2),
            )
        ),
        evaluation=tuple(draw(st.lists(st.builds(Evaluation, **EVALUATION), max_size=2))),
        export_check=draw(maybe(CHECKS)),
        trades=draw(maybe(TRADES)),
        precisions=precisions,
        unmeasured=tuple(draw(st.lists(UNMEASURED, max_size=2))),
        name=draw(NAMES),
        version=draw(ONE_OR_MORE),
        created=draw(st.datetimes(timezones=zones)),
        files={name: draw(record) for name in files},
    )


@given(manifests())
def test_a_manifest_comes_back_with_the_same_hash(tmp_path_factory: pytest.TempPathFactory, manifest: Manifest) -> None:
    folder = tmp_path_factory.getbasetemp() / "manifest"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
    again = read_manifest(folder)
    assert again == manifest
    assert again.sha256 == manifest.sha256
    changed = json.loads(manifest.model_dump_json()) | {"name": f"{manifest.name}x"}
    assert Manifest.model_validate(changed).sha256 != manifest.sha256


HOSTS = st.sampled_from(("127.0.0.1", "::1", "0.0.0.0", "localhost", "host.example"))
AUTO = st.just("auto")
POSITIVE = st.floats(1e-3, 1e12)
NOT_NEGATIVE = st.floats(0, 1e12)
PATHS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20).map(
    lambda text: str(Path(text))
)
# pydantic-settings takes a backslash before the end of a JSON string in a flag for an escape. No model is called so.
KEYS = PATHS.filter(lambda key: "\\" not in key)
VALUES: dict[str, SearchStrategy[Any]] = {
    "host": HOSTS,
    "port": st.integers(0, 65535),
    "cors_origins": st.lists(st.sampled_from(("*", "null", "https://a.example:8080", "http://b")), unique=True),
    "root_path": st.sampled_from(("", "/segmentation", "/a/b")),
    "trusted_proxies": st.lists(st.sampled_from(("*", "::1", "10.0.0.0/8", "127.0.0.1")), unique=True),
    "keep_alive_ms": POSITIVE,
    "model": NAMES,
    "keep_versions": ONE_OR_MORE,
    "versions": st.dictionaries(NAMES, ONE_OR_MORE, max_size=3),
    "model_aliases": st.dictionaries(NAMES, st.sampled_from(("*", "nuclei", "a:7")), max_size=3),
    "poll_interval_ms": NOT_NEGATIVE,
    "warm_up": st.sampled_from(("auto", "every-bucket", "one")),
    "device": st.sampled_from(("auto", "cpu", "cpu,cpu")),
    "precision": st.sampled_from(("f32", "bf16", "int8", "auto")),
    "engine_threads": AUTO | ONE_OR_MORE,
    "per_model": st.dictionaries(
        KEYS,
        st.fixed_dictionaries(
            {},
            optional={"max_batch_size": AUTO | ONE_OR_MORE, "max_queue_delay_ms": st.floats(0, 0.5)},
        ),
        max_size=2,
    ),
    "max_batch_size": AUTO | ONE_OR_MORE,
    "max_queue_delay_ms": st.floats(0, 0.5),
    "max_queue_size": st.integers(64, 2**53),
    "timeout_ms": st.floats(1, 1e12),
    "engine_stall_ms": AUTO | NOT_NEGATIVE,
    "decode_threads": AUTO | ONE_OR_MORE,
    "max_body_bytes": ONE_OR_MORE,
    "max_picture_pixels": st.integers(1, 2**32 - 1),
    "max_batch_images": AUTO | st.integers(1, 64),
    "api_keys_file": PATHS,
    "log_level": st.sampled_from(("debug", "info", "warning", "error")),
    "access_log": st.booleans(),
}
"""Of most settings, and every kind of value."""
ANY = st.fixed_dictionaries({}, optional=VALUES)


def written(name: str, value: Any) -> str:
    """As a flag or variable has it."""
    if name == "per_model":
        return json.dumps(value)
    if isinstance(value, dict):
        return ",".join(f"{key}{'=' if name == 'model_aliases' else ':'}{of}" for key, of in value.items())
    if isinstance(value, list):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_flags(values: dict[str, Any]) -> list[str]:
    return [
        f"--{'' if value else 'no-'}access-log"
        if name == "access_log"
        else f"--{name.replace('_', '-')}={written(name, value)}"
        for name, value in values.items()
    ]


def plain(settings: Settings) -> dict[str, Any]:
    """All but where it was read from."""
    return {name: value for name, value in vars(settings).items() if name != "config"}


def data(value: object) -> object:
    """As JSON has it, to compare with what was given."""
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_none=True)
    if isinstance(value, dict):
        return {key: data(of) for key, of in value.items()}
    if isinstance(value, tuple):
        return [*value]
    return str(value) if isinstance(value, Path) else value


@given(ANY)
def test_settings_are_the_same_as_flags_variables_and_a_file(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    with pytest.MonkeyPatch.context() as environment:
        for name in [*os.environ]:
            if name.startswith(PREFIX):
                environment.delenv(name)
        flags = as_flags(values)
        settings = read_settings(flags)
        for name, value in values.items():
            assert data(getattr(settings, name)) == value, name

        file = tmp_path_factory.getbasetemp() / "settings.toml"
        file.write_text(effective(settings, flags), encoding="utf-8")
        again = read_settings([f"--config={file}"])
        assert plain(again) == plain(settings)

        for name, value in values.items():
            environment.setenv(PREFIX + name.upper(), written(name, value))
        assert plain(read_settings([])) == plain(settings)
