"""Reading H&E images region by region, and what can be seen in them without a model."""

from stpredict._images.readers import SlideImage, open_image

__all__ = ["SlideImage", "open_image"]
