"""Evaluation of generators: known values on toy sets, and the command from bundles to a report with neighbours."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from model.bundle import save_bundle, save_generator
from model.generator.config import GENERATOR_CONFIGS
from model.generator.networks import make_generator
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer
from training.__main__ import app
from training.demo_data.debug import build_debug
from training.errors import TrainingError
from training.evaluation.distances import Features, Indices, count_copies, nearest, precision_recall
from training.evaluation.recognition import Classifier, held_out_accuracy, recognise
from training.networks.efficientnet import EfficientNetLite0
from training.tokenizer.head_transfer import with_head

CLASSES = ("backward", "forward", "sky", "snow")


def test_precision_and_recall_of_toy_sets() -> None:
    rng = np.random.default_rng(0)
    real = rng.normal(size=(200, 4))
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real, real + 100) == (0.0, 0.0)
    narrow = real[real[:, 0] < -0.5]  # samples of a part of the real items: all are near, few real items are covered
    precision, recall = precision_recall(real, narrow)
    assert precision == 1.0
    assert recall < 0.7
    recall_of_wide = precision_recall(narrow, real)[1]
    assert recall_of_wide == 1.0
    with pytest.raises(TrainingError, match="more than 3 items, not 3 and 200"):
        precision_recall(real[:3], real)


def test_precision_counts_distance_to_the_third_neighbour() -> None:
    real = np.array([[0.0], [1.0], [2.0], [3.0]])  # radii 3, 2, 2, 3
    made = np.array([[5.9], [6.1], [-2.9], [-3.1]])
    assert precision_recall(real, made)[0] == 0.5


def test_nearest_members_come_first() -> None:
    members = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    assert nearest(np.array([[5.0, 0.1], [0.1, 5.0]]), members, 2).tolist() == [[0, 2], [1, 2]]


def test_copies_are_nearer_to_training_than_any_real_item() -> None:
    training, real = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 1.0], [5.0, 1.0]])
    made = np.array([[5.0, 0.0], [3.0, 3.0], [0.1, 2.0], [2.0, 1.0]])  # two of them are in the direction of an item
    assert count_copies(made, real, training) == 2
    assert count_copies(real, real, training) == 0


@pytest.mark.parametrize("width", [8, 90])  # fewer features than items, and more
def test_classes_are_recognised_where_they_differ(width: int) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 2, 5], 20)
    centres = rng.normal(size=(6, width))
    apart = 3 * centres[labels] + rng.normal(size=(60, width))
    assert (Classifier(apart, labels)(3 * centres[labels] + rng.normal(size=(60, width))) == labels).mean() > 0.95
    accuracy = held_out_accuracy([apart], [apart], labels, 0)
    assert accuracy is not None
    assert accuracy[0] > 0.95
    rare = np.array([0] * 4 + [2] * 76)  # of noise; all are taken for the frequent class
    assert held_out_accuracy([noise := 1e-3 * rng.normal(size=(80, 1))], [noise], rare, 0) == (0.5,)
    by_chance = held_out_accuracy([noise := rng.normal(size=(60, width))], [noise], labels, 0)
    assert by_chance is not None
    assert by_chance[0] < 0.6
    few = [apart[:23]]  # three of a class do not fill four folds
    assert held_out_accuracy(few, few, labels[:23], 0) is None


def test_a_class_is_recognised_without_the_texture_that_the_tokenizer_smooths() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    objects, texture = (labels - 0.5)[:, None] * 6 + rng.normal(size=(80, 4)), (labels - 0.5)[:, None] * np.ones(60)
    noise = 0.1 * rng.normal(size=(2, 80, 60))
    real, smooth = np.hstack([objects, texture + noise[0]]), np.hstack([objects, noise[1] - 0.5])
    samples = smooth + 0.1 * rng.normal(size=smooth.shape)
    views = real, smooth
    by_real = recognise([real], views, samples, labels, ["a", "b"], 0)
    assert by_real.samples["b"] < 0.5
    assert by_real.real is not None
    assert by_real.reconstructions is not None
    assert by_real.real > 0.95
    assert by_real.reconstructions < 0.8  # which says that the judge, not the generator, is at fault
    by_both = recognise(views, views, samples, labels, ["a", "b"], 0)
    assert min(*by_both.samples.values(), by_both.real or 0, by_both.reconstructions or 0) > 0.95


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a tokenizer and a generator, both of random weights."""
    folder = tmp_path_factory.mktemp("bundles")
    build_debug(folder / "data")
    torch.manual_seed(0)
    hash_ = save_bundle(folder / "tokenizer", OmniTokenizer(CONFIGS["debug"]), "random weights")
    save_bundle(folder / "other", OmniTokenizer(CONFIGS["debug"]), "random weights")
    config = replace(GENERATOR_CONFIGS["lm-debug"], grid=(2, 4, 4), positions=32, classes=len(CLASSES))
    save_generator(folder / "generator", make_generator(config), "random weights", hash_, CLASSES)
    return folder


