"""AsynDM: asynchronous denoising, every pixel with its own timestep (arXiv 2510.04504)."""

__version__ = "0.1.0"
