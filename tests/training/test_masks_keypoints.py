"""Masks and keypoints in one model, from generated figures to a server's answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from faster_coco_eval import mask as mask_api

from model.runtime.bundles.repository import Repository
from tests.service.harness import Server
from training.data.figures import write_figures
from training.data.formats.coco.layouts import find_splits
from training.data.formats.coco.reader import load_coco
from training.evaluate import main as evaluate
from training.train import main as train

NARROW = (
    "--workers=0",
    "--batch_size=2",
    "--schedule.iterations=3",
    "--schedule.warmup=1",
    "--validation.every=3",
    "--architecture.fpn_channels=16",
    "--architecture.box_head_channels=32",
    "--architecture.mask_head_convs=[16]",
    "--architecture.mask_predictor_channels=16",
    "--architecture.keypoint_head_convs=[16]",
    "--architecture.rpn_post_nms_top_n_test=30",
    "--architecture.min_size=96",
    "--architecture.max_size=128",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, too short to find anything surely, with its data."""
    folder = tmp_path_factory.mktemp("figures")
    write_figures(folder / "data", train=6, val=3, seed=0, size=96)
    assert train(["--recipe=figures", *NARROW, f"--data={folder / 'data'}", f"--output={folder / 'run'}"]) == 0
    return folder


def test_the_bundle_was_compared_in_both(folder: Path) -> None:
    manifest = Repository(folder / "run" / "models").latest("figures").manifest
    data = load_coco(*find_splits(folder / "data", "masks_keypoints").train)
    assert manifest.architecture.task == "masks_keypoints"
    assert len(manifest.keypoint_names) == data.num_keypoints == manifest.architecture.num_keypoints
    assert manifest.export_check is not None
    assert manifest.export_check.max_mask_error is not None
    assert manifest.export_check.max_keypoint_error is not None
    assert set(manifest.evaluation[0].metrics) >= {"box/AP", "mask/AP", "keypoints/AP"}


def test_a_server_answers_with_masks_and_keypoints(folder: Path) -> None:
    server = Server.start(folder / "run" / "models", "--engine-threads", "1")
    try:
        image = next((folder / "data").rglob("*.png"))
        reply = server.predict(image.read_bytes(), score_threshold=0.01)
        answer = reply.raise_for_status().json()
        outputs = server.client.get("/v2/models/figures").json()["outputs"]
    finally:
        server.close()
    assert len(answer["scores"]) > 0
    for mask, keypoints in zip(answer["masks"], answer["keypoints"], strict=True):
        assert mask_api.decode(mask).shape == (96, 96)
        assert np.isfinite(np.array(keypoints)).all()
        assert np.array(keypoints).shape == (9, 3)
    assert {"MASKS", "KEYPOINTS"} <= {output["name"] for output in outputs}


def test_all_kinds_are_evaluated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = str(folder / "run" / "models" / "figures" / "1")
    assert evaluate(["--model", bundle, "--data", str(folder / "data")]) == 0
    printed = capsys.readouterr().out
    assert all(kind in printed for kind in ("box", "mask", "boundary", "keypoints"))
