"""Real training runs, tiny: what they leave, how they resume, how they fail."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import onnx
import pytest
import torch
import torchvision
from PIL import Image

import training.publishing.publish
from model.runtime.bundles.bundle import open_bundle
from model.runtime.bundles.repository import Repository
from model.runtime.predict import Predictor
from tests.training.conftest import TINY
from tests.training.runs import SMALL
from training.checkpoint import load_checkpoint
from training.command_line import parse_train_config
from training.config import TrainConfig
from training.data.formats.coco.layouts import find_splits
from training.data.formats.coco.reader import load_coco
from training.data.loading.samples import load_stored
from training.data.loading.source import TrainingData, load_training_data
from training.loop.run_log import RunLog, read_metrics
from training.progress import Display
from training.publishing.exported import ExportOptions
from training.publishing.publish import publish_run
from training.train import fit, main, require_comparable, setup, start

UNMEASURED = ("--export_f16=false", "--export_references=none")
"""Of bundles that are about something else: to emulate half precision is nearly half of what publishing costs."""


def test_a_run_leaves_what_people_look_at(finished_run: Path) -> None:
    assert parse_train_config(["--recipe", str(finished_run / "config.yaml")]).architecture.num_classes == 5
    curves = read_metrics(finished_run / "metrics.csv")
    assert [iteration for iteration, _ in curves["loss"]] == [1, 2, 3, 4, 5, 6]
    assert [iteration for iteration, _ in curves["val/mask/AP"]] == [3, 6]
    assert all(0 < share < 1 for _, share in curves["waiting_share"])
    with Image.open(finished_run / "curves.png") as curves_picture:
        assert curves_picture.width > 500
    samples = sorted((finished_run / "samples" / "0000006").glob("*.png"))
    assert len(samples) == 2
    assert list((finished_run / "tensorboard").glob("events.*"))
    assert (finished_run / "checkpoints" / "last.pt").is_file()
    assert (finished_run / "checkpoints" / "best.pt").is_file()


def test_a_run_ends_in_a_bundle(finished_run: Path, shapes: Path) -> None:
    bundle = Repository(finished_run / "models").latest("shapes")
    manifest = bundle.manifest
    assert set(manifest.files) == {"model.onnx", "model.torchscript.pt", "references.npz", "weights.pth"}
    assert manifest.export_check is not None
    assert set(manifest.export_check.ap_deltas) == {"box/AP", "mask/AP"}
    assert {evaluation.engine for evaluation in manifest.evaluation} == {"onnx", "torchscript"}
    data = load_coco(*find_splits(shapes, "masks").train)
    assert manifest.class_names == data.class_names
    predictor = Predictor.of_bundle(bundle, threads=1)
    [answer] = predictor.predict([load_stored(data.images[0])], score_threshold=0.0)
    assert len(answer) > 0
    said = {entry.key: entry.value for entry in onnx.load(bundle.file("model.onnx")).metadata_props}
    assert (said["name"], said["version"], said["manifest_sha256"]) == ("shapes", "1", manifest.sha256)


def test_weights_load_strictly_into_torchvision_alone(finished_run: Path) -> None:
    """The published weights.pth in torchvision's class, built without a line of ours."""
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.models.detection.rpn import AnchorGenerator, RPNHead
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    bundle = Repository(finished_run / "models").latest("shapes")
    layers = {f"layer{level}": str(level - 1) for level in (1, 2, 3, 4)}
    backbone = BackboneWithFPN(
        torchvision.models.resnet18(weights=None), layers, [64, 128, 256, 512], 16, extra_blocks=LastLevelMaxPool()
    )
    model = MaskRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(((16,), (32,), (64,), (96,), (128,)), ((0.5, 1.0, 2.0),) * 5),
        rpn_head=RPNHead(16, 3),
        box_head=TwoMLPHead(16 * 49, 32),
        box_predictor=FastRCNNPredictor(32, 5),
        mask_head=MaskRCNNHeads(16, [16], 1),
        mask_predictor=MaskRCNNPredictor(16, 16, 5),
    )
    state = torch.load(bundle.file("weights.pth"), weights_only=True)
    model.load_state_dict(state, strict=True)
    assert type(model).__name__ == bundle.manifest.architecture.torchvision_class


class Interrupted(Exception):
    pass


class InterruptingLog(RunLog):
    """Stops the run in the middle of iteration `at`, after its optimizer step and before any checkpoint of it."""

    at = 5

    def step(self, iteration: int, figures: Mapping[str, float]) -> None:
        if iteration == self.at:
            raise Interrupted
        super().step(iteration, figures)


