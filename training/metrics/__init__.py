"""What is measured of reconstructions beside PSNR and SSIM, which are `model.metrics`."""
