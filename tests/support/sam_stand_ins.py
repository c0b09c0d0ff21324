"""A small Segment Anything of the library's own classes, every tensor of it random, and pictures to show it."""

from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

SIDE, PATCH, CHANNELS = 64, 8, 32


def stir(module: nn.Module, seed: int = 0, amount: float = 0.1) -> None:
    """Add noise to every floating tensor: the library starts its position tables at zero, which would hide them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor += amount * torch.randn(tensor.shape, generator=generator)


def small_sam(seed: int = 0) -> Sam:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sam = Sam(
            ImageEncoderViT(
                img_size=SIDE, patch_size=PATCH, embed_dim=16, depth=2, num_heads=2, out_chans=CHANNELS,
                norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True, window_size=3, global_attn_indexes=(1,),
            ),
            PromptEncoder(
                embed_dim=CHANNELS, image_embedding_size=(SIDE // PATCH, SIDE // PATCH), input_image_size=(SIDE, SIDE),
                mask_in_chans=4,
            ),
            MaskDecoder(
                transformer_dim=CHANNELS,
                transformer=TwoWayTransformer(depth=3, embedding_dim=CHANNELS, num_heads=4, mlp_dim=24),
                iou_head_depth=2, iou_head_hidden_dim=16,
            ),
        )  # fmt: skip
    stir(sam, seed)
    return sam.eval()


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """(3, H, W) uint8: a bright blob on a dim ground, and noise."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    blob = 150 * torch.exp(-8 * ((y - 0.2) ** 2 + (x + 0.1) ** 2))
    noise = 30 * torch.rand(3, height, width, generator=generator)
    return (40 + blob + noise).clamp(0, 255).to(torch.uint8)


def boxes_in(height: int, width: int, count: int, seed: int = 0) -> Tensor:
    """(N, 4) boxes (x0, y0, x1, y1), some of them partly outside."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
    extent = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) / 2
    return torch.cat([corner - extent, corner + extent], dim=1)
