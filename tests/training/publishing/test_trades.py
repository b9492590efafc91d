"""Accuracy traded for speed at export: what each option changes, what it costs, and when it is refused."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from pydantic import ValidationError

from model.architecture import ArchitectureConfig
from model.network.weights import load_network
from model.runtime.bundles.bundle import Bundle, MissingFile
from model.runtime.bundles.manifest import Manifest, Trades
from model.runtime.bundles.repository import Repository
from model.runtime.predict import Predictor
from model.runtime.preprocess import Preprocessing
from training.checkpoint import load_checkpoint
from training.data.annotations.dataset import Dataset
from training.data.formats.coco.layouts import find_splits
from training.data.formats.coco.reader import load_coco
from training.data.loading.samples import load_stored
from training.export import main as export
from training.publishing.checks import GateError, require_affordable
from training.publishing.trades import TradeOptions, calibration_batches, rebuilt, traded_architecture

FEW = "--proposals=1"
"""Of all exports here: networks with another number of proposals are traced anew."""

TRAINED = ArchitectureConfig(min_size=800, max_size=1333, rpn_post_nms_top_n_test=1000)


@pytest.fixture(scope="module")
def int8(finished_run: Path, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny run in INT8 with fewer proposals. It has learned nothing, so that there is no AP to lose."""
    models = tmp_path_factory.mktemp("int8")
    flags = ["--int8", "--calibration_images=5", FEW, "--half", f"--data={shapes}", f"--output={models}"]
    assert export([f"--checkpoint={finished_run / 'checkpoints' / 'best.pt'}", *flags]) == 0
    return Repository(models).latest("shapes")


def training_images(shapes: Path) -> Dataset:
    return load_coco(*find_splits(shapes, "masks").train)


def test_the_manifest_says_what_was_traded(int8: Bundle) -> None:
    manifest = int8.manifest
    assert manifest.trades is not None
    assert manifest.trades.int8
    assert (manifest.trades.calibration_images, manifest.trades.proposals) == (5, 1)
    assert manifest.trades.min_size is None
    assert set(manifest.trades.ap_deltas) == {"box/AP", "mask/AP"}
    if find_spec("openvino") is not None:
        assert manifest.trades.by("openvino").keys() == manifest.trades.ap_deltas.keys()
    else:
        assert [(one.precision, one.engine) for one in manifest.unmeasured] == [("int8", "openvino")]
    assert manifest.architecture.rpn_post_nms_top_n_test == 1
    assert [evaluation.engine for evaluation in manifest.evaluation] == ["onnx"]
    assert manifest.export_check is not None
    assert manifest.export_check.max_score_error > 1e-4, "an INT8 network never answers so exactly"


def test_an_int8_bundle_is_served_and_keeps_its_weights(int8: Bundle, finished_run: Path, shapes: Path) -> None:
    assert set(int8.manifest.files) == {"model.onnx", "weights.pth"}
    weights = [item for item in onnx.load(int8.file("model.onnx")).graph.initializer if len(item.dims) == 4]
    assert sum(item.data_type == onnx.TensorProto.INT8 for item in weights) > 20
    [answer] = Predictor.of_bundle(int8, threads=1).predict([load_stored(training_images(shapes).images[0])], 0.0)
    assert len(answer) > 0
    trained = load_checkpoint(finished_run / "checkpoints" / "best.pt").published_state
    name = "roi_heads.box_head.fc7.bias"
    assert torch.equal(load_network(int8).state_dict()[name], trained[name])


def test_without_its_weights_an_int8_bundle_cannot_be_read_back(int8: Bundle) -> None:
    files = {name: record for name, record in int8.manifest.files.items() if name != "weights.pth"}
    with pytest.raises(MissingFile, match=r"weights in INT8 alone.*; export the model again with weights\.pth"):
        load_network(Bundle(int8.path, int8.manifest.model_copy(update={"files": files})))