def train_until_done_or_interrupted(arguments: list[str], log_class: type[RunLog]) -> None:
    config, data, process, resumed = setup(parse_train_config(arguments))
    state = start(config, data, process, resumed)
    with log_class(config.run_folder, config.schedule.iterations, state.iteration, 1) as log:
        fit(config, data, state, process, log)


def test_an_interrupted_run_resumes_to_the_same_weights(shapes: Path, finished_run: Path, tmp_path: Path) -> None:
    arguments = [*TINY, f"--data={shapes}", f"--output={tmp_path}"]
    with pytest.raises(Interrupted):
        train_until_done_or_interrupted(arguments, InterruptingLog)
    assert load_checkpoint(tmp_path / "checkpoints" / "last.pt").iteration == 4
    train_until_done_or_interrupted(arguments, RunLog)
    resumed = load_checkpoint(tmp_path / "checkpoints" / "last.pt")
    whole = load_checkpoint(finished_run / "checkpoints" / "last.pt")
    assert resumed.iteration == whole.iteration == 6
    assert resumed.best == whole.best
    assert all(torch.equal(value, whole.model[name]) for name, value in resumed.model.items())
    assert read_metrics(tmp_path / "metrics.csv")["loss"] == read_metrics(finished_run / "metrics.csv")["loss"]


