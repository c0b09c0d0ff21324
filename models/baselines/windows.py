"""Embeddings of many windows of an image by a CLIP, and scores of windows brought back to patches (WinCLIP).

A window's embedding sees the patches of the window alone. For a ViT the patch embedding is computed once and each
window is a short sequence of its own; for a convolutional net, which cannot be cut, it is what pools the image, a
ResNet's attention or the mean, over a region.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from models.base import State
from models.clip.backbone import ClipBackbone, fused_attention
from models.frozen import autocast

Grid = tuple[int, int]


@dataclass(frozen=True)
class WindowFeatures:
    """Of B images, float32.

    `embedding` (B, D) and `windows`, for each side of a window (B, W, D), live in the joint space; `tokens` (B, P, C)
    are the patches of the penultimate feature map, on `token_grid`. `grid` is that of the patches that make windows.
    """

    embedding: Tensor
    windows: tuple[Tensor, ...]
    tokens: Tensor
    grid: Grid
    token_grid: Grid

    def __getitem__(self, images: slice) -> "WindowFeatures":
        """The features of some of the images."""
        windows = tuple(each[images] for each in self.windows)
        return replace(self, embedding=self.embedding[images], windows=windows, tokens=self.tokens[images])

    @staticmethod
    def cat(parts: Sequence["WindowFeatures"]) -> "WindowFeatures":
        """The features of several batches as those of one."""
        windows = tuple(torch.cat(each) for each in zip(*(part.windows for part in parts), strict=True))
        embedding, tokens = (torch.cat([getattr(part, name) for part in parts]) for name in ("embedding", "tokens"))
        return replace(parts[0], embedding=embedding, windows=windows, tokens=tokens)

    def tensors(self, sides: Sequence[int]) -> State:
        """The features by name, those of windows by their side in patches."""
        windows = {f"windows_{side}": each for side, each in zip(sides, self.windows, strict=True)}
        grids = torch.tensor([self.grid, self.token_grid], device=self.tokens.device)
        return {"embedding": self.embedding, "tokens": self.tokens, **windows, "grids": grids}

    @staticmethod
    def of(known: State, sides: Sequence[int]) -> "WindowFeatures":
        """From tensors by name."""
        grid, token_grid = (tuple(each) for each in known["grids"].tolist())
        windows = tuple(known[f"windows_{side}"] for side in sides)
        return WindowFeatures(known["embedding"], windows, known["tokens"], grid, token_grid)


def window_grid(grid: Grid, side: int) -> Grid:
    """How many windows of side x side patches, one patch apart, fit down and across; 1 where the grid is smaller."""
    return max(1, grid[0] - side + 1), max(1, grid[1] - side + 1)


def window_patches(grid: Grid, side: int) -> Tensor:
    """The patches of each window, (W, side * side) numbers counted along the rows of the grid."""
    patches = torch.arange(grid[0] * grid[1]).view(grid)
    windows = patches.unfold(0, min(side, grid[0]), 1).unfold(1, min(side, grid[1]), 1)
    return windows.flatten(2).flatten(0, 1).contiguous()


def harmonic_mean(values: Tensor, dim: int) -> Tensor:
    """Number over the sum of 1 / value along a dimension, for values >= 0; 0 where one is 0."""
    return values.shape[dim] / values.clamp(min=torch.finfo(values.dtype).tiny).reciprocal().sum(dim=dim)


def at_patches(scores: Tensor, patches: Tensor, grid: Grid) -> Tensor:
    """Scores (B, W) >= 0 of windows to (B, h, w): each patch gets the harmonic mean of all windows that hold it."""
    inverse = scores.clamp(min=torch.finfo(scores.dtype).tiny).double().reciprocal()
    held, flat = patches.shape[1], patches.flatten().to(scores.device)
    total = inverse.new_zeros(len(scores), grid[0] * grid[1])
    total.index_add_(1, flat, inverse.repeat_interleave(held, dim=1))
    number = total.new_zeros(grid[0] * grid[1]).index_add_(0, flat, total.new_ones(len(flat)))
    return (number / total).float().unflatten(1, grid)


@torch.no_grad()
def encode_windows(
    backbone: ClipBackbone, images: Tensor, sides: Sequence[int], *, windows_at_once: int = 1024
) -> WindowFeatures:
    """Embeddings of (B, 3, S, S) preprocessed images, of their windows and of their patches."""
    with fused_attention(), autocast(images.device, backbone.precision):
        encode = _by_timm if backbone.is_timm else _by_resnet if backbone.is_convolutional else _by_vit
        return encode(backbone.clip.visual, images, sides, windows_at_once)


def _by_vit(visual: nn.Module, images: Tensor, sides: Sequence[int], at_once: int) -> WindowFeatures:
    patches = visual._embeds(images)  # type: ignore[operator]  # (B, 1 + L, C), the class token first
    grid: Grid = visual.grid_size  # type: ignore[assignment]
    whole, tokens = _pooled(visual, patches)
    windows = []
    for side in sides:
        chosen = 1 + window_patches(grid, side).to(images.device)
        with_class = torch.cat([chosen.new_zeros(len(chosen), 1), chosen], dim=1)
        cut = patches[:, with_class].flatten(0, 1)  # (B * W, 1 + side * side, C)
        pooled = torch.cat([_embedded(visual, part) for part in cut.split(at_once)])
        windows.append(pooled.float().unflatten(0, (len(images), -1)))
    return WindowFeatures(whole.float(), tuple(windows), tokens.float(), grid, grid)


def _pooled(visual: nn.Module, sequence: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 1 + L, C) to embeddings (N, D) and the patches (N, L, C) before the projection."""
    pooled, tokens = visual._pool(visual.transformer(sequence))  # type: ignore[operator]
    return (pooled if visual.proj is None else pooled @ visual.proj), tokens  # type: ignore[operator]