def evaluate(bundles: Path, out: Path, *arguments: object, tokenizer: str | None = "tokenizer") -> Result:
    command = ["evaluate", bundles / "generator", bundles / "data", "--device", "cpu", "--out", out]
    if tokenizer is not None:
        command += ["--tokenizer", bundles / tokenizer]
    return CliRunner().invoke(app, [*map(str, command), *map(str, arguments)])


def test_the_command_measures_samples_and_shows_their_neighbours(bundles: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    networks = tmp_path / "networks"
    networks.mkdir()
    save_file(EfficientNetLite0().state_dict(), networks / "efficientnet-lite0.safetensors")
    result = evaluate(bundles, tmp_path / "out", "--networks", networks, "--items", 3)
    assert result.exit_code == 0, result.output
    assert "VGG" not in result.output
    record = json.loads((tmp_path / "out" / "generation.json").read_text())
    images, clips = record["results"]
    assert [images["kind"], images["items"], images["searched"]] == ["images", 3, 12]
    assert [clips["kind"], clips["items"], clips["searched"]] == ["clips", 3, 6]
    assert {value["name"] for value in images["metrics"]} == {"FID-lite", "FID-lite, 64-d", "KID-lite"}
    assert "FVD-lite" in {value["name"] for value in clips["metrics"]}
    assert images["copies"] is None  # real items are those of training
    assert "| FID-lite |" in (tmp_path / "out" / "metrics.md").read_text()
    with Image.open(tmp_path / "out" / "images-neighbours.png") as sheet:
        assert sheet.size == (6 * 36 - 4, 2 * 36 - 4)  # a sample and five neighbours, for the two classes of images


def test_without_networks_pixels_are_compared_and_classes_have_a_floor(bundles: Path, tmp_path: Path) -> None:
    held_out = tmp_path / "held-out"
    for name in ("sky", "unknown"):
        (held_out / "images" / name).mkdir(parents=True)
        for number in range(9):
            shade = Image.new("RGB", (32, 32), (0, 0, 20 * number))
            shade.save(held_out / "images" / name / f"{number}.png")
    result = evaluate(bundles, tmp_path / "out", "--networks", tmp_path / "none", "--held-out", held_out)
    assert result.exit_code == 0, result.output
    assert "without FID-lite" in result.output
    (images,) = json.loads((tmp_path / "out" / "generation.json").read_text())["results"]
    assert images["items"] == 9  # those of a class that the generator lacks are left out
    assert images["metrics"] == []
    assert set(images["classes"]) == {"sky"}
    assert images["classes"]["sky"]["half_split"] < images["classes"]["sky"]["value"]
    assert 0 <= images["precision"] <= 1
    every = {"samples": {"sky": 1.0}, "real": 1.0, "reconstructions": 1.0}  # there is one class to choose from
    assert images["recognised_by_real"] == images["recognised_by_both"] == every
    written = (tmp_path / "out" / "metrics.md").read_text()
    for known in ("real items alone", "real items and reconstructions"):
        assert f"by {known} | 100.0%; of real items 100.0%; of their reconstructions 100.0% |" in written
    assert 0 <= images["copies"] <= 9


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [(None, "name its bundle with --tokenizer"), ("other", "was trained on the tokenizer")],
)
def test_the_generators_own_tokenizer_is_asked_for(
    bundles: Path, tmp_path: Path, tokenizer: str | None, message: str
) -> None:
    result = evaluate(bundles, tmp_path, tokenizer=tokenizer)
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())


