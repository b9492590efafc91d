"""The benchmark of the graph on a CPU, tiny: every step runs, and what it says about answers and work adds up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import model
from benchmarks.graph import subject as graph
from benchmarks.graph.__main__ import ALL, ENGINE, FEW, IN_BFLOAT16, OURS, PLAIN, PROFILED, TOLD, TORCHVISION, main
from benchmarks.graph.subject import of_bundle
from benchmarks.graph.work import (
    PRODUCT_NAMES,
    PRODUCTS,
    TooFewDetections,
    WrongAnswer,
    agree,
    found_again,
    threshold_for,
    torchvision_predict,
)
from model.runtime.detections import Detections
from model.runtime.engines.cores import usable_cores
from model.runtime.kernels.rle import encode_bitmap
from model.runtime.predict import Predictor

MODEL = Path(model.__file__).parent
BUNDLE, IMAGE = MODEL / "embedded" / "nuclei" / "1", MODEL / "samples" / "nuclei" / "small.png"

SIDE = 256
"""Of the matrix products in a quick run."""
MASK_GFLOP = 2e-9 * (14 * 14 * (9 * (2 * 256 * 16 + 2 * 16 * 16) + 4 * 256 * 256) + 28 * 28 * 256 * 5)
"""Of one detection in a quick run: four convolutions, one transposed, and five classes' logits."""

MASK = encode_bitmap(np.pad(np.ones((15, 6), np.bool_), 5))
OTHER_MASK = encode_bitmap(np.pad(np.ones((15, 5), np.bool_), ((5, 5), (5, 6))))

ANSWER = Detections(
    boxes=np.array([[0, 0, 10, 10], [20, 20, 40, 50], [5, 5, 30, 20]], np.float32),
    scores=np.array([0.9, 0.7, 0.5], np.float32),
    labels=np.array([1, 2, 1]),
    masks=[MASK, MASK, MASK],
)


def test_a_quick_run_goes_through_every_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "graph.json"
    assert main(["--quick", "--threads", "1", "--rounds", "1", "--json", str(file)]) == 0
    comparisons = json.loads(file.read_text())["comparisons"]
    everything, all_profile, few, few_profile, *halves, throughput = comparisons
    assert _names(everything) == [TORCHVISION, OURS, ENGINE, *PRODUCT_NAMES]
    assert _names(few) == [TORCHVISION, TOLD, OURS, ENGINE, *PRODUCT_NAMES]
    assert _names(all_profile) == _names(few_profile) == [PLAIN, PROFILED]
    cores = usable_cores()
    layouts = {(1, cores, 1), (cores, 1, 1), (1, cores, 2), (1, cores, 4)}
    assert {f"{s} x {t} threads, batch {b}" for s, t, b in layouts} <= set(_names(throughput))
    assert everything["details"]["case"] == ALL
    assert few["details"]["case"] == FEW
    assert 0 < few["details"]["detections"] <= 3 < everything["details"]["detections"]
    assert set(few["details"]["agreement"]) == {TORCHVISION, TOLD}
    _check_work(everything)
    _check_work(few)
    # The mask head's work for the detections that nobody asked for.
    left_out = everything["details"]["detections"] - few["details"]["detections"]
    saved = [one["details"]["work"]["shares"][ENGINE]["gflop"] for one in (everything, few)]
    assert 0.5 < (saved[0] - saved[1]) / left_out / MASK_GFLOP < 2

    operators = all_profile["details"]["operators"]
    assert {"RoiAlign", "NonMaxSuppression", "between operators"} < operators.keys()
    assert sum(one["share"] for one in operators.values()) == pytest.approx(1)
    assert operators["RoiAlign"]["calls"] == 8  # four levels for the boxes, four for the masks

    printed = capsys.readouterr().out
    assert ("bfloat16 is left out" in printed) == (not halves)
    for half in halves:
        assert _names(half) == [TORCHVISION, IN_BFLOAT16[TORCHVISION], OURS, IN_BFLOAT16[OURS]]
        assert half["details"]["found_again"][TORCHVISION] == 1
        assert half["details"]["found_again"][OURS] > 0.9
        assert "wanted: 3x or more" in printed

    rates, images = throughput["details"]["images_per_second"], throughput["details"]["images"]
    assert list(rates) == _names(throughput)
    for timing in throughput["timings"]:
        assert rates[timing["name"]] == pytest.approx(images / timing["seconds"]["median"])
    assert "wanted: 1.8x or more" in printed
    assert "wanted: 2.3x or more" in printed
    assert "wanted: 90 % or more" in printed


def _names(comparison: dict[str, Any]) -> list[str]:
    return [timing["name"] for timing in comparison["timings"]]


