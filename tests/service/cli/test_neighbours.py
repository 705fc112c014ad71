"""The interfaces of neighbours against a service with real networks: all show the pixels of its own client."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.utils.remote_utils import remote_decode, remote_encode
from PIL import Image

from model.autoencoder import AutoencoderKLOmniTokenizer
from service.client import Client, ServiceError

NODES = Path(__file__).parents[3] / "examples/comfyui/__init__.py"


@pytest.fixture(scope="module")
def nodes() -> ModuleType:
    """The node pack, loaded as ComfyUI loads it: by its path, under a name of its own."""
    spec = importlib.util.spec_from_file_location("custom_nodes.omnitok", NODES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def node(nodes: ModuleType, name: str, **inputs: Any) -> Any:
    """Run a node as ComfyUI does, with inputs that it declares, and return its only output."""
    kind = nodes.NODE_CLASS_MAPPINGS[name]
    declared = kind.INPUT_TYPES()
    assert set(declared["required"]) <= set(inputs) <= {*declared["required"], *declared.get("optional", ())}
    [output] = getattr(kind(), kind.FUNCTION)(**inputs)
    assert len(kind.RETURN_TYPES) == 1
    return output


@pytest.fixture
def pixels(media: Path) -> np.ndarray:
    return np.load(media / "clip.npy")[:5]


def test_diffusers_and_the_local_class_agree_with_the_client(server: str, bundles: Path, media: Path) -> None:
    image = Image.open(media / "picture.png")  # 35 x 50, which fills no whole patches
    with Client(server) as client:
        result = client.encode(image, model="vae")
        shown = client.decode(result)[0]
    latents = remote_encode(f"{server}/vae/encode", image)
    assert np.array_equal(latents[0].permute(1, 2, 0).numpy(), result.latents[0])
    options = {"do_scaling": False, "height": 35, "width": 50}
    remote = remote_decode(f"{server}/vae/decode", latents, image_format="png", **options)
    assert np.array_equal(np.array(remote), shown)

    vae = AutoencoderKLOmniTokenizer.from_pretrained(bundles / "vae")
    signed = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        local = vae.encode(signed).latent_dist.mode()
        sample = vae.decode(latents / vae.config.scaling_factor).sample
    torch.testing.assert_close(local, latents, atol=1e-5, rtol=1e-4)
    frame = ((sample[0, :, :35, :50] / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    assert np.array_equal(frame.permute(1, 2, 0).numpy(), shown)


@pytest.mark.parametrize("model", ["", "vae"])
@pytest.mark.parametrize("as_clip", [False, True])
def test_comfyui_nodes_show_what_the_client_shows(
    nodes: ModuleType, server: str, pixels: np.ndarray, model: str, as_clip: bool
) -> None:
    images = torch.from_numpy(pixels) / 255
    latent = node(nodes, "OmnitokEncode", images=images, server=server, model=model, as_clip=as_clip)
    assert latent["samples"].shape[0] == (1 if as_clip else 5)
    back = node(nodes, "OmnitokDecode", latent=latent, server=server)
    assert back.shape == images.shape
    options = {"model": model} if model else {}
    with Client(server) as client:
        parts = [pixels] if as_clip else list(pixels)
        shown = np.concatenate([client.decode(client.encode(part, **options)) for part in parts])
    assert np.array_equal((back * 255).round().to(torch.uint8).numpy(), shown)


def test_comfyui_shows_the_refusal_of_the_service(nodes: ModuleType, server: str) -> None:
    with pytest.raises(ServiceError, match="The models here are"):
        node(nodes, "OmnitokEncode", images=torch.zeros(1, 8, 8, 3), server=server, model="none")
