"""Evaluation of tokenizers: PSNR, SSIM, set metrics, sweeps over resolution and length, reports."""