def _check_work(comparison: dict[str, Any]) -> None:
    seconds = {timing["name"]: timing["seconds"]["median"] for timing in comparison["timings"]}
    work = comparison["details"]["work"]
    rate = PRODUCTS * 2 * SIDE**3 / min(seconds[name] for name in PRODUCT_NAMES)
    assert work["rate"] == pytest.approx(rate / 1e9)
    for name in (OURS, ENGINE):
        share = work["shares"][name]
        assert share["gflop"] > 1
        assert share["share"] * rate * seconds[name] == pytest.approx(share["gflop"] * 1e9)


def test_wrong_answers_are_refused_before_anything_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Shifted(Predictor):
        """A pixel off."""

        def predict(self, *args: Any, **kwargs: Any) -> list[Detections]:
            found = super().predict(*args, **kwargs)
            return [replace(one, boxes=one.boxes + np.float32(1)) for one in found]

    monkeypatch.setattr(graph, "Predictor", Shifted)
    file, subject = tmp_path / "graph.json", ["--bundle", str(BUNDLE), "--images", str(IMAGE)]
    assert main([*subject, "--only", "cases", "--threads", "1", "--json", str(file)]) == 1
    assert "detections are found again" in capsys.readouterr().err
    assert not file.exists()


def test_a_bundle_is_compared_at_its_own_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "graph.json"
    options = ["--only", "cases", "--threads", "1", "--rounds", "1", "--json", str(file)]
    assert main(["--bundle", str(BUNDLE), "--images", str(IMAGE), *options]) == 0
    everything, few = json.loads(file.read_text())["comparisons"]
    assert _names(everything) == [TORCHVISION, OURS]
    assert few["details"]["detections"] <= 10 < everything["details"]["detections"]
    assert "wanted" not in capsys.readouterr().out  # of the R50-FPN


@pytest.mark.parametrize(
    "wrong",
    [
        replace(ANSWER, boxes=ANSWER.boxes + np.array([0.2, 0, 0, 0], np.float32)),
        replace(ANSWER, scores=ANSWER.scores - np.float32(0.002)),
        replace(ANSWER, labels=np.array([1, 2, 2])),
        replace(ANSWER, masks=[MASK, MASK, OTHER_MASK]),
        Detections(ANSWER.boxes[:2], ANSWER.scores[:2], ANSWER.labels[:2], [MASK, MASK]),
        Detections(ANSWER.boxes[:0], ANSWER.scores[:0], ANSWER.labels[:0], []),
    ],
    ids=["boxes moved", "other scores", "another label", "another mask", "one is missing", "nothing"],
)
def test_another_answer_does_not_agree(wrong: Detections) -> None:
    assert agree(ANSWER, ANSWER).detections == 3
    for pair in ((wrong, ANSWER), (ANSWER, wrong)):
        with pytest.raises(WrongAnswer, match="are found again"):
            agree(*pair)


def test_found_again_is_a_share_of_the_reference() -> None:
    few = Detections(ANSWER.boxes[:2], ANSWER.scores[:2], ANSWER.labels[:2], [MASK, OTHER_MASK])
    assert found_again(ANSWER, ANSWER) == 1
    assert found_again(few, ANSWER) == pytest.approx(2 / 3)  # one object of class 1, as two of the three are
    assert found_again(Detections(ANSWER.boxes[:0], ANSWER.scores[:0], ANSWER.labels[:0], []), ANSWER) == 0


def test_a_detection_given_twice_counts_once() -> None:
    twice = [0, 1, 1]
    wrong = Detections(ANSWER.boxes[twice], ANSWER.scores[twice], ANSWER.labels[twice], ANSWER.masks)
    with pytest.raises(WrongAnswer, match="2 of 3"):
        agree(wrong, ANSWER)


def test_the_threshold_stands_in_a_wide_gap() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.5, 0.49, 0.48, 0.1], np.float32)
    assert threshold_for(scores, 4) == pytest.approx(0.6)
    with pytest.raises(TooFewDetections, match="has 3 detections"):
        threshold_for(scores[:3], 10)


def test_torchvision_keeps_its_own_threshold(tmp_path: Path) -> None:
    subject = of_bundle(BUNDLE, [IMAGE], tmp_path)
    heads, seen = subject.model.roi_heads, []
    heads.register_forward_hook(lambda module, _inputs, _outputs: seen.append(module.score_thresh))
    filtered = torchvision_predict(subject.model, subject.images[0], 0.5)
    told = torchvision_predict(subject.model, subject.images[0], 0.5, told=True)
    assert seen == [0.05, 0.5]
    assert heads.score_thresh == 0.05
    assert agree(told, filtered).detections > 1
    assert min(filtered.scores) > 0.5