def test_only_a_better_one_is_published(
    shapes: Path, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside a version of equal weights, of a run that is said to be another."""
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    manifest = run / "models" / "shapes" / "1" / "manifest.json"
    own = load_checkpoint(run / "checkpoints" / "best.pt").run
    assert own is not None
    manifest.write_text(manifest.read_text().replace(own, "0" * 32))
    assert main([*TINY, f"--data={shapes}", f"--output={run}", "--publish_if=better", *UNMEASURED]) == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert "shapes/1, which is served, has" in printed
    assert "on the same images: +0.00 points" in printed
    assert "not published: not better than shapes/1" in printed
    assert Repository(run / "models").models() == {"shapes": (1,)}


def test_what_could_never_be_compared_is_not_trained(shapes: Path, finished_run: Path, tmp_path: Path) -> None:
    data = load_training_data(TrainConfig(data=shapes))
    config = TrainConfig(name="shapes", output=tmp_path, repository=finished_run / "models")
    require_comparable(config, data)
    with pytest.raises(ValueError, match=r"shapes/1, and cannot: there is no validation split"):
        require_comparable(config, TrainingData(data.train, None))
    require_comparable(config.model_copy(update={"name": "other"}), TrainingData(data.train, None))


def test_a_run_ends_when_patience_does(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a rate of nearly nothing no evaluation beats the first one. Started again, the run stays ended."""
    arguments = [
        *SMALL,
        f"--data={shapes}",
        f"--output={tmp_path}",
        "--optimizer.rate=1e-12",
        "--validation.every=1",
        "--validation.patience=2",
    ]
    for _ in range(2):
        train_until_done_or_interrupted(arguments, RunLog)
        last = load_checkpoint(tmp_path / "checkpoints" / "last.pt")
        assert (last.iteration, last.without_gain) == (3, 2)
        assert "stopped at iteration 3: 2 evaluations without a better AP" in " ".join(capsys.readouterr().err.split())
    assert load_checkpoint(tmp_path / "checkpoints" / "best.pt").iteration == 1


def test_the_average_is_published(shapes: Path, tmp_path: Path) -> None:
    arguments = [*TINY, "--schedule.iterations=2", "--ema=0.9", f"--data={shapes}", f"--output={tmp_path}"]
    config, data, process, _ = setup(parse_train_config(arguments))
    state = start(config, data, process)
    with RunLog(tmp_path, 2, 0, 1) as log:
        fit(config, data, state, process, log)
    loaded = load_checkpoint(tmp_path / "checkpoints" / "best.pt")
    assert loaded.ema is not None
    name = "roi_heads.box_predictor.cls_score.weight"
    assert not torch.equal(loaded.ema[name], loaded.model[name])
    bundle = publish_run(config, None, loaded, Display(), ExportOptions(torchscript=False))
    published = torch.load(bundle.file("weights.pth"), weights_only=True)
    assert all(torch.equal(value, loaded.ema[name]) for name, value in published.items())


def files_in(folder: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of change of every file and folder."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        pytest.param(["--architecture.fpn_channels=8"], "architecture.fpn_channels was 16 and is 8", id="a network"),
        pytest.param(["--optimizer.rate=0.5"], "optimizer.rate was", id="a configuration"),
        pytest.param(["--data={findable}"], "it has learned from shapes (8 images", id="data of the same classes"),
        pytest.param(["--rename", "circle=ball"], "are ball, ", id="other classes"),
    ],
)
def test_another_run_is_refused_and_changes_nothing(
    flags: list[str],
    refused: str,
    shapes: Path,
    findable: Path,
    finished_run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = files_in(finished_run)
    given = [flag.format(findable=findable) for flag in flags]
    with pytest.raises(SystemExit) as stopped:
        main([*TINY, f"--data={shapes}", f"--output={finished_run}", *given])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert refused in printed
    assert "--resume never" in printed
    assert files_in(finished_run) == before


def test_a_finished_run_is_published_once(
    shapes: Path, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Started again with its data at another place, and with what may change. Then without its bundle, as a crash
    before publishing leaves it: the manifest names what was trained on, whatever that is called now."""
    moved, run = tmp_path / "moved", tmp_path / "run"
    shutil.copytree(shapes, moved)
    shutil.copytree(finished_run, run)
    again = [*TINY, f"--data={moved}", f"--output={run}", "--log_every=3", *UNMEASURED]
    before = files_in(run)
    assert main(again) == 0
    assert f"finished, published as 1: {run / 'models' / 'shapes' / '1'}" in capsys.readouterr().err
    assert files_in(run) == before

    shutil.rmtree(run / "models")
    assert main(again) == 0
    published = Repository(run / "models").latest("shapes").manifest
    assert published.provenance == Repository(finished_run / "models").latest("shapes").manifest.provenance
    assert published.provenance.dataset == shapes.name
    assert published.evaluation[0].dataset == "moved: instances_val"
    assert main(again) == 0
    assert Repository(run / "models").models() == {"shapes": (1,)}


def test_a_loss_that_is_not_finite_names_the_batch(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*TINY, f"--data={shapes}", f"--output={tmp_path}", "--optimizer.rate=1e30", "--schedule.warmup=0"]
    assert main(arguments) == 1
    printed = " ".join(capsys.readouterr().err.split())
    assert "not finite at iteration" in printed
    assert ".png" in printed
    assert "--optimizer.clip_norm" in printed
    assert not (tmp_path / "models").exists()


def test_broken_data_stops_before_training_or_is_skipped(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    broken = tmp_path / "broken"
    shutil.copytree(shapes, broken)
    file = broken / "annotations" / "instances_train.json"
    document = json.loads(file.read_text())
    document["annotations"][0]["bbox"][2] = 0
    (broken / "images" / document["images"][5]["file_name"]).unlink()
    file.write_text(json.dumps(document))
    arguments = [*TINY, f"--data={broken}", f"--output={tmp_path / 'run'}"]
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert document["images"][5]["file_name"] in printed
    assert f"annotation {document['annotations'][0]['id']}" in printed
    assert "--on_broken skip" in printed
    assert not (tmp_path / "run" / "checkpoints").exists()
    _, data, _, _ = setup(parse_train_config([*arguments, "--on_broken=skip"]))
    assert len(data.train) == 7


def test_a_wrong_export_publishes_nothing(
    shapes: Path,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The exporter is made to write a network whose box head is slightly off."""
    from training.export import main as export

    real = training.publishing.publish.export_onnx

    def spoiled(model: torch.nn.Module, path: Path, **options: object) -> None:
        weight = model.get_parameter("roi_heads.box_predictor.bbox_pred.bias")
        with torch.no_grad():
            weight += 0.5
            real(model, path, **options)  # type: ignore[arg-type]
            weight -= 0.5

    monkeypatch.setattr(training.publishing.publish, "export_onnx", spoiled)
    checkpoint = finished_run / "checkpoints" / "last.pt"
    status = export([f"--checkpoint={checkpoint}", f"--output={tmp_path}", f"--data={shapes}"])
    assert status == 1
    printed = " ".join(capsys.readouterr().err.split())
    assert "nothing was published" in printed
    assert "differ" in printed
    assert list(tmp_path.iterdir()) == []


def test_export_without_data_publishes_the_next_version(finished_run: Path, tmp_path: Path) -> None:
    from training.export import main as export

    checkpoint = finished_run / "checkpoints" / "best.pt"
    (tmp_path / "again" / "4").mkdir(parents=True)
    assert export([f"--checkpoint={checkpoint}", f"--output={tmp_path}", "--name=again", "--half"]) == 0
    bundle = open_bundle(tmp_path / "again" / "5")
    assert bundle.manifest.evaluation == ()
    assert bundle.manifest.export_check is not None
    full = Repository(finished_run / "models").latest("shapes")
    assert bundle.manifest.files["model.onnx"].bytes < 0.6 * full.manifest.files["model.onnx"].bytes
