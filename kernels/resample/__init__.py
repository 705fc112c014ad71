"""Resampling of pictures of many sizes along one axis, in whole numbers (`media.taps`); for inference."""

from kernels.resample import op, reference
from kernels.runtime.dispatch import Operator

resample = Operator("resample", reference.ResampleArgs, reference.resample, triton=op.RESAMPLE)

__all__ = ["resample"]
