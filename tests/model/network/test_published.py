"""torchvision's published weights by name, downloaded by torchvision's own code."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision

from model.architecture import PRESETS, ArchitectureConfig
from model.network.build import build_model
from model.network.published import WeightsUnavailable, imagenet_backbone, published_model
from tests.model.network.weights_server import WeightsServer, weights_server
from tests.planted import Planted

SMALL = ArchitectureConfig(
    backbone="resnet18",
    num_classes=91,
    fpn_channels=16,
    box_head_channels=16,
    mask_head_convs=(16,),
    mask_predictor_channels=16,
)
NAME = "maskrcnn_resnet50_fpn_v2"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WeightsServer]:
    with weights_server(tmp_path, monkeypatch) as running:
        yield running


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Weights of the model that NAME stands for in this test: the real ones are 180 MB."""
    monkeypatch.setitem(PRESETS, NAME, SMALL)
    return build_model(SMALL).state_dict()


def test_a_published_model_answers_as_torchvisions_own(server: WeightsServer) -> None:
    name = "maskrcnn_resnet50_fpn"
    state = torchvision.models.get_model(name, weights=None, weights_backbone=None).state_dict()
    file = server.publish(name, "COCO_V1", {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")})
    published = published_model(name, "COCO_V1")
    assert len(published.class_names) == 90
    assert published.class_names[0] == "person"
    assert published.architecture.norm_eps == 0.0
    theirs = torchvision.models.get_model(name, weights="COCO_V1").eval()
    assert server.requests == [file]  # the second time from the cache
    image = torch.rand(3, 64, 64)
    for model in (theirs, published.model):
        model.transform.min_size, model.transform.max_size = (64,), 64
        model.roi_heads.score_thresh = 0.0
    with torch.no_grad():
        expected, actual = theirs([image])[0], published.model([image])[0]
    assert len(expected["scores"]) > 0
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_weights_are_downloaded_once_and_used_from_then_on(
    server: WeightsServer, small: dict[str, torch.Tensor]
) -> None:
    name = server.publish(NAME, "COCO_V1", small)
    for _ in range(2):
        published = published_model(NAME)
        assert torch.equal(
            published.model.state_dict()["backbone.body.conv1.weight"], small["backbone.body.conv1.weight"]
        )
    assert server.requests == [name]
    assert server.cached(name).read_bytes() == server.files[name]


def test_a_download_with_another_hash_is_refused(server: WeightsServer, small: dict[str, torch.Tensor]) -> None:
    name = server.publish(NAME, "COCO_V1", small)
    server.files[name] = server.files[name][:-1] + b"?"
    with pytest.raises(WeightsUnavailable, match=f"not received as published.*put the file at .*{name}"):
        published_model(NAME)
    assert not server.cached(name).exists()


def test_a_damaged_file_in_the_cache_is_refused(server: WeightsServer, small: dict[str, torch.Tensor]) -> None:
    name = server.publish(NAME, "COCO_V1", small)
    server.cached(name).parent.mkdir(parents=True)
    server.cached(name).write_bytes(server.files[name][:1000])
    with pytest.raises(WeightsUnavailable, match=f"{name} is not the file that torchvision published.*delete it"):
        published_model(NAME)
    assert server.requests == []


def test_code_in_a_file_with_the_right_hash_is_not_run(
    server: WeightsServer, small: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """The hash in its name has 8 digits, for which others can make a file."""
    server.publish(NAME, "COCO_V1", {**small, "more": Planted(tmp_path / "ran")})
    with pytest.raises(WeightsUnavailable, match=r"holds something else than tensors.*put the file at"):
        published_model(NAME)
    assert not (tmp_path / "ran").exists()


def test_without_a_network_the_error_says_where_to_put_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: dict[str, torch.Tensor]
) -> None:
    with weights_server(tmp_path, monkeypatch) as server:
        name = server.publish(NAME, "COCO_V1", small)
    with pytest.raises(WeightsUnavailable, match="could not be downloaded") as caught:
        published_model(NAME)
    assert str(server.cached(name)) in str(caught.value)
    server.cached(name).write_bytes(server.files[name])
    assert published_model(NAME).architecture == SMALL


def test_a_file_that_the_server_has_not_is_a_clear_error(server: WeightsServer, small: dict[str, torch.Tensor]) -> None:
    del server.files[server.publish(NAME, "COCO_V1", small)]
    with pytest.raises(WeightsUnavailable, match="404"):
        published_model(NAME)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        pytest.param(
            "maskrcnn_resnet99", "COCO_V1", "did you mean maskrcnn_resnet50_fpn", id="an unknown model, and the nearest"
        ),
        pytest.param("maskrcnn_resnet50_fpn", "COCO_V9", "COCO_V1", id="unknown weights name the known"),
    ],
)
def test_unknown_published_models(name: str, weights: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        published_model(name, weights)


@pytest.mark.parametrize(
    ("backbone", "label", "norm_eps"),
    [
        pytest.param("resnet18", "resnet18:IMAGENET1K_V1", 1e-5, id="ResNet"),
        pytest.param("mobilenet_v3_small", "mobilenet_v3_small:IMAGENET1K_V1", 1e-3, id="MobileNet"),
    ],
)
def test_an_imagenet_classifier_comes_as_a_detectors_backbone(
    backbone: str, label: str, norm_eps: float, server: WeightsServer
) -> None:
    classifier = torchvision.models.get_model(backbone, weights=None)
    server.publish(backbone, "IMAGENET1K_V1", classifier.state_dict())
    loaded = imagenet_backbone(backbone)
    assert loaded.label == label
    epsilons = {layer.eps for layer in classifier.modules() if isinstance(layer, torch.nn.BatchNorm2d)}
    assert epsilons == {loaded.norm_eps} == {norm_eps}
    levels = 3 if backbone.startswith("mobilenet") else 5
    config = ArchitectureConfig.model_validate(
        {**SMALL.model_dump(), "backbone": backbone, "norm": "batch_norm", "anchor_sizes": ((32,),) * levels}
    )
    model = build_model(config)
    missing, unexpected = model.load_state_dict(loaded.state, strict=False)
    assert unexpected == []
    assert not any(name.startswith("backbone.body.") for name in missing)
