"""Preprocessing and data sets: text, images, video with sound."""

from .bytes import ByteTokenizer, TextBatch
from .collation import pad
from .image_processor import ImageProcessor

__all__ = ["ByteTokenizer", "ImageProcessor", "TextBatch", "pad"]