def _embedded(visual: Any, sequence: Tensor) -> Tensor:
    """(N, 1 + L, C) to embeddings (N, D); of the last block only what the class token needs is computed."""
    *blocks, last = visual.transformer.resblocks
    of_class = visual.pool_type == "tok" and visual.attn_pool is None
    if not (of_class and type(last) is ResidualAttentionBlock and visual.transformer.batch_first):
        return _pooled(visual, sequence)[0]
    for block in blocks:
        sequence = block(sequence)
    every = last.ln_1(sequence)
    token = sequence[:, :1] + last.ls_1(last.attention(every[:, :1], every, every))
    token = visual.ln_post(token + last.ls_2(last.mlp(last.ln_2(token))))[:, 0]
    return token if visual.proj is None else token @ visual.proj


def _by_resnet(visual: nn.Module, images: Tensor, sides: Sequence[int], at_once: int) -> WindowFeatures:
    output = visual.forward_intermediates(  # type: ignore[operator]
        images, indices=[1, 2, 3, 4], stop_early=False, intermediates_only=True, output_fmt="NCHW"
    )
    third, last = output["image_intermediates"][2:]
    grid: Grid = (last.shape[2], last.shape[3])
    patches = last.flatten(2).transpose(1, 2)  # (B, P, C)
    windows = []
    for chosen in _regions(grid, sides, images.device):
        cut = patches[:, chosen].flatten(0, 1)
        positions = chosen.repeat(len(images), 1)
        parts = zip(cut.split(at_once), positions.split(at_once), strict=True)
        pooled = torch.cat([attention_pool(visual.attnpool, *part) for part in parts])  # type: ignore[arg-type]
        windows.append(pooled.float().unflatten(0, (len(images), -1)))
    every = torch.arange(patches.shape[1], device=images.device).expand(len(images), -1)
    whole = attention_pool(visual.attnpool, patches, every)  # type: ignore[arg-type]
    tokens = third.flatten(2).transpose(1, 2)
    return WindowFeatures(whole.float(), tuple(windows), tokens.float(), grid, (third.shape[2], third.shape[3]))


def _by_timm(visual: nn.Module, images: Tensor, sides: Sequence[int], at_once: int) -> WindowFeatures:
    last, maps = visual.trunk.forward_intermediates(images)  # type: ignore[operator, union-attr]
    third, patches = maps[3], last.flatten(2).transpose(1, 2)  # (B, P, C)
    grid: Grid = (last.shape[2], last.shape[3])

    def pooled(chosen: Tensor) -> Tensor:
        return visual.head(patches[:, chosen].mean(dim=2)).float()  # type: ignore[operator]

    windows = tuple(pooled(chosen) for chosen in _regions(grid, sides, images.device))
    whole = pooled(torch.arange(patches.shape[1], device=images.device)[None])[:, 0]
    tokens = third.flatten(2).transpose(1, 2).float()
    return WindowFeatures(whole, windows, tokens, grid, (third.shape[2], third.shape[3]))


def _regions(grid: Grid, sides: Sequence[int], device: torch.device) -> Iterator[Tensor]:
    for side in sides:
        yield window_patches(grid, side).to(device)


def attention_pool(pool: nn.Module, patches: Tensor, positions: Tensor) -> Tensor:
    """A ResNet's attention pool over some patches (N, k, C) of its grid, their numbers being (N, k): (N, D)."""
    embedding: Tensor = pool.positional_embedding  # type: ignore[assignment]
    tokens = torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1)
    where = torch.cat([positions.new_zeros(len(positions), 1), positions + 1], dim=1)
    tokens = tokens + embedding[where].to(tokens.dtype)
    query, key, value = (
        getattr(pool, f"{name}_proj")(each).unflatten(2, (pool.num_heads, -1)).transpose(1, 2)
        for name, each in (("q", tokens[:, :1]), ("k", tokens), ("v", tokens))
    )
    mixed = F.scaled_dot_product_attention(query, key, value)  # (N, heads, 1, C / heads)
    return pool.c_proj(mixed.flatten(1))  # type: ignore[operator]
