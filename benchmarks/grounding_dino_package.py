"""The package groundingdino-py beside our GroundingDINO: its own model with our weights, and whether results agree."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from models.saa.generator.base import Proposals
from models.saa.generator.grounding_dino import weights as build
from models.saa.generator.grounding_dino.network import GroundingDino, encode_words

TOLERANCE = 1e-2
"""Of float32: two queries that tie within rounding may change ranks, which moves all others by about 1e-4."""


@contextmanager
def quiet() -> Iterator[None]:
    """The package warns at every pass (checkpointing without gradient, meshgrid)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def package_twin(network: GroundingDino, architecture: build.Architecture, tokenizer: Any) -> nn.Module:
    """The package's own model with the weights of `network`, as its released configuration builds it."""
    import groundingdino.util.get_tokenlizer as files
    from groundingdino.models.GroundingDINO import groundingdino as package
    from groundingdino.models.GroundingDINO.backbone.backbone import Joiner
    from groundingdino.models.GroundingDINO.backbone.position_encoding import PositionEmbeddingSineHW
    from groundingdino.models.GroundingDINO.backbone.swin_transformer import SwinTransformer
    from groundingdino.models.GroundingDINO.transformer import build_transformer
    from transformers import BertConfig, BertModel

    swin = SwinTransformer(
        embed_dim=architecture.embed_dim, depths=list(architecture.depths), num_heads=list(architecture.heads),
        window_size=architecture.window, out_indices=(1, 2, 3), use_checkpoint=True,
    )  # fmt: skip
    backbone = Joiner(swin, PositionEmbeddingSineHW(128, temperatureH=20, temperatureW=20, normalize=True))
    backbone.num_channels = [architecture.embed_dim * 2**stage for stage in (1, 2, 3)]
    settings = build.transformer_settings(architecture)
    settings.use_checkpoint = settings.use_transformer_ckpt = True  # as released
    bert = BertModel(BertConfig(**build.bert_settings(architecture)))
    with (
        mock.patch.object(files, "get_tokenlizer", return_value=tokenizer),
        mock.patch.object(files, "get_pretrained_language_model", return_value=bert),
        mock.patch.object(package, "BertModelWarper", _text_encoder(package)),
    ):
        twin = package.GroundingDINO(
            backbone, build_transformer(settings), num_queries=architecture.queries, iter_update=True, query_dim=4,
            num_feature_levels=4, two_stage_type="standard", two_stage_bbox_embed_share=False,
            two_stage_class_embed_share=False,
        )  # fmt: skip
    missing, foreign = twin.load_state_dict(network.state_dict(), strict=False)
    assert not foreign
    assert all(name.startswith("bert.pooler.") for name in missing)
    return twin.to(network.feat_map.weight).eval()


class TextEncoder(nn.Module):
    """In place of the package's wrapper around BERT, which calls what transformers 5 no longer has."""

    def __init__(self, bert_model: nn.Module):
        super().__init__()
        self.config = bert_model.config
        self.embeddings, self.encoder, self.pooler = bert_model.embeddings, bert_model.encoder, bert_model.pooler

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, **_: Any) -> dict[str, Tensor]:
        return {"last_hidden_state": encode_words(self, input_ids, attention_mask, position_ids)}


def _text_encoder(package: Any) -> type:
    from transformers import BertModel

    return package.BertModelWarper if hasattr(BertModel, "get_head_mask") else TextEncoder


def unlike(ours: Proposals, package: tuple[Tensor, Tensor, Any]) -> tuple[int, int, Tensor]:
    """Boxes without a like one on the other side (box and score within 1e-2, same phrase), of how many, gaps of others.

    Queries whose first guesses tie within rounding may change ranks, and then differ as queries do.
    """
    boxes, scores, phrases = package
    theirs = torch.cat([boxes, scores[:, None]], dim=1).float().cpu()
    mine = torch.cat([ours.boxes, ours.scores[:, None]], dim=1).float().cpu()
    if len(theirs) == 0 or len(mine) == 0:
        return max(len(theirs), len(mine)), max(len(theirs), len(mine)), torch.zeros(0)
    gap = (mine[:, None] - theirs[None]).abs().amax(dim=-1)
    nearest, partner = gap.min(dim=1)
    alike = [bool(near <= TOLERANCE) and ours.phrases[i] == phrases[int(partner[i])] for i, near in enumerate(nearest)]
    alone = (gap.min(dim=0).values > TOLERANCE).sum().item()
    return max(len(alike) - sum(alike), int(alone)), len(theirs), nearest[torch.tensor(alike)]