def test_too_great_a_loss_publishes_nothing(
    finished_run: Path, findable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One proposal an image, of a network whose own detections are the truth."""
    flags = [f"--data={findable}", f"--output={tmp_path / 'models'}", "--without", "torchscript"]
    assert export([f"--checkpoint={finished_run / 'checkpoints' / 'best.pt'}", FEW, *flags]) == 1
    printed = " ".join(capsys.readouterr().err.split())
    assert "points of mask/AP to the network as trained, --most_ap_lost allows 0.5: nothing was published" in printed
    assert not (tmp_path / "models").exists()


def test_what_is_lost_is_the_tasks_own_ap() -> None:
    said: list[str] = []
    deltas = {"box/AP": -0.2, "mask/AP": -0.004}
    require_affordable("onnx", deltas, "masks", 0.5, said.append)
    assert said == ["onnx against the network as trained: mask/AP -0.40 points"]
    with pytest.raises(GateError, match=r"loses 0\.40 points of mask/AP .* allows 0\.3: nothing was published"):
        require_affordable("onnx", deltas, "masks", 0.3, said.append)
    with pytest.raises(GateError, match=r"loses 20\.00 points of box/AP"):
        require_affordable("onnx", deltas, "boxes", 0.5, said.append)
    require_affordable("onnx", {"mask/AP": 0.02}, "masks", 0.0, said.append)


def test_a_smaller_input_keeps_the_proportions_and_shrinks_every_image() -> None:
    traded = traded_architecture(TRAINED.model_copy(update={"allow_downscale": False}), TradeOptions(min_size=600))
    assert (traded.min_size, traded.max_size) == (600, 1000)
    assert Preprocessing.from_architecture(traded).resized((800, 1200)) == (600, 900)
    assert traded.rpn_post_nms_top_n_test == 1000


def test_fewer_proposals_change_nothing_else() -> None:
    traded = traded_architecture(TRAINED, TradeOptions(proposals=300))
    assert traded == TRAINED.model_copy(update={"rpn_post_nms_top_n_test": 300})


def test_int8_leaves_the_architecture() -> None:
    assert traded_architecture(TRAINED, TradeOptions(int8="alone")) == TRAINED


def test_nothing_wished_for_is_no_trade() -> None:
    assert not TradeOptions(calibration_images=8, most_ap_lost=2.0)
    assert all((TradeOptions(int8="alone"), TradeOptions(proposals=1), TradeOptions(min_size=1)))


def test_a_rebuilt_network_has_the_same_weights(finished_run: Path) -> None:
    bundle = Repository(finished_run / "models").latest("shapes")
    model = load_network(bundle)
    other = rebuilt(model, traded_architecture(bundle.manifest.architecture, TradeOptions(proposals=7)))
    assert other.rpn.post_nms_top_n() == 7
    assert model.rpn.post_nms_top_n() == 50
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("wanted", "given"), [(1, 1), (3, 3), (100, 8)])
def test_calibration_takes_training_images_one_at_a_time(shapes: Path, wanted: int, given: int) -> None:
    data = training_images(shapes)
    batches = list(calibration_batches(data, Preprocessing(min_size=64, max_size=96), wanted))
    assert len(batches) == given
    assert all(images.shape[0] == 1 and sizes.shape == (1, 2) for images, sizes in batches)
    first = batches[0][0]
    assert first.dtype == np.uint8
    assert not any(first.shape == other.shape and np.array_equal(first, other) for other, _ in batches[1:])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(["--int8"], "give --data, a dataset with a validation split", id="no data"),
        pytest.param(["--int8", "--calibration_images=0"], "--calibration_images: 0 is too few", id="no calibration"),
        pytest.param(
            ["--proposals=3", "--most_ap_lost=-1"],
            "--most_ap_lost: '-1' is no number that is meant",
            id="negative loss",
        ),
        pytest.param(["--proposals=50", "--data"], "trained with 50 an image; give fewer", id="as many proposals"),
        pytest.param(["--min_size=2000", "--data"], "--min_size 2000", id="larger"),
    ],
)
def test_a_wrong_wish_is_explained_before_anything_is_computed(
    finished_run: Path,
    shapes: Path,
    tmp_path: Path,
    flags: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [flag if flag != "--data" else f"--data={shapes}" for flag in flags]
    with pytest.raises(SystemExit) as stopped:
        export([f"--checkpoint={finished_run / 'checkpoints' / 'best.pt'}", f"--output={tmp_path}", *given])
    assert stopped.value.code == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert message in printed
    assert "exporting" not in printed


def test_published_weights_have_no_data_to_measure_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        export(["--torchvision=maskrcnn_resnet50_fpn", f"--output={tmp_path}", "--int8"])
    assert stopped.value.code == 2
    assert "export a checkpoint, with its --data" in capsys.readouterr().err


def test_an_older_manifest_has_no_trades(finished_run: Path) -> None:
    document = Repository(finished_run / "models").latest("shapes").manifest.model_dump(mode="json")
    assert document.pop("trades") is None
    manifest = Manifest.model_validate(document)
    assert manifest.trades is None
    assert manifest.format == 1


def test_trades_survive_the_file(finished_run: Path) -> None:
    manifest = Repository(finished_run / "models").latest("shapes").manifest
    traded = manifest.model_copy(update={"trades": Trades(min_size=48, ap_deltas={"mask/AP": -0.003})})
    assert Manifest.model_validate_json(traded.model_dump_json()) == traded


def test_a_trade_without_its_cost_is_refused() -> None:
    with pytest.raises(ValidationError, match="ap_deltas"):
        Trades.model_validate({"int8": True})