@pytest.mark.parametrize("arguments", [[], ["--top-k", "1"]])
def test_reconstructions_teach_the_second_classifier(
    bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    taught: list[tuple[int, int]] = []

    class Spy(Classifier):
        def __init__(self, features: Features, labels: Indices) -> None:
            taught.append((len(np.unique(features, axis=0)), len(labels)))
            super().__init__(features, labels)

    monkeypatch.setattr("training.evaluation.recognition.Classifier", Spy)
    result = evaluate(bundles, tmp_path / "out", "--networks", tmp_path / "none", "--items", 5, *arguments)
    assert result.exit_code == 0, result.output
    assert (10, 10) in taught  # five pictures and their five reconstructions
    assert ((5, 5) in taught) == (not arguments)  # and, but for a curve, the five pictures alone


@pytest.mark.parametrize("arguments", [[], ["--top-k", "1"]])
def test_files_that_cannot_be_read_are_left_out_and_listed(bundles: Path, tmp_path: Path, arguments: list[str]) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    for name in ("sky", "snow"):
        (data / "images" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (32, 32), (0, 0, 20 * number)).save(data / "images" / name / f"{number}.png")
    broken = data / "images/sky/0.png"  # the first, which a row of the sheet would show
    broken.write_bytes(broken.read_bytes()[:40])
    command = ["evaluate", bundles / "generator", data, "--tokenizer", bundles / "tokenizer", "--device", "cpu"]
    command += ["--networks", tmp_path / "none", "--out", out, *arguments]
    result = CliRunner().invoke(app, [*map(str, command)])
    assert result.exit_code == 0, result.output
    assert "".join(result.output.split()).count(f"leftout:{broken}:") == 1
    if arguments:
        record = json.loads((out / "sampling.json").read_text())
        assert record["items"] == 9
    else:
        (record,) = json.loads((out / "generation.json").read_text())["results"]
        assert [record["items"], record["searched"]] == [9, 9]
        assert record["recognised_by_real"]["real"] is not None  # four of the class that lost one
    assert [sentence.split(": ")[0] for sentence in record["broken"]] == [str(broken)]
    for path in data.rglob("*.png"):
        path.write_bytes(b"no picture")
    result = CliRunner().invoke(app, [*map(str, command)])
    assert result.exit_code == 1
    assert "None of 10 items could be read; the first is" in " ".join(result.output.split())


def test_a_curve_scores_samples_by_their_settings(bundles: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = ["--guidance", "1", "--guidance", "3", "--top-k", "1", "--top-k", "0"]
    result = evaluate(bundles, out, *settings, "--items", 8)
    assert result.exit_code == 0, result.output
    assert result.output.count(" all ") == 2  # the rows of top-k 0
    record = json.loads((out / "sampling.json").read_text())
    assert (record["kind"], record["items"]) == ("images", 8)
    pairs = [(point["guidance"], point["top_k"]) for point in record["results"]]
    assert pairs == [(1, 1), (3, 1), (1, 0), (3, 0)]
    assert len({point["distance"] for point in record["results"]}) == 4  # every setting is sampled by
    assert (out / "sampling.png").stat().st_size > 1000
    # the generator's own value stands where none is given
    assert evaluate(bundles, tmp_path / "again", "--top-k", 1, "--items", 8).exit_code == 0
    (point,) = json.loads((tmp_path / "again" / "sampling.json").read_text())["results"]
    assert point["guidance"] == GENERATOR_CONFIGS["lm-debug"].sampling.guidance


def test_a_curve_refuses_settings_that_a_generator_lacks(bundles: Path, tmp_path: Path) -> None:
    result = evaluate(bundles, tmp_path / "out", "--guidance", "-1")
    assert result.exit_code == 1
    assert "guidance must be a number from 0 to 100, not -1.0" in result.output
    result = evaluate(bundles, tmp_path / "out", "--guidance", "2", "--sweep", "--side", "64")
    assert result.exit_code == 1
    assert "A generator takes no --side and no --sweep." in result.output
    hash_ = save_bundle(tmp_path / "vae", OmniTokenizer(with_head(CONFIGS["debug"], "vae")), "random weights")
    config = replace(GENERATOR_CONFIGS["dit-debug"], classes=len(CLASSES))
    save_generator(tmp_path / "dit", make_generator(config), "random weights", hash_, CLASSES)
    command = ["evaluate", tmp_path / "dit", bundles / "data", "--tokenizer", tmp_path / "vae", "--device", "cpu"]
    result = CliRunner().invoke(app, [*map(str, command), "--out", str(tmp_path / "out"), "--top-k", "5"])
    assert result.exit_code == 1
    assert "Diffusion has no --top-k" in result.output
    assert not (tmp_path / "out").exists()
