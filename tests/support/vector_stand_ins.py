"""A `VectorAdapter` of random vectors on small encoders."""

from typing import Any

from models.features import PatchBackbone
from models.vector_adapter.checkpoint import embedding_width
from models.vector_adapter.model import VectorAdapter
from models.vector_adapter.vectors import ClassVectors, random_vectors
from tests.support.clip_stand_ins import small_backbone


def vectors_for(backbone: PatchBackbone, seed: int = 0) -> ClassVectors:
    return random_vectors(backbone.stage_widths, embedding_width(backbone), seed)


def small_vector_adapter(backbone: PatchBackbone | None = None, **options: Any) -> VectorAdapter:
    backbone = backbone or small_backbone("vit")
    return VectorAdapter(backbone, vectors_for(backbone), **options)
