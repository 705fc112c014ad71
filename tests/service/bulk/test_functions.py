"""The callable for `datasets.map` and Ray Data."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from bulk_samples import Tokenize, clip, photo
from PIL import Image

from model.codes.info import EncodingOptions
from model.codes.reader import open_encoded, read_kind
from service.bulk.functions import TokenizeBatch


def test_datasets_map_gives_the_tokens_of_the_command(
    tokenize: Tokenize, source: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    tokenize(tmp_path / "codes", options=EncodingOptions(32, 32), kinds=("images",))
    wanted = read_kind(tmp_path / "codes", open_encoded(tmp_path / "codes"), "images")
    files = [{"image": (source / key).read_bytes()} for key in wanted.keys]
    rows = datasets.Dataset.from_list([*files, {"image": b"no picture"}])
    made = rows.map(TokenizeBatch(bundle, 32), batched=True, batch_size=4)
    assert np.array_equal(np.array(made[: len(files)]["tokens"]), wanted.stacked())
    assert made[-1]["tokens"] is None
    assert "not known here" in made[-1]["error"]


def test_pictures_arrays_and_clips_are_taken(bundle: Path) -> None:
    function = pickle.loads(pickle.dumps(TokenizeBatch(bundle, (32, 40))))
    image = Image.open(io.BytesIO(photo(0)))
    made = function({"image": [image, np.asarray(image), np.zeros((4, 4))]})
    assert np.array_equal(made["tokens"][0], made["tokens"][1])
    assert made["tokens"][0].shape == (1, 4, 5)
    assert made["error"][2] == "ValueError: Pixels are uint8 (H, W, 3) or (T, H, W, 3), not float64 (4, 4)."
    clips = TokenizeBatch(bundle, 32, frames=5, column="video")({"video": [{"bytes": clip(0, 3)}]})
    assert clips["tokens"][0].shape == (2, 4, 4)


def test_pillow_images_are_read_as_their_files(bundle: Path) -> None:
    turned, clear = io.BytesIO(), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(photo(0, 48, 32)))
    image.save(turned, "PNG", exif=exif)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(clear, "PNG")
    files = [turned.getvalue(), clear.getvalue()]
    made = TokenizeBatch(bundle, 32)({"image": [*files, *(Image.open(io.BytesIO(file)) for file in files)]})
    assert np.array_equal(made["tokens"][:2], made["tokens"][2:])
