"""The losses of progressive training (section 3.1.2): functions of tensors, none of which waits for the device."""

from training.losses.adversarial import feature_matching, hinge_discriminator, hinge_generator
from training.losses.gaussian import gaussian_kl
from training.losses.quantization import quantization, straight_through
from training.losses.reconstruction import reconstruction

__all__ = [
    "feature_matching",
    "gaussian_kl",
    "hinge_discriminator",
    "hinge_generator",
    "quantization",
    "reconstruction",
    "straight_through",
]
