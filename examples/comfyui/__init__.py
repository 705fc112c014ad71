"""Two ComfyUI nodes that encode and decode through a service: images to LATENT, and LATENT to images."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

from service.client import Client

HERE = "http://127.0.0.1:8000"
SERVER = ("STRING", {"default": HERE})
Latent = dict[str, Any]  # "samples" (b, c, h, w), of a clip (1, c, t, h, w), and what decoding needs


def connect(server: str) -> Client:
    """Return a client of a service; the key, where it asks for one, comes from the environment."""
    return Client(server, api_key=os.environ.get("OMNITOK_API_KEY"))


class OmnitokEncode:
    """A node that turns images into latents."""

    CATEGORY = "latent/omnitok"
    FUNCTION = "encode"
    RETURN_TYPES = ("LATENT",)
    DESCRIPTION = "Encode images, or the frames of a clip, with an OmniTokenizer service."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802  ComfyUI's name
        """Return the inputs of the node."""
        return {
            "required": {"images": ("IMAGE",), "server": SERVER},
            "optional": {
                "model": ("STRING", {"default": "", "tooltip": "a bundle's id; the default one if empty"}),
                "as_clip": ("BOOLEAN", {"default": False, "tooltip": "the images are frames of one clip"}),
            },
        }

    def encode(self, images: torch.Tensor, server: str, model: str = "", as_clip: bool = False) -> tuple[Latent]:
        """Encode floats in [0, 1], (b, h, w, 3)."""
        pixels = (images * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
        options = {"model": model} if model else {}
        with connect(server) as client:
            results = client.encode_many([pixels] if as_clip else list(pixels), output="latents", **options)
        for result in results:
            if isinstance(result, Exception):
                raise result
        samples = torch.from_numpy(np.stack([np.moveaxis(result.latents, -1, 0) for result in results]))
        size = [len(pixels) if as_clip else 1, *pixels.shape[1:3]]
        return ({"samples": samples if as_clip else samples[:, :, 0], "bundle": results[0].meta.bundle, "size": size},)


class OmnitokDecode:
    """A node that turns the latents of `OmnitokEncode` into images."""

    CATEGORY = "latent/omnitok"
    FUNCTION = "decode"
    RETURN_TYPES = ("IMAGE",)
    DESCRIPTION = "Decode latents with the OmniTokenizer service that has their bundle."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802  ComfyUI's name
        """Return the inputs of the node."""
        return {"required": {"latent": ("LATENT",), "server": SERVER}}

    def decode(self, latent: Latent, server: str) -> tuple[torch.Tensor]:
        """Decode to floats in [0, 1], (b, h, w, 3); the frames of a clip become images."""
        samples = latent["samples"].float().cpu()
        clips = samples if samples.dim() == 5 else samples.unsqueeze(2)
        frames, height, width = latent["size"]
        with connect(server) as client:
            pixels = [
                client.decode(
                    clip.movedim(0, -1).numpy(), bundle=latent["bundle"], frames=frames, height=height, width=width
                )
                for clip in clips
            ]
        return (torch.from_numpy(np.concatenate(pixels)).float() / 255,)


NODE_CLASS_MAPPINGS: dict[str, type] = {"OmnitokEncode": OmnitokEncode, "OmnitokDecode": OmnitokDecode}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {"OmnitokEncode": "Omnitok encode", "OmnitokDecode": "Omnitok decode"}
