"""Other projects' own code against the cluster: diffusers' remote VAE over HTTP, and Ray Data's batches."""

from __future__ import annotations

import io

import numpy as np
import torch
from api_media import picture
from cluster_service import Service
from diffusers.utils.remote_utils import remote_decode, remote_encode
from PIL import Image

from media.reader import open_frames
from media.types import MediaOptions
from service.bulk.functions import TokenizeBatch
from service.client import Client

SIDE = 32


def test_diffusers_sees_what_the_projects_client_sees(service: Service) -> None:
    image = Image.open(io.BytesIO(picture("PNG", 45, 67)))
    with Client(service.url) as client:
        expected = client.encode(image, output="latents")
        pixels = client.decode(expected)[0]
    assert expected.latents is not None
    latents = remote_encode(f"{service.url}/vae/encode", image)
    assert np.array_equal(latents[0].permute(1, 2, 0).numpy(), expected.latents[0])
    shown = remote_decode(
        f"{service.url}/vae/decode", latents, do_scaling=False, image_format="png", height=45, width=67
    )
    assert np.array_equal(np.array(shown), pixels)


def test_ray_data_tokenizes_in_batches(service: Service) -> None:
    import ray.data as ray_data
    from ray.data import ActorPoolStrategy, DataContext

    DataContext.get_current().enable_progress_bars = False
    files = [picture("PNG", 40 + number, 50) for number in range(5)]
    rows = ray_data.from_items([{"place": place, "image": file} for place, file in enumerate(files)])
    made = rows.map_batches(
        TokenizeBatch,
        fn_constructor_args=(service.bundle, SIDE),
        batch_size=2,
        compute=ActorPoolStrategy(size=1),
        num_cpus=0,  # the service has them all
    ).take_all()
    for row in made:
        (frame,) = open_frames(io.BytesIO(files[row["place"]]), None, MediaOptions(size=(SIDE, SIDE)))
        with torch.inference_mode():
            tokens = service.tokenizer.encode(torch.from_numpy(frame.copy())[None, None])[0].numpy()
        assert np.array_equal(row["tokens"], tokens)
        assert row["error"] == ""
    assert sorted(row["place"] for row in made) == list(range(len(files)))
